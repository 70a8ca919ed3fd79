"""A topology of three stages that is flat at first, as the networks' tests take it."""

from __future__ import annotations

from typing import Any

TOPOLOGY: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "features_per_stage": (8, 16, 32),
    "kernel_sizes": ((1, 3, 3), 3, 3),
    "strides": (1, (1, 2, 2), 2),
    "patch_size": (8, 16, 16),
}
