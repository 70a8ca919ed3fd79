"""The augmentation's kernels in Triton's interpreter: `TRITON_INTERPRET=1 pytest` of this file.

Triton reads the variable when it is imported, so `test_device_kernels.py` runs these in a process of their own.
"""

from __future__ import annotations

import os

import pytest
from test_device_transforms import CPU, MAKERS, SHAPES, compare

from umamba.datamodules.augmentation.device import chain

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set; test_device_kernels.py sets it", allow_module_level=True)
pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    from umamba.datamodules.augmentation.device.kernels import volumes

    monkeypatch.setattr(chain, "kernels_usable", lambda *_: True)
    monkeypatch.setattr(volumes, "TURNED", 4096)  # fewer programs: the interpreter's time


@pytest.mark.parametrize("shape", ["3D", "anisotropic", "one slice, four channels", "2D, three channels"])
@pytest.mark.parametrize("name", MAKERS)
def test_equals_the_transform(name: str, shape: str) -> None:
    patch, channels = SHAPES[shape]
    compare(MAKERS[name](patch), patch, channels, CPU)
