"""Images from strangers: absurd headers, bombs, cut files, NaN. Named, not written, not taken into memory."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from compare import all_whole
from harness import Command, in_words

MEMORY_GIB = 3.0  # the command itself with torch takes less than one


def nifti(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    sitk.WriteImage(image, str(path))


def header(shape: tuple[int, int, int], datatype: int = 16, bits: int = 32) -> bytes:
    """A NIfTI-1 header of 352 bytes for a (X, Y, Z) volume."""
    content = bytearray(352)
    struct.pack_into("<i", content, 0, 348)
    struct.pack_into("<8h", content, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", content, 70, datatype, bits)
    struct.pack_into("<8f", content, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", content, 108, 352.0)
    content[344:348] = b"n+1\0"
    return bytes(content)


def zeros_gz(start: bytes, size: int) -> bytes:
    """A gzip file of `start` and `size` zeros, made of many small members."""
    step = 64 * 2**20
    return gzip.compress(start) + gzip.compress(b"\0" * step) * (size // step)


def normal(path: Path) -> None:
    noise = np.random.default_rng(zlib.crc32(path.name.encode()))  # no two cases are the same image
    nifti(path, noise.normal(0, 100, (16, 40, 40)).astype(np.float32), (4.0, 4.0, 8.0))


def promised_too_much(path: Path) -> None:
    path.write_bytes(gzip.compress(header((32000, 32000, 32000))))


def negative_size(path: Path) -> None:
    path.write_bytes(gzip.compress(header((-4, 8, 8)) + b"\0" * 4096))


def bomb(path: Path) -> None:
    path.write_bytes(zeros_gz(header((2048, 2048, 1024)), 16 * 2**30))


def tail_bomb(path: Path) -> None:
    """A small volume with 16 GiB of zeros behind it."""
    path.write_bytes(zeros_gz(header((8, 8, 8)) + b"\0" * 2048, 16 * 2**30))


def thick(path: Path) -> None:
    nifti(path, np.ones((40, 40, 40), np.float32), (900.0, 900.0, 900.0))


def four_dimensions(path: Path) -> None:
    nifti(path, np.ones((3, 8, 40, 40), np.float32), (4.0, 4.0, 8.0, 1.0))


def cut(path: Path) -> None:
    normal(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def header_only(path: Path) -> None:
    normal(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:352]))


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("<html>404</html>")


def nan(path: Path) -> None:
    array = np.ones((16, 40, 40), np.float32)
    array[3, 4, 5] = np.nan
    nifti(path, array, (4.0, 4.0, 8.0))


def infinite(path: Path) -> None:
    array = np.ones((16, 40, 40), np.float32)
    array[3, 4, 5] = -np.inf
    nifti(path, array, (4.0, 4.0, 8.0))


HOSTILE: tuple[Callable[[Path], None], ...] = (
    promised_too_much, negative_size, bomb, thick, four_dimensions, cut, header_only, empty, text, nan,
    infinite,
)  # fmt: skip
each = pytest.mark.parametrize(
    "make", [pytest.param(make, id=make.__name__, marks=pytest.mark.slow) for make in HOSTILE]
)


def refused(command: Command, name: str) -> None:
    """The command ends with an error that names the case, in bounded memory."""
    code = command.wait()
    assert code not in (0, None), command.output[-3000:]
    assert name in command.output, f"the message does not name the file:\n{command.output[-3000:]}"
    in_words(command.output)
    assert command.peak_gib < MEMORY_GIB, f"took {command.peak_gib:.1f} GiB"
    command.must_leave_nothing()


def test_prediction_names_all_and_goes_on(trained: Path, tmp_path: Path) -> None:
    """One folder with every hostile image between two sound ones: those are segmented, nothing else is written."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for make in (*HOSTILE, tail_bomb, normal):
        make(images / f"{make.__name__}_0000.nii.gz")
    shutil.copy(images / "normal_0000.nii.gz", images / "a_sound_one_0000.nii.gz")
    line = ("predict.py", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"input={images}", f"output={out}")
    with Command(*line, folder=tmp_path) as command:
        refused(command, "promised_too_much")
    for make in HOSTILE:
        assert make.__name__ in command.output, f"{make.__name__} is not named:\n{command.output[-5000:]}"
    written = {path.name for path in out.glob("*.nii.gz")}
    assert written - {"tail_bomb.nii.gz"} == {"a_sound_one.nii.gz", "normal.nii.gz"}  # its first 2 KiB are an image
    all_whole(out)


def dataset(folder: Path, make: Callable[[Path], None]) -> Path:
    """A raw data set of six sound cases and a hostile one, with labels."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index in range(6):
        normal(folder / "imagesTr" / f"sound_{index}x_0000.nii.gz")
    make(folder / "imagesTr" / "hostile_0000.nii.gz")
    label = np.zeros((16, 40, 40), np.uint8)
    label[4:12, 10:30, 10:30] = 1
    for image in (folder / "imagesTr").iterdir():
        path = folder / "labelsTr" / image.name.replace("_0000", "")
        if "hostile" in image.name and make in (promised_too_much, negative_size, bomb, thick):
            shutil.copy(image, path)  # fits its image: nothing else is wrong with the case
        else:
            nifti(path, label, (4.0, 4.0, 8.0))
    description = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 7,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@each
def test_a_training_case(tmp_path: Path, make: Callable[[Path], None]) -> None:
    raw = dataset(tmp_path / "Dataset800_Hostile", make)
    line = ("-m", "umamba.planning", "data=custom", f"data.dataset_dir={raw}", "preprocess=3d_fullres", "workers=1")
    with Command(*line, folder=tmp_path) as command:
        refused(command, "hostile")
    # A case whose spacing alone is absurd is found when it is resampled to the plan's: the plan itself is sound
    assert make is thick or not (tmp_path / "data" / "prepared" / raw.name / "plan.json").exists()


@each
def test_the_doctor(tmp_path: Path, make: Callable[[Path], None]) -> None:
    raw = dataset(tmp_path / "Dataset800_Hostile", make)
    line = ("-m", "umamba.datamodules.doctor", "data=custom", f"data.dataset_dir={raw}", "data.num_workers=0")
    with Command(*line, folder=tmp_path) as command:
        refused(command, "hostile")
