"""The augmentation's kernels compile for every target that the installed Triton knows; no GPU is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "kernels"))
from test_compile_targets import TARGETS, build

IMAGES = ("image", "new_image", "out", "extremes")
SHORTS = ("label", "new_label")
INDICES = ("samples", "rows", "from0", "from1", "from2", "sources", "taken", "first", "taken0", "taken1", "taken2")
NUMBERS = ("matrix", "shift", "drawn", "kernels", "weights")
FLOATS = ("padding", "small")


def variants():
    from umamba.datamodules.augmentation.device.kernels import rows, volumes

    spline = {"POLE": -0.27, "REACH": 14}
    for flag in (False, True):
        yield volumes.spline_filter, spline | {"SHORT": flag}, 4
        yield rows.blur, {"FIRST": flag, "LAST": not flag}, 4
    for dims in (2, 3):
        absent = {"from0": None, "taken0": None} if dims == 2 else {}
        yield volumes.mirror, {"D": dims} | absent, 4
        yield rows.taken_extremes, {"D": dims, "ALL0": dims == 2} | absent, 4
        for order in (1, 3):
            yield volumes.turn, {"D": dims, "ORDER": order, "BLOCK": volumes.TURNED}, 4
    for order in (1, 3):
        yield rows.sample_up, spline | {"ORDER": order, "FIRST": True, "LAST": True, "PARTS": 32}, 4
    for kind in range(4):
        yield rows.factors, {"KIND": kind, "BLOCK": rows.WHOLE}, 16
    yield volumes.settle, {}, 4


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
def test_compiles(capability):
    pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")
    for kernel, constants, warps in variants():
        types = dict.fromkeys(IMAGES, "*fp32") | dict.fromkeys(SHORTS, "*i16") | dict.fromkeys(INDICES, "*i64")
        types |= dict.fromkeys(NUMBERS, "*fp64") | dict.fromkeys(FLOATS, "fp32")
        fixed = {"BLOCK": 1024} | constants
        named = {name: value for name, value in fixed.items() if name in kernel.arg_names}
        build(kernel, {n: t for n, t in types.items() if n in kernel.arg_names}, named, (), capability, warps)
