"""Preparers of pictures on miniature copies of the owners' structures: EndoVis 2017, NeurIPS cells, BBBC038."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.datamodules.archives import zip_each
from umamba.datamodules.prepare import endovis, neurips_cells, nuclei
from umamba.datamodules.prepare.cells import to_rgb8
from umamba.datamodules.prepare.download import DownloadError
from umamba.datamodules.splits import read_splits
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.instances import instances_to_classes
from umamba.raw.readers import read_images, read_label

# ---- EndoVis 2017

SIZE = (6, 8)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, array)
    return path


@pytest.fixture
def endovis_source(tmp_path: Path) -> Path:
    """Two training videos, their test frames, a test video; types in folders with prefixes, parts in grey values."""
    root = tmp_path / "endovis"
    masks = {
        1: {
            "Maryland_Bipolar_Forceps_labels": (0, 10),
            "Left_Prograsp_Forceps_labels": (2, 20),
            "Other_labels": (4, 30),
        },
        6: {"Monopolar_Curved_Scissors_labels": (1, 30), "Right_Large_Needle_Driver_labels": (3, 10)},
    }
    for video, folders in masks.items():
        part = "instrument_1_4_training" if video < 5 else "instrument_5_8_training"
        for frame in (0, 1):
            base = root / part / f"instrument_dataset_{video}"
            save(base / "left_frames" / f"frame{frame:03d}.png", picture(100 * video + frame))
            save(base / "right_frames" / f"frame{frame:03d}.png", picture(0))
            for folder, (row, grey) in folders.items():
                mask = np.zeros(SIZE, np.uint8)
                mask[row] = grey
                save(base / "ground_truth" / folder / f"frame{frame:03d}.png", mask)
    for part, video, frame in (("1_4", 1, 225), ("5_8", 6, 225), ("9_10", 9, 0)):
        base = root / f"instrument_{part}_testing" / f"instrument_dataset_{video}"
        save(base / "left_frames" / f"frame{frame:03d}.png", picture(1000 + video))
        labels = root / "instrument_2017_test" / "instrument_2017_test" / f"instrument_dataset_{video}"
        labels = labels / "gt" if video == 9 else labels
        save(labels / "TypeSegmentation" / f"frame{frame:03d}.png", np.full(SIZE, video % 8, np.uint8))
        save(labels / "BinarySegmentation" / f"frame{frame:03d}.png", np.full(SIZE, 255, np.uint8))
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_endovis(endovis_source: Path, tmp_path: Path, zipped: bool) -> None:
    source = zip_each(endovis_source, tmp_path / "zips") if zipped else endovis_source
    target = endovis.prepare(source, tmp_path / "raw" / "Dataset704_Endovis17", incomplete=True)
    raw = RawDataset.open(target)
    names = [case.identifier for case in raw.training_cases]
    assert names == ["video01_frame000", "video01_frame001", "video06_frame000", "video06_frame001"]
    tests = [case.identifier for case in raw.test_cases]
    assert tests == ["video01_test_frame225", "video06_test_frame225", "video09_test_frame000"]

    label, _ = read_label(raw.training_cases[0].label)
    assert label[0, :, 0].tolist() == [1, 0, 2, 0, 7, 0]
    label, _ = read_label(raw.training_cases[3].label)
    assert label[0, :, 0].tolist() == [0, 6, 0, 3, 0, 0]
    assert [int(read_label(case.label)[0].max()) for case in raw.test_cases] == [1, 6, 1]
    image, _ = read_images(raw.training_cases[2].images)
    np.testing.assert_array_equal(image[:, 0], picture(600).transpose(2, 0, 1))
    assert list(raw.labels)[1:] == list(endovis.INSTRUMENTS)

    splits = read_splits(target / "splits_final.json")
    assert [split.val for split in splits] == [tuple(names[:2]), tuple(names[2:])]


def test_endovis_folds_hold_out_whole_videos() -> None:
    frames = [(video, frame) for video in range(1, 9) for frame in range(3)]
    folds = endovis.split_by_video(frames)
    assert len(folds) == 5
    for fold in folds:
        assert not {name[:7] for name in fold["train"]} & {name[:7] for name in fold["val"]}
        assert len(fold["train"]) + len(fold["val"]) == 24
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(folds[0]["train"] + folds[0]["val"])


def test_endovis_refuses_what_it_does_not_know(endovis_source: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw" / "set"
    with pytest.raises(ValueError, match="expected 1800 training frames .* found 4"):
        endovis.prepare(endovis_source, target)
    label = endovis_source / "instrument_2017_test" / "instrument_2017_test" / "instrument_dataset_1"
    save(label / "TypeSegmentation" / "frame225.png", np.full(SIZE, 32, np.uint8))
    with pytest.raises(DatasetError, match=r"expected the classes 0 to 7, found \[32\]"):
        endovis.prepare(endovis_source, target, incomplete=True)
    truth = endovis_source / "instrument_1_4_training" / "instrument_dataset_1" / "ground_truth"
    (truth / "Other_labels" / "frame001.png").unlink()
    with pytest.raises(DatasetError, match="Other_labels/frame001.png is missing"):
        endovis.prepare(endovis_source, tmp_path / "raw" / "other", incomplete=True)
    (truth / "Other_labels").rename(truth / "Stapler_labels")
    with pytest.raises(DatasetError, match="mask folder Stapler_labels names none of Bipolar_Forceps"):
        endovis.prepare(endovis_source, tmp_path / "raw" / "third", incomplete=True)
    with pytest.raises(FileNotFoundError, match="is missing.*grand-challenge.org"):
        endovis.prepare(None, target)
    assert not target.exists()


# ---- cells


def instances(seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 300, (size[0] // 8, size[1] // 8))
    blocks[0] = 0
    return np.kron(blocks, np.ones((8, 8), int)).astype(np.uint16)


@pytest.fixture
def cell_source(tmp_path: Path) -> Path:
    """Images of several formats, depths and channel counts; the tuning part counts from 1 again."""
    root = tmp_path / "neurips"
    grey16 = np.random.default_rng(1).integers(0, 65535, (40, 48)).astype(np.uint16)
    rgb = np.random.default_rng(2).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    images = root / "Training-labeled" / "images"
    images.mkdir(parents=True)
    save(images / "cell_00001.bmp", rgb)
    tifffile.imwrite(images / "cell_00002.tiff", grey16)
    save(images / "cell_00003.png", np.dstack([rgb, rgb[..., :1]]))
    (root / "Tuning" / "images").mkdir(parents=True)
    tifffile.imwrite(root / "Tuning" / "images" / "cell_00001.tif", rgb.astype(np.uint16) * 200)
    for part, number in (("Training-labeled", 1), ("Training-labeled", 2), ("Training-labeled", 3), ("Tuning", 1)):
        (root / part / "labels").mkdir(exist_ok=True)
        tifffile.imwrite(root / part / "labels" / f"cell_{number:05d}_label.tiff", instances(number))
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_neurips_cells(cell_source: Path, tmp_path: Path, zipped: bool) -> None:
    source = zip_each(cell_source, tmp_path / "zips") if zipped else cell_source
    target = neurips_cells.prepare(source, tmp_path / "raw" / "set", incomplete=True)
    raw = RawDataset.open(target)
    assert [case.identifier for case in raw.training_cases] == ["cell_00001", "cell_00002", "cell_00003"]
    assert [case.identifier for case in raw.test_cases] == ["tuning_cell_00001"]
    for number, case in enumerate(raw.training_cases, start=1):
        stored = tifffile.imread(target / "instancesTr" / f"{case.identifier}.tif")
        assert stored.dtype == np.int32
        np.testing.assert_array_equal(stored, instances(number))
        np.testing.assert_array_equal(read_label(case.label)[0][0], instances_to_classes(instances(number)))
    image, _ = read_images(raw.training_cases[1].images)
    original = tifffile.imread(cell_source / "Training-labeled" / "images" / "cell_00002.tiff")
    np.testing.assert_array_equal(image[:, 0], to_rgb8(original).transpose(2, 0, 1))
    assert (target / "instancesTs" / "tuning_cell_00001.tif").is_file()


def test_neurips_cells_refuses(cell_source: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw" / "set"
    with pytest.raises(ValueError, match="expected 1000 images .* found 3"):
        neurips_cells.prepare(cell_source, target)
    label = cell_source / "Training-labeled" / "labels" / "cell_00002_label.tiff"
    tifffile.imwrite(label, instances(2, (40, 40)))
    with pytest.raises(ValueError, match=r"cell_00002: the image is \(40, 48\) px, its instance map \(40, 40\)"):
        neurips_cells.prepare(cell_source, target, incomplete=True)
    label.unlink()
    with pytest.raises(DatasetError, match="cell_00002.tiff: expected its instances in .*cell_00002_label.tiff"):
        neurips_cells.prepare(cell_source, target, incomplete=True)
    (cell_source / "Training-labeled" / "images" / "cell_00001.bmp").write_bytes(b"BM")
    with pytest.raises(DatasetError, match="cell_00001.bmp cannot be read"):
        neurips_cells.prepare(cell_source, tmp_path / "raw" / "other", incomplete=True)
    with pytest.raises(FileNotFoundError, match="is missing.*https://zenodo.org/records/10719375"):
        neurips_cells.prepare(None, target)
    (tmp_path / "Tuning.zip").write_bytes(b"half")
    with pytest.raises(DownloadError, match="Tuning.zip: expected sha256 849423d36bb8"):
        neurips_cells.prepare(tmp_path, target)


# ---- BBBC038

TRAIN_ID, TEST_ID = "ff" * 32, "00" * 32


@pytest.fixture
def bbbc038(tmp_path: Path) -> Path:
    root = tmp_path / "stage1_train"
    for seed, identifier in enumerate((TRAIN_ID, TEST_ID), start=1):
        map_ = instances(seed)
        grey = (map_ % 251).astype(np.uint8)
        save(root / identifier / "images" / f"{identifier}.png", np.dstack([grey, grey, grey, np.full_like(grey, 255)]))
        for value in np.unique(map_[map_ > 0]):
            save(root / identifier / "masks" / f"{value:064x}.png", (map_ == value).astype(np.uint8) * 255)
    return root


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b)) and (0, 0) in pairs


@pytest.mark.parametrize("form", ["folder", "folder above", "zip", "zip without top folder"])
def test_nuclei_from_the_owners_form(bbbc038: Path, tmp_path: Path, form: str) -> None:
    source = {"folder": bbbc038, "folder above": bbbc038.parent}.get(form)
    if source is None:
        base = {"zip": (bbbc038.parent, bbbc038.name), "zip without top folder": (bbbc038, ".")}[form]
        source = Path(shutil.make_archive(str(tmp_path / "zips" / "stage1_train"), "zip", *base))
    target = nuclei.prepare(source, tmp_path / "raw" / "set", incomplete=True)
    raw = RawDataset.open(target)
    assert [case.identifier for case in raw.training_cases] == [TRAIN_ID]
    assert [case.identifier for case in raw.test_cases] == [TEST_ID]
    assert same_partition(tifffile.imread(target / "instancesTr" / f"{TRAIN_ID}.tif"), instances(1))
    assert same_partition(tifffile.imread(target / "instancesTs" / f"{TEST_ID}.tif"), instances(2))
    assert read_images(raw.training_cases[0].images)[0].shape == (3, 1, 40, 48)
    assert json.loads((target / "dataset.json").read_text())["licence"] == "CC0-1.0"


def test_nuclei_from_a_selection_with_a_manifest(tmp_path: Path) -> None:
    root = tmp_path / "selection"
    for seed, identifier in enumerate((TRAIN_ID, TEST_ID), start=1):
        save(root / "images" / f"{identifier}.png", to_rgb8(instances(seed)))
        save(root / "instances" / f"{identifier}.png", instances(seed))
    pd.DataFrame({"id": [TRAIN_ID, TEST_ID, "33" * 32]}).to_csv(root / "manifest.csv", index=False)
    with pytest.raises(ValueError, match="expected 3 images, found 2"):
        nuclei.prepare(root, tmp_path / "raw" / "set")
    pd.DataFrame({"id": [TRAIN_ID, TEST_ID]}).to_csv(root / "manifest.csv", index=False)
    target = nuclei.prepare(root, tmp_path / "raw" / "set")
    np.testing.assert_array_equal(tifffile.imread(target / "instancesTr" / f"{TRAIN_ID}.tif"), instances(1))


def test_nuclei_refuses(bbbc038: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 670 images, found 2"):
        nuclei.prepare(bbbc038, tmp_path / "raw" / "set")
    with pytest.raises(FileNotFoundError, match="expected <id>/images/<id>.png with <id>/masks .* found neither"):
        nuclei.prepare(bbbc038 / TRAIN_ID / "masks", tmp_path / "raw" / "set")
    shutil.rmtree(bbbc038 / TRAIN_ID / "masks")
    (bbbc038 / TRAIN_ID / "masks").mkdir()
    with pytest.raises(DatasetError, match="expected its nuclei in .*masks, found no PNG"):
        nuclei.prepare(bbbc038, tmp_path / "raw" / "set", incomplete=True)


@pytest.mark.data
def test_nuclei_from_the_real_selection(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "nuclei_dsb2018"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    target = nuclei.prepare(source, tmp_path / "raw" / "set")
    raw = RawDataset.open(target)
    assert (len(raw.training_cases), len(raw.test_cases)) == (103, 27)
    counts = pd.read_csv(source / "manifest.csv").set_index("id")["instances"]
    for split, cases in (("Tr", raw.training_cases), ("Ts", raw.test_cases)):
        for case in cases:
            found = np.unique(tifffile.imread(target / f"instances{split}" / f"{case.identifier}.tif"))
            assert len(found) - 1 == counts[case.identifier]
