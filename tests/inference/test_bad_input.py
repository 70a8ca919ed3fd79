"""A folder of odd files: what is an image is segmented on its own grid, what is none is named."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.inference.small import make_plan, save_checkpoint
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor

NAN = float("nan")
Patch = tuple[int, str, list]  # offset, form and values in a header of NIfTI-1

SOUND: dict[str, tuple[tuple[int, ...], list[Patch]]] = {
    "plain": ((9, 10, 11), []),
    "smaller_than_the_patch": ((3, 2, 5), []),
    "one_slice": ((1, 12, 11), []),
    "one_column": ((12, 11, 1), []),
    "one_voxel": ((1, 1, 1), []),
    "no_orientation": ((9, 10, 11), [(252, "2h", [0, 0])]),
    "unknown_orientation": ((9, 10, 11), [(252, "2h", [99, 99])]),
    "nan_sform": ((9, 10, 11), [(252, "2h", [0, 1]), (280, "12f", [NAN] * 12)]),
    "mirrored": ((9, 10, 11), [(252, "2h", [0, 1]), (280, "12f", [-1, 0, 0, 5, 0, 1, 0, 0, 0, 0, 1, 0])]),
    "a_fourth_axis_of_one": ((9, 10, 11), [(40, "8h", [4, 11, 10, 9, 1, 1, 1, 1])]),
}
BAD: dict[str, tuple[list[Patch], str]] = {
    "sheared": ([(252, "2h", [0, 1]), (280, "12f", [1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])], "right angles"),
    "four_axes": ([(40, "8h", [4, 11, 5, 9, 2, 1, 1, 1])], "has 4 dimensions.*Split a 4D file"),
    "one_axis": ([(40, "8h", [1, 990, 1, 1, 1, 1, 1, 1])], "has 1 dimensions"),
    "huge": ([(40, "8h", [3, 32767, 32767, 32767, 1, 1, 1, 1])], "declares 32767 x 32767 x 32767 voxels.*memory"),
    "negative": ([(40, "8h", [3, -11, 10, 9, 1, 1, 1, 1])], "cannot be read"),
    "more_than_there_is": ([(40, "8h", [3, 11, 10, 90, 1, 1, 1, 1])], "cut off"),
    "no_such_type": ([(70, "2h", [999, 16])], "cannot be read"),
    "voxels_of_nothing": ([(76, "8f", [1, 0, 1, 1, 1, 1, 1, 1])], "voxel size .0.0, 1.0, 1.0"),
    "voxels_of_fifteen_micrometres": (
        [(76, "8f", [1, 0.015, 0.015, 0.015, 1, 1, 1, 1]), (252, "2h", [0, 0])],
        "less than a 50th of",
    ),
    "slices_of_a_micrometre": (
        [(76, "8f", [1, 1, 1, 1e-3, 1, 1, 1, 1]), (252, "2h", [0, 0])],
        "100 times as long or as short",
    ),
    "voxels_of_a_kilometre": ([(76, "8f", [1, 1e6, 1, 1, 1, 1, 1, 1]), (252, "2h", [0, 0])], "its header is wrong"),
    "a_scale_beyond_float32": ([(112, "2f", [1e38, 0])], "too large for float32"),
    "voxels_behind_the_end": ([(108, "f", [1e9])], "cut off"),
}


def put(path: Path, shape: tuple[int, ...], patches: list[Patch]) -> None:
    """A volume of noise whose header was changed by hand."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(1, 100, shape).astype(np.int16))
    plain = path.with_name("scratch.nii")
    sitk.WriteImage(image, plain)
    content = bytearray(plain.read_bytes())
    plain.unlink()
    for offset, form, values in patches:
        struct.pack_into(f"<{form}", content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_odd_images_are_segmented_and_others_are_named(tmp_path: Path, ending: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, (shape, patches) in SOUND.items():
        put(images / f"{name}{ending}", shape, patches)
    for name, (patches, _) in BAD.items():
        put(images / f"{name}{ending}", (9, 10, 11), patches)
    plan = make_plan(classes=3, ending=ending)
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", plan), "cpu")
    with pytest.raises(CasesFailedError) as caught:
        predictor.segment_files(images, out)
    assert set(caught.value.failures) == set(BAD)
    for name, (_, message) in BAD.items():
        assert re.search(message, caught.value.failures[name]), caught.value.failures[name]
    assert {path.name for path in caught.value.written} == {f"{name}{ending}" for name in SOUND}
    for path in caught.value.written:
        image, label = sitk.ReadImage(images / path.name), sitk.ReadImage(path)
        dimension = label.GetDimension()
        assert label.GetSize() == image.GetSize()[:dimension]
        np.testing.assert_allclose(label.GetSpacing(), image.GetSpacing()[:dimension], rtol=1e-6)
        np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin()[:dimension], atol=1e-5)
