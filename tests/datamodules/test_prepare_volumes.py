"""Preparers of volumes on miniature copies of the owners' structures: Decathlon, FLARE 2022, AMOS 2022."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.datamodules.archives import zip_each
from tests.miniatures import run
from umamba.datamodules.prepare import amos, decathlon, flare
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError

SHAPE = (3, 4, 5)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (0.8, 0.8, 2.5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, path)
    return path


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def labels_up_to(highest: int) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)) % (highest + 1)).reshape(SHAPE).astype(np.uint8)


# ---- Medical Segmentation Decathlon


@pytest.fixture
def hippocampus(tmp_path: Path) -> Path:
    """Task04 as distributed: no channel suffix, macOS files among the data, labels keyed by number."""
    root = tmp_path / "msd" / "Task04_Hippocampus"
    for number in (1, 3):
        write(root / "imagesTr" / f"hippocampus_{number:03d}.nii.gz", scan(number))
        write(root / "labelsTr" / f"hippocampus_{number:03d}.nii.gz", labels_up_to(2))
        (root / "imagesTr" / f"._hippocampus_{number:03d}.nii.gz").write_bytes(b"mac")
    write(root / "imagesTs" / "hippocampus_002.nii.gz", scan(2))
    (root / "._dataset.json").write_bytes(b"mac")
    meta = {
        "name": "Hippocampus",
        "licence": "CC-BY-SA 4.0",
        "release": "1.0 04/05/2018",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 2,
        "numTest": 1,
        "training": [{"image": "./imagesTr/hippocampus_001.nii.gz", "label": "./labelsTr/hippocampus_001.nii.gz"}],
        "test": ["./imagesTs/hippocampus_002.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


@pytest.mark.parametrize("form", ["archive", "folder of the archive", "folder", "the folder above"])
def test_decathlon_from_every_form(hippocampus: Path, tmp_path: Path, form: str) -> None:
    source = {"folder": hippocampus, "the folder above": hippocampus.parent}.get(form)
    if source is None:
        (tmp_path / "downloads").mkdir()
        with tarfile.open(tmp_path / "downloads" / "Task04_Hippocampus.tar", "w") as archive:
            archive.add(hippocampus, "Task04_Hippocampus")
        source = tmp_path / "downloads"
        if form == "archive":
            source = source / "Task04_Hippocampus.tar"
    target = decathlon.prepare(source, tmp_path / "raw" / "Dataset004_Hippocampus")
    raw = RawDataset.open(target)
    assert [case.identifier for case in raw.training_cases] == ["hippocampus_001", "hippocampus_003"]
    assert [case.label for case in raw.test_cases] == [None]
    assert raw.channel_names == ("MRI",) and raw.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    original = hippocampus / "imagesTr" / "hippocampus_003.nii.gz"
    assert raw.training_cases[1].images[0].read_bytes() == original.read_bytes()
    meta = json.loads((target / "dataset.json").read_text())
    assert meta["licence"] == "CC-BY-SA 4.0" and meta["provenance"]["release"] == "1.0 04/05/2018"
    assert sorted(path.name for path in target.iterdir()) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr"]


def test_a_decathlon_task_is_not_made_in_its_own_place(hippocampus: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Decathlon.*source=FOLDER data\.dataset_dir=NEW converts a task"):
        RawDataset.open(hippocampus)
    command = ("src/datamodules/prepare/__main__.py", "data=decathlon", f"data.decathlon_task={hippocampus.name}")
    options = (*command, f"paths.raw={hippocampus.parent}", f"source={hippocampus}")
    said = run(*options, folder=tmp_path, ok=False)
    assert "is the folder that would be made. Say where" in said and (hippocampus / "imagesTr").is_dir()
    said = run(*options, "data.dataset_dir=raw/Dataset004_Hippocampus", folder=tmp_path)
    assert "raw/Dataset004_Hippocampus: 2 training cases" in said


def test_decathlon_splits_4d_images_into_channels(hippocampus: Path, tmp_path: Path) -> None:
    meta = json.loads((hippocampus / "dataset.json").read_text())
    meta["modality"] = {"0": "T2", "1": "ADC"}
    (hippocampus / "dataset.json").write_text(json.dumps(meta))
    for path in hippocampus.glob("images*/h*.nii.gz"):
        both = np.stack([read(path), -read(path)])  # time first
        write(path, both, (0.8, 0.8, 2.5, 1.0))
    target = decathlon.prepare(hippocampus, tmp_path / "raw" / "set")
    case = RawDataset.open(target).training_cases[0]
    assert len(case.images) == 2
    np.testing.assert_array_equal(read(case.images[0]), scan(1))
    np.testing.assert_array_equal(read(case.images[1]), -scan(1))
    assert sitk.ReadImage(case.images[1]).GetSpacing() == pytest.approx((0.8, 0.8, 2.5))


def test_decathlon_refuses_what_is_incomplete_or_strange(hippocampus: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw" / "set"
    with pytest.raises(FileNotFoundError, match="expected Task04_Hippocampus/dataset.json beside imagesTr, found 0"):
        decathlon.prepare(hippocampus / "labelsTr", target)
    (hippocampus / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="hippocampus_001.nii.gz is missing: the image .* has no label"):
        decathlon.prepare(hippocampus, target)
    (hippocampus / "imagesTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(ValueError, match="expected 2 training images, found 1.*incomplete=true"):
        decathlon.prepare(hippocampus, target)
    assert not target.exists()
    assert len(RawDataset.open(decathlon.prepare(hippocampus, target, incomplete=True)).training_cases) == 1
    with pytest.raises(ValueError, match="'Task04' is none of Task01_BrainTumour"):
        decathlon.prepare(None, tmp_path / "raw" / "other", task="Task04")


@pytest.mark.parametrize("labels", [{"0": "background", "1": "head", "3": "tail"}, {"1": "head", "2": "tail"}])
def test_decathlon_labels_keep_their_numbers(hippocampus: Path, tmp_path: Path, labels: dict[str, str]) -> None:
    path = next(hippocampus.rglob("dataset.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    with pytest.raises(DatasetError, match="labels must be numbered from 0 without a gap"):
        decathlon.prepare(hippocampus, tmp_path / "raw" / "set")


def test_a_truncated_decathlon_archive_is_refused(hippocampus: Path, tmp_path: Path) -> None:
    archive = tmp_path / "Task04_Hippocampus.tar"
    with tarfile.open(archive, "w") as file:
        file.add(hippocampus, "Task04_Hippocampus")
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(ValueError, match="Task04_Hippocampus.tar is truncated or damaged"):
        decathlon.prepare(archive, tmp_path / "raw" / "set")


def test_decathlon_downloads_to_the_folder_beside(
    hippocampus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []

    def fake_download(url: str, target: Path, *, expected: str | None) -> Path:
        wanted.append((url, target, expected))
        return hippocampus

    monkeypatch.setattr(decathlon, "download", fake_download)
    decathlon.prepare(None, tmp_path / "raw" / "set")
    assert wanted == [
        (
            "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
            tmp_path / "raw" / "downloads" / "Task04_Hippocampus.tar",
            "md5:9d24dba78a72977dbd1d2e110310f31b",
        )
    ]


# ---- FLARE 2022


@pytest.fixture
def flare_source(tmp_path: Path) -> Path:
    """FLARE22Train nested twice, and tuning scans that reuse numbers."""
    root = tmp_path / "flare"
    for number in (1, 2):
        train = root / "FLARE22Train" / "FLARE22Train"
        write(train / "images" / f"FLARE22_Tr_{number:04d}_0000.nii.gz", scan(number))
        write(train / "labels" / f"FLARE22_Tr_{number:04d}.nii.gz", labels_up_to(13))
    write(root / "Tuning" / "images" / "FLARETs_0001_0000.nii.gz", scan(9))
    write(root / "Tuning" / "labels" / "FLARETs_0001.nii.gz", labels_up_to(13)[::-1])
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_flare(flare_source: Path, tmp_path: Path, zipped: bool) -> None:
    source = zip_each(flare_source, tmp_path / "zips") if zipped else flare_source
    with pytest.raises(ValueError, match="expected 50 training scans .* found 2"):
        flare.prepare(source, tmp_path / "raw" / "set")
    raw = RawDataset.open(flare.prepare(source, tmp_path / "raw" / "set", incomplete=True))
    assert [case.identifier for case in raw.training_cases] == ["FLARE22_Tr_0001", "FLARE22_Tr_0002"]
    assert [case.identifier for case in raw.test_cases] == ["FLARETs_0001"]
    np.testing.assert_array_equal(read(raw.test_cases[0].label), labels_up_to(13)[::-1])
    np.testing.assert_array_equal(read(raw.training_cases[1].images[0]), scan(2))
    assert list(raw.labels)[:3] == ["background", "liver", "right kidney"] and raw.labels["left kidney"] == 13
    assert raw.channel_names == ("CT",)


def test_flare_refuses_strange_labels_and_another_grid(flare_source: Path, tmp_path: Path) -> None:
    label = flare_source / "Tuning" / "labels" / "FLARETs_0001.nii.gz"
    write(label, labels_up_to(14))
    with pytest.raises(DatasetError, match=r"labelsTs/FLARETs_0001.nii.gz holds the values 14, which"):
        flare.prepare(flare_source, tmp_path / "raw" / "set", incomplete=True)
    write(label, labels_up_to(13), (0.8, 0.8, 5.0))
    with pytest.raises(DatasetError, match=r"differ in spacing: \(5.0, .* and \(2.5, "):
        flare.prepare(flare_source, tmp_path / "raw" / "set", incomplete=True)
    label.unlink()
    with pytest.raises(FileNotFoundError, match="the scan FLARETs_0001_0000.nii.gz has no label"):
        flare.prepare(flare_source, tmp_path / "raw" / "set", incomplete=True)
    assert not (tmp_path / "raw" / "set").exists()


@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_truncated_volume_is_found_at_preparation(
    flare_source: Path, amos_source: Path, hippocampus: Path, tmp_path: Path, which: str
) -> None:
    damaged = [
        next((flare_source / "Tuning" / which).iterdir()),
        amos_source / f"{which}Va" / "amos_0517.nii.gz",
        hippocampus / f"{which}Tr" / "hippocampus_003.nii.gz",
    ]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-20])
    for module, source in ((flare, flare_source), (amos, amos_source), (decathlon, hippocampus)):
        target = tmp_path / "raw" / module.__name__
        with pytest.raises(DatasetError, match="damaged or cut off"):
            module.prepare(source, target, incomplete=True)
        assert not target.exists()


# ---- AMOS 2022

# numbers of metrics.md's organs, from the two owners' own tables: AMOS -> FLARE
EXPECTED = {0: 0, 1: 3, 2: 2, 3: 13, 4: 9, 5: 10, 6: 1, 7: 11, 8: 5, 9: 6, 10: 4, 11: 7, 12: 8, 13: 12, 14: 0, 15: 0}


@pytest.fixture
def amos_source(tmp_path: Path) -> Path:
    root = tmp_path / "amos22"
    for part, numbers in {"Tr": (4, 507, 508), "Va": (8, 517), "Ts": (5, 600)}.items():
        for number in numbers:
            write(root / f"images{part}" / f"amos_{number:04d}.nii.gz", scan(number))
            if part != "Ts":
                write(root / f"labels{part}" / f"amos_{number:04d}.nii.gz", labels_up_to(15))
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_amos_takes_the_mri_and_renumbers_the_organs(amos_source: Path, tmp_path: Path, zipped: bool) -> None:
    source = amos_source
    if zipped:
        source = Path(shutil.make_archive(str(tmp_path / "amos22"), "zip", tmp_path, "amos22"))
    raw = RawDataset.open(amos.prepare(source, tmp_path / "raw" / "set", incomplete=True))
    assert [case.identifier for case in raw.training_cases] == ["amos_0507", "amos_0508", "amos_0517"]
    assert [(case.identifier, case.label) for case in raw.test_cases] == [("amos_0600", None)]
    assert raw.num_training == 3
    expected = np.vectorize(EXPECTED.get)(labels_up_to(15))
    for case in raw.training_cases:
        np.testing.assert_array_equal(read(case.label), expected)
    np.testing.assert_array_equal(read(raw.training_cases[2].images[0]), scan(517))
    assert raw.labels["left kidney"] == 13


def test_amos_refuses_unknown_organs(amos_source: Path, tmp_path: Path) -> None:
    write(amos_source / "labelsVa" / "amos_0517.nii.gz", labels_up_to(16))
    with pytest.raises(DatasetError, match=r"labelsVa/amos_0517.nii.gz: expected the labels .* found also \[16\]"):
        amos.prepare(amos_source, tmp_path / "raw" / "set", incomplete=True)


def test_amos_refuses_an_incomplete_download(amos_source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 40 MRI in imagesTr .* found 2"):
        amos.prepare(amos_source, tmp_path / "raw" / "set")


@pytest.mark.parametrize(("module", "names"), [(flare, "FLARE22Train.zip.*Tuning"), (amos, "amos22.zip")])
def test_without_data_it_says_what_to_get_where(module, names: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"is missing.*{names}.*https://.*source="):
        module.prepare(None, tmp_path / "raw" / "set")
