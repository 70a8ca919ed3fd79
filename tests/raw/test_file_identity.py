"""A file is known again by its stamp, or by its content; what lies beside it and belongs to it counts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.raw.file_identity import are_same, file_content, file_stamp, fingerprint, identity_of, parts_of, voxel_file


def detached(folder: Path, name: str = "a", value: int = 0) -> Path:
    """A header and its voxels in a file beside it."""
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), value, np.int16)), str(folder / f"{name}.mhd"))
    return folder / f"{name}.mhd"


def written_over(path: Path, content: bytes) -> None:
    """Keeping size, if that is the same, and time."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_copy_is_the_same_and_another_content_is_not(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.nii", tmp_path / "b.nii"
    path.write_bytes(b"abc")
    known = identity_of(path)
    shutil.copy2(path, copy)
    assert file_stamp(copy) != known["stamp"] and are_same([copy], [known])
    assert not are_same([copy], [{"stamp": known["stamp"]}]) and are_same([path], [{"stamp": known["stamp"]}])
    written_over(path, b"abd")
    assert file_stamp(path)[:2] == known["stamp"][:2] and not are_same([path], [known])
    assert not are_same([path], []) and not are_same([tmp_path / "absent"], [known])


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_voxels_beside_the_header_belong_to_it(tmp_path: Path, ending: str) -> None:
    path = detached(tmp_path / "a")
    voxels = path.with_suffix(".raw")
    if ending == ".nhdr":  # the same header under the ending that is read
        sitk.WriteImage(sitk.ReadImage(path), str(tmp_path / "b.nhdr"))
        path, voxels = (tmp_path / "b.nhdr").rename(tmp_path / "b.nrrd"), tmp_path / "b.raw"
    assert parts_of(path) == [path, voxels] and voxel_file(path) == voxels
    assert sitk.GetArrayFromImage(sitk.ReadImage(path)).max() == 0
    known, mark = identity_of(path), fingerprint(path)
    written_over(voxels, np.ones((3, 4, 5), np.int16).tobytes())
    assert sitk.GetArrayFromImage(sitk.ReadImage(path)).max() == 1
    assert file_stamp(path) != known["stamp"] and file_content(path) != known["content"] and fingerprint(path) != mark


def test_a_volume_in_one_file_has_one_part(tmp_path: Path) -> None:
    for name in ("a.mha", "a.nrrd", "a.nii.gz"):
        sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / name))
        assert parts_of(tmp_path / name) == [tmp_path / name]
        assert len(file_stamp(tmp_path / name)) == 4


@pytest.mark.parametrize("name", ["scan.json", "scan_0000.json"])
def test_the_spacing_of_a_stack_belongs_to_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scan_0000.tif"
    path.write_bytes(b"II")
    alone = identity_of(path)
    (tmp_path / name).write_text(json.dumps({"spacing": [3, 1, 1]}))
    known = identity_of(path)
    assert not are_same([path], [alone]) and parts_of(path) == [path, tmp_path / name]
    written_over(tmp_path / name, json.dumps({"spacing": [5, 1, 1]}).encode())
    assert not are_same([path], [known])
