"""Several data sets made into one: labels by name, folds, and what is refused because it would be silently wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from miniatures import describe, make_pictures, make_tumours, make_volumes

from umamba.datamodules.joint import JointDataModule
from umamba.datamodules.splits import read_splits, select_split
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.readers import read_images, read_label

ORGANS = ("liver", "kidney", "spleen")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Three organs, and two of them with other numbers in as many channels."""
    return {
        "A": make_volumes(tmp_path / "Dataset901_A", labels=ORGANS, shape=(16, 20, 30)),
        "B": make_volumes(tmp_path / "Dataset902_B", labels=("kidney", "liver"), cases=6),
    }


def joint(tmp_path: Path, sources: Any, **options: Any) -> JointDataModule:
    return JointDataModule(
        sources=sources, dataset_dir=tmp_path / "Dataset903_AB", prepared_dir=tmp_path / "prepared", **options
    )


def edit(folder: Path, **entries: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def label_of(folder: Path, name: str) -> np.ndarray:
    return read_label(folder / "labelsTr" / f"{name}.nii.gz")[0]


def test_a_class_that_is_not_labelled_everywhere_is_refused_unless_it_is_said_what_it_is(tmp_path, sources) -> None:
    with pytest.raises(DatasetError, match=r"B has no spleen.*data\.missing=ignore.*data\.classes=\[liver,kidney\]"):
        joint(tmp_path, sources).make_raw()
    assert not [*tmp_path.glob("*903*")]


def test_labels_are_renumbered_by_name(tmp_path: Path, sources) -> None:
    module = joint(tmp_path, sources, missing="ignore")
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert raw.labels == {"background": 0, "liver": 1, "kidney": 2, "spleen": 3} and raw.ignore_label == 4
    assert [case.identifier for case in raw.training_cases] == [
        *(f"A_case_{i}" for i in range(5)), *(f"B_case_{i}" for i in range(6)),
    ]  # fmt: skip
    for case in raw.training_cases:
        name, _, own = case.identifier.partition("_")
        assert case.source.name == name and case.source.unlabelled == (("spleen",) if name == "B" else ())
        before, now = label_of(sources[name], own), label_of(module.dataset_dir, case.identifier)
        meaning = ["background", *ORGANS] if name == "A" else ["ignore", "kidney", "liver"]
        entries = {**raw.labels, "ignore": 4}
        np.testing.assert_array_equal(now, np.array([entries[entry] for entry in meaning])[before])
        image, _ = read_images(case.images)
        np.testing.assert_array_equal(image, read_images([sources[name] / "imagesTr" / f"{own}_0000.nii.gz"])[0])
        assert case.images[0].is_symlink()


def test_what_is_known_to_be_absent_is_background(tmp_path: Path, sources) -> None:
    module = joint(tmp_path, sources, missing={"B": "absent"}, images="copy")
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert raw.ignore_label is None and not any(case.source.unlabelled for case in raw.training_cases)
    assert set(np.unique(label_of(module.dataset_dir, "B_case_0"))) == {0, 1, 2}
    assert not raw.training_cases[0].images[0].is_symlink()


def test_classes_may_be_chosen_and_renamed(tmp_path: Path, sources) -> None:
    edit(sources["B"], labels={"background": 0, "Ren": 1, "liver": 2})
    module = joint(tmp_path, sources, classes=["kidney", "liver"], rename={"B": {"Ren": "kidney"}})
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert raw.labels == {"background": 0, "kidney": 1, "liver": 2} and raw.ignore_label is None
    now, before = label_of(module.dataset_dir, "A_case_0"), label_of(sources["A"], "case_0")
    np.testing.assert_array_equal(now, np.array([0, 2, 1, 0])[before])
    np.testing.assert_array_equal(label_of(module.dataset_dir, "B_case_0"), label_of(sources["B"], "case_0"))


def test_what_is_left_out_may_be_called_alike(tmp_path: Path, sources) -> None:
    edit(sources["B"], labels={"background": 0, "Kidney": 1, "liver": 2})
    with pytest.raises(DatasetError, match=r"'kidney' \(A\) and 'Kidney' \(B\)"):
        joint(tmp_path, sources, classes=["liver", "kidney"], missing="ignore").make_raw()
    module = joint(tmp_path, sources, classes=["liver"])
    module.make_raw()
    assert RawDataset.open(module.dataset_dir).labels == {"background": 0, "liver": 1}


def test_a_fold_holds_out_what_the_folds_of_each_hold_out(tmp_path: Path, sources) -> None:
    own = [{"train": [f"case_{i}" for i in range(6) if i != k], "val": [f"case_{k}"]} for k in range(5)]
    (sources["B"] / "splits_final.json").write_text(json.dumps(own))
    module = joint(tmp_path, sources, missing="ignore")
    module.make_raw()
    for number, fold in enumerate(read_splits(module.dataset_dir / "splits_final.json")):
        held_out = {f"A_{case}" for case in select_split([f"case_{i}" for i in range(5)], number).val}
        assert set(fold.val) == held_out | {f"B_case_{number}"}
        assert len(fold.train) + len(fold.val) == 11
    (sources["B"] / "splits_final.json").write_text(json.dumps(own[:3]))
    shutil.rmtree(module.dataset_dir)
    with pytest.raises(DatasetError, match=r"has 3 fold.*or remove the file"):
        module.make_raw()


def test_test_cases_come_along_and_channels_are_matched_by_name(tmp_path: Path) -> None:
    a = make_volumes(tmp_path / "A", channels=("T1", "T2"))
    b = make_volumes(tmp_path / "B", channels=("T2", "T1"), cases=2, shape=(16, 20, 26))
    for kind in ("images", "labels"):
        (b / f"{kind}Ts").mkdir()
    for path in (b / "imagesTr").glob("case_1_*"):
        path.rename(b / "imagesTs" / path.name)
    (b / "labelsTr" / "case_1.nii.gz").rename(b / "labelsTs" / "case_1.nii.gz")
    module = joint(tmp_path, [a, b])
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert raw.channel_names == ("T1", "T2") and [case.identifier for case in raw.test_cases] == ["B_case_1"]
    expected = read_images([b / "imagesTs" / "case_1_0001.nii.gz", b / "imagesTs" / "case_1_0000.nii.gz"])[0]
    np.testing.assert_array_equal(read_images(raw.test_cases[0].images)[0], expected)
    assert raw.test_cases[0].label is not None
    folds = read_splits(module.dataset_dir / "splits_final.json")
    assert [fold.val for fold in folds if "B_case_0" in fold.val] == [folds[0].val]


def test_what_changed_since_is_refused_and_what_did_not_is_kept(tmp_path: Path, sources) -> None:
    module = joint(tmp_path, sources, missing="ignore")
    module.make_raw()
    before = (module.dataset_dir / "dataset.json").stat().st_mtime_ns
    module.open_raw()
    assert (module.dataset_dir / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"made with data\.missing=ignore, asked for is absent"):
        joint(tmp_path, sources, missing="absent").open_raw()
    with pytest.raises(ValueError, match=r"data\.sources=\['A', 'B'\], asked for is \['A', 'C'\]"):
        joint(tmp_path, {"A": sources["A"], "C": sources["B"]}, missing="ignore").open_raw()
    path = sources["B"] / "labelsTr" / "case_3.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0, str(path))
    with pytest.raises(ValueError, match="B has other files now"):
        module.open_raw()
    JointDataModule(dataset_dir=module.dataset_dir, prepared_dir=tmp_path / "prepared").open_raw()  # to score


def test_regions_are_joined_if_they_are_the_same(tmp_path: Path) -> None:
    a = make_tumours(tmp_path / "A")
    b = make_tumours(tmp_path / "B", ignore=lambda case, label: label * 0 == 1)
    for path in (b / "imagesTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) + 1.0, str(path))
    edit(b, channel_names={"0": "T2", "1": "T1", "2": "T1ce", "3": "FLAIR"})
    module = joint(tmp_path, [a, b])
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert raw.regions == RawDataset.open(a).regions and raw.ignore_label == 4
    edit(b, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3], "ignore": 4})
    shutil.rmtree(module.dataset_dir)
    with pytest.raises(DatasetError, match="regions of A and B differ.*enhancing.*rim"):
        module.make_raw()
    with pytest.raises(ValueError, match=r"data\.classes.*these data sets have regions"):
        joint(tmp_path, [a, b], classes=["core"]).make_raw()


def test_pictures_are_joined(tmp_path: Path) -> None:
    a, b = make_pictures(tmp_path / "A"), make_pictures(tmp_path / "B", cases=3)
    with pytest.raises(DatasetError, match=re.escape("3 image(s) are in two data sets")):
        joint(tmp_path, [a, b]).make_raw()
    for path in (b / "imagesTr").iterdir():
        picture = sitk.ReadImage(str(path))
        sitk.WriteImage(255 - picture, str(path))
    module = joint(tmp_path, [a, b])
    module.make_raw()
    raw = RawDataset.open(module.dataset_dir)
    assert len(raw.training_cases) == 8 and raw.labels == {"background": 0, "cell": 1}


def test_stacks_bring_their_spacing(tmp_path: Path) -> None:
    stack = np.zeros((6, 12, 14), np.uint8)
    stack[2:4, 3:8, 3:8] = 1
    for number, name in enumerate(("A", "B")):
        for kind, stem in (("imagesTr", "s_0000"), ("labelsTr", "s")):
            (tmp_path / name / kind).mkdir(parents=True)
            tifffile.imwrite(tmp_path / name / kind / f"{stem}.tif", stack + number, photometric="minisblack")
            # nnU-Net's place, and the other one that is read
            (tmp_path / name / kind / f"{'s' if number else stem}.json").write_text('{"spacing": [2.0, 1.0, 1.0]}')
        describe(tmp_path / name, 1, ("EM",), ("cell", "other"), ".tif")
    module = joint(tmp_path, [tmp_path / "A", tmp_path / "B"])
    module.make_raw()
    for case in RawDataset.open(module.dataset_dir).training_cases:
        assert read_images(case.images)[1].spacing == read_label(case.label_file)[1].spacing == (2.0, 1.0, 1.0)


def spoil(a: Path, b: Path, how: str) -> None:
    if how == "channels":
        edit(b, channel_names={"0": "CT"})
    elif how == "writing of channels":
        edit(b, channel_names={"0": "mr"})
    elif how == "writing":
        edit(b, labels={"background": 0, "Kidney ": 1, "liver": 2})
    elif how == "twice":
        shutil.copy(a / "imagesTr" / "case_2_0000.nii.gz", b / "imagesTr" / "case_4_0000.nii.gz")
    elif how == "instances":
        (b / "instancesTr").mkdir()
        (b / "instancesTr" / "case_0.tif").touch()
    elif how == "value":
        path = b / "labelsTr" / "case_4.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(path)) * 7, str(path))
    elif how == "ignore":
        edit(b, labels={"background": 0, "kidney": 1, "liver": 2, "ignore": 3})
    elif how == "none":
        edit(a, labels={"background": 0, "lung": 1, "kidney": 2, "spleen": 3})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("channels", "channels differ: A has MR, B has CT"),
        ("writing of channels", r"'MR' \(A\) and 'mr' \(B\)"),
        ("writing", r"'kidney' \(A\) and 'Kidney ' \(B\).*data.rename"),
        ("twice", r"1 image\(s\) are in two data sets: .*case_2.* and .*case_4"),
        ("instances", "instance maps"),
        ("value", r"case_4.* holds the values \[7, 14\]"),
        ("ignore", "B has an ignore label of its own beside classes that it lacks"),
        ("none", "no background would be left.*A has no liver; B has no lung, spleen"),
    ],
)
def test_what_does_not_go_together_is_refused(how: str, message: str, tmp_path: Path, sources) -> None:
    spoil(sources["A"], sources["B"], how)
    with pytest.raises(DatasetError, match=message):
        joint(tmp_path, sources, missing="ignore").make_raw()
    assert not (tmp_path / "Dataset903_AB").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "background"}, "ignore or absent.*'background'"),
        ({"missing": {"C": "ignore"}}, "no data set called C"),
        ({"missing": {"A": "ignore", "B": "ignore"}}, "would do nothing for A"),
        ({"missing": "ignore", "classes": ["liver"]}, "would do nothing"),
        ({"missing": "ignore", "classes": "liver"}, "must be a list"),
        ({"classes": ["lung"]}, "names lung, which no data set has"),
        ({"rename": {"B": {"lung": "liver"}}}, "names lung; its labels are kidney, liver"),
        ({"missing": "ignore", "images": "move"}, "link or copy"),
    ],
)
def test_options_that_cannot_act_are_refused(options: dict[str, Any], message: str, tmp_path: Path, sources) -> None:
    with pytest.raises(ValueError, match=message):
        joint(tmp_path, sources, **options).make_raw()


def test_sources_that_are_none_or_in_the_way_are_refused(tmp_path: Path, sources) -> None:
    a = sources["A"]
    with pytest.raises(ValueError, match="two data sets or more"):
        joint(tmp_path, [a]).make_raw()
    with pytest.raises(ValueError, match="called alike"):
        joint(tmp_path, [a, a])
    with pytest.raises(ValueError, match="names a folder twice"):
        joint(tmp_path, {"x": a, "y": a}).make_raw()
    with pytest.raises(ValueError, match="cannot be called 'x/y'"):
        joint(tmp_path, {"x/y": a, "y": sources["B"]}).make_raw()
    with pytest.raises(ValueError, match="was not joined"):
        other = make_volumes(tmp_path / "C")
        JointDataModule(sources=sources, missing="ignore", dataset_dir=other, prepared_dir="p").open_raw()
    with pytest.raises(ValueError, match="is, or lies in"):
        JointDataModule(sources=sources, dataset_dir=a / "x", prepared_dir="p").make_raw()
    with pytest.raises(FileNotFoundError, match="Dataset999"):
        joint(tmp_path, [a, tmp_path / "Dataset999_None"]).make_raw()
