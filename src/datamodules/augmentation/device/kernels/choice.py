"""Whether the augmentation's Triton kernels run on a device."""

from __future__ import annotations

import functools
import logging

import torch

log = logging.getLogger(__name__)

MOST_VOXELS = 2**31 - 2**16  # of a tensor: the kernels count them in int32
MOST_CHANNELS = 31  # that a set of bits can name


def kernels_usable(device: torch.device, kind: str, variants: frozenset[tuple]) -> bool:
    """Whether a device is a CUDA one on which the kernels have passed their check, which is made and said once.

    Args:
        device: Of the batches.
        kind: Of the patch, see `umamba.datamodules.augmentation.device.kernels.check.PATCHES`.
        variants: Of the stages: others' kernels are neither compiled nor checked.
    """
    return device.type == "cuda" and _passed(device, kind, variants)


@functools.cache
def _passed(device: torch.device, kind: str, variants: frozenset[tuple]) -> bool:
    from umamba.models.mamba.scan.selfcheck import check

    def errors_of(device: torch.device) -> dict[str, float]:
        from umamba.datamodules.augmentation.device.kernels.check import relative_errors  # imports Triton

        return relative_errors(device, kind, variants)

    fault = check(device, errors_of)
    if fault:
        log.warning("The augmentation falls back to torch's own operations, which take longer: %s.", fault)
    return not fault
