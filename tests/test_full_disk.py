"""On a full disk every writer says so and names its file, and nothing of it stays."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO
from umamba.datamodules.doctor.repair import repair_label
from umamba.datamodules.prepare.phantom import prepare
from umamba.datamodules.prepare.volumes import copy_file
from umamba.files import atomic_file, write_text
from umamba.planning.preprocess import CaseProperties, PreprocessedCase
from umamba.planning.store import write_case
from umamba.raw.dataset import RawCase
from umamba.raw.pictures import write_picture
from umamba.raw.readers import Geometry, write_label
from umamba.raw.volume_files import write_volume

NOISE = np.random.default_rng(0).integers(0, 255, (40, 80, 80)).astype(np.uint8)  # 250 KiB that no codec makes small
GEOMETRY = Geometry(
    spacing=(1.0,) * 3, origin=(0.0,) * 3, direction=tuple(np.eye(3).ravel()), shape=NOISE.shape, dimension=3
)


def in_numpy(path: Path) -> None:
    with atomic_file(path) as beside:
        np.save(beside, NOISE)


def in_torch(path: Path) -> None:
    with atomic_file(path) as beside:
        torch.save({"noise": torch.from_numpy(NOISE)}, beside)


def copied(path: Path) -> None:
    source = path.parent.parent / "source.bin"
    source.write_bytes(NOISE.tobytes())
    copy_file(source, path)


def figure(path: Path) -> None:
    drawing = plt.figure()
    plt.imshow(np.concatenate(list(NOISE)))
    with atomic_file(path) as beside:
        drawing.savefig(beside, dpi=300)
    plt.close(drawing)


WRITERS: list[tuple[str, Callable[[Path], object]]] = [
    *[(f"label{ending}", lambda path: write_label(NOISE, path, GEOMETRY))
      for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".gipl", ".tif")],
    ("a.npy", in_numpy),
    ("a.ckpt", in_torch),
    ("last.ckpt", lambda path: AtomicCheckpointIO().save_checkpoint({"noise": torch.from_numpy(NOISE)}, path)),
    ("copy.bin", copied),
    ("table.csv", lambda path: write_text("1,2,3\n" * 100_000, path)),
    ("figure.png", figure),
    ("picture.png", lambda path: write_picture(np.concatenate(list(NOISE)), path)),
    ("picture.bmp", lambda path: write_picture(np.concatenate(list(NOISE)), path)),
    ("instances.tif", lambda path: write_picture(np.concatenate(list(NOISE)).astype(np.int32), path)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_a_full_disk_is_said_with_the_name_and_leaves_nothing(small_disk: Path, name: str, write) -> None:
    with pytest.raises(OSError, match=name) as caught:
        write(small_disk / name)
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []


def test_the_file_that_was_there_stays(small_disk: Path) -> None:
    path = small_disk / "label.nii.gz"
    write_label(np.zeros_like(NOISE), path, GEOMETRY)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        write_label(NOISE, path, GEOMETRY)
    assert path.read_bytes() == before and [p.name for p in small_disk.iterdir()] == [path.name]


def test_a_stored_case_is_whole_or_absent(small_disk: Path) -> None:
    properties = CaseProperties(
        geometry=GEOMETRY, shape_before_crop=NOISE.shape, box=tuple((0, n) for n in NOISE.shape), shape=NOISE.shape
    )
    case = PreprocessedCase(data=NOISE[None].astype(np.float32), label=NOISE.astype(np.int16), properties=properties)
    with pytest.raises(OSError, match="No space left"):
        write_case(small_disk, "case", case, None, (16, 16, 16), "key")
    assert list(small_disk.iterdir()) == []


def test_a_raw_data_set_does_not_become_complete(small_disk: Path) -> None:
    with pytest.raises(OSError, match="phantom_.*No space left|No space left.*phantom_") as caught:
        prepare(None, small_disk / "Dataset900_Phantom", num_training=4, num_test=1)
    assert caught.value.errno == errno.ENOSPC
    assert not (small_disk / "Dataset900_Phantom").exists()
    for path in small_disk.rglob("*.nii.gz"):
        sitk.ReadImage(path)
        assert not path.name.startswith(".")


def test_a_repair_keeps_the_label_it_could_not_replace(small_disk: Path, tmp_path: Path) -> None:
    image, label = tmp_path / "case_0000.nii.gz", small_disk / "case.nii.gz"
    noise = sitk.GetImageFromArray(NOISE[:7])
    write_volume(noise, label)
    noise.SetOrigin((1.0, 2.0, 3.0))
    write_volume(noise, image)
    before = label.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        repair_label(RawCase(identifier="case", images=(image,), label=label), "copy_header")
    assert label.read_bytes() == before


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".gipl"])
def test_every_format_is_read_back_as_it_was_and_lies_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "in a [folder] ä" / f"label{ending}"
    write_label(NOISE, path, GEOMETRY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), NOISE)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
