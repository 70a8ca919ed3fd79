"""The settings that networks are timed in: the plans of the paper's five (Table 2), and one small data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A plan's part of a network, and its batch.

    Attributes:
        channels: Of an image.
        labels: Background included.
        patch: In voxels, 2 or 3 axes.
        batch: Patches per step.
        topology: features_per_stage, kernel_sizes and strides as a network's constructor takes them.
    """

    channels: int
    labels: int
    patch: tuple[int, ...]
    batch: int
    topology: dict[str, Any]

    def stage_strides(self) -> list[tuple[int, ...]]:
        """The strides of every stage, one for each axis."""
        strides = self.topology["strides"]
        return [stride if isinstance(stride, tuple) else (stride,) * len(self.patch) for stride in strides]


FLAT = {  # planned for thick slices
    "kernel_sizes": ((1, 3, 3),) + (3,) * 5,
    "strides": (1, (1, 2, 2), 2, 2, 2, (1, 2, 2)),
    "features_per_stage": (32, 64, 128, 256, 320, 320),
}


def deep(stages: int, largest: int) -> dict[str, Any]:
    """Kernels of 3 and strides of 2 everywhere."""
    features = tuple(min(32 * 2**stage, largest) for stage in range(stages))
    return {"kernel_sizes": (3,) * stages, "strides": (1, *(2,) * (stages - 1)), "features_per_stage": features}


PAPER = {
    "ct_3d": Setting(channels=1, labels=14, patch=(40, 224, 192), batch=2, topology=FLAT),
    "mr_3d": Setting(channels=1, labels=14, patch=(48, 160, 224), batch=2, topology=FLAT),
    "mr_2d": Setting(channels=1, labels=14, patch=(320, 320), batch=30, topology=deep(7, 512)),
    "endoscopy": Setting(channels=3, labels=8, patch=(384, 640), batch=13, topology=deep(7, 512)),
    "cells": Setting(channels=3, labels=3, patch=(512, 512), batch=12, topology=deep(8, 512)),
}
HIPPOCAMPUS = Setting(channels=1, labels=3, patch=(40, 56, 40), batch=7, topology=deep(4, 320))
