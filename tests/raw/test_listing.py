"""Cases that dataset.json lists by their files: what is taken, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.planning.raw_data import make_dataset
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError


def listed(folder: Path, channels: tuple[str, ...] = ("MR",), **changes: Any) -> Path:
    """A data set of three cases, listed as a, b and c; `changes` replace the entries of these names."""
    make_dataset(folder, cases=3, channels=channels)
    entries: dict[str, Any] = {
        name: {
            "images": [f"imagesTr/case_{number}_{channel:04d}.nii.gz" for channel in range(len(channels))],
            "label": f"labelsTr/case_{number}.nii.gz",
        }
        for number, name in enumerate("abc")
    }
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"dataset": entries | changes}))
    return folder


def entry(image: int, label: int) -> dict[str, Any]:
    return {"images": [f"imagesTr/case_{image}_0000.nii.gz"], "label": f"labelsTr/case_{label}.nii.gz"}


def test_paths_may_hold_variables_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SCANS", str(tmp_path / "imagesTr"))
    raw = listed(tmp_path, a={"images": ["$SCANS/case_0_0000.nii.gz"], "label": "labelsTr/case_0.nii.gz"})
    assert RawDataset.open(raw).training_cases[0].images == (tmp_path / "imagesTr" / "case_0_0000.nii.gz",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": [], "label": "labelsTr/case_0.nii.gz"}, r"case 'a' lists 0 image\(s\); expected is one for each"),
        ({"images": "imagesTr/case_0_0000.nii.gz", "label": "x"}, r"case 'a' needs images \(a list of paths\)"),
        ({"images": ["imagesTr/case_0_0000.nii.gz"], "label": None}, r"case 'a' needs .* and label \(a path\)"),
        ("case_0", "case 'a' needs images"),
        (entry(1, 1), "lists files twice:\n  a and b have the same images and label"),
        ({"images": ["labelsTr/case_0.nii.gz"], "label": "labelsTr/case_0.nii.gz"}, "an image of a, and a label"),
    ],
)
def test_entries_that_cannot_be_meant_are_refused(tmp_path, wrong, message):
    raw = listed(tmp_path, a=wrong)
    with pytest.raises(DatasetError, match=f"(?s)dataset.json, under dataset: .*{message}"):
        RawDataset.open(raw)


def test_one_file_is_not_two_channels(tmp_path):
    raw = listed(tmp_path, ("T1", "T2"))
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "imagesTr" / "again.nii.gz").symlink_to("case_0_0000.nii.gz")
    content["dataset"]["a"]["images"][1] = "imagesTr/again.nii.gz"
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="a has one file for two channels"):
        RawDataset.open(raw)


def test_an_image_that_two_people_labelled_is_said(tmp_path, caplog):
    raw = RawDataset.open(listed(tmp_path, a=entry(1, 0)))
    assert [case.identifier for case in raw.training_cases] == ["a", "b", "c"]
    assert (
        "lists 1 image(s) for several cases each" in caplog.text and "for a, b. Keep these in one fold" in caplog.text
    )
