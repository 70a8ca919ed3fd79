"""U-Mamba and its benchmark: self-configured Mamba-based segmentation of medical images.

The names below are imported when they are first used: networks, layer and scan need torch alone, `Predictor` the rest.
Imported before torch, the package makes OpenMP's threads wait without spinning.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umamba.inference.predictor import Predictor
    from umamba.models.mamba.block import Mamba
    from umamba.models.mamba.scan.selective_scan import selective_scan
    from umamba.models.umamba import UMamba
    from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

# A thread of libgomp (torch on Linux) or of Intel OpenMP that waits for another spins on its core. Beside any other
# process the one it waits for has no core to run on, and a step takes up to ten times as long. Both read this when
# torch is imported. See docs/benchmarks/busy_neighbour.md.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

__all__ = ["Mamba", "PlainConvUNet", "Predictor", "ResidualEncoderUNet", "UMamba", "selective_scan"]

_DEFINED_IN = {
    "Mamba": "umamba.models.mamba.block",
    "PlainConvUNet": "umamba.models.unet",
    "Predictor": "umamba.inference.predictor",
    "ResidualEncoderUNet": "umamba.models.unet",
    "UMamba": "umamba.models.umamba",
    "selective_scan": "umamba.models.mamba.scan.selective_scan",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
