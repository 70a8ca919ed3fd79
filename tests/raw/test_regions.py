"""Regions in dataset.json: what is read of them, and what is refused before data are touched."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.regions import Region, region_fault

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def described(folder: Path, labels: dict, order: object = None) -> DatasetDescription:
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    content |= {} if order is None else {"regions_class_order": order}
    (folder / "dataset.json").write_text(json.dumps(content))
    return DatasetDescription.read(folder / "dataset.json")


def test_every_foreground_label_is_a_region_in_file_order(tmp_path):
    found = described(tmp_path, BRATS | {"ignore": 4}, [1, 2, 3])
    assert found.labels == {"background": 0} and found.ignore_label == 4
    assert [(region.name, region.labels, region.written) for region in found.regions] == [
        ("whole", (1, 2, 3), 1), ("core", (2, 3), 2), ("enhancing", (3,), 3),
    ]  # fmt: skip
    assert found.foreground == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert found.allowed_values == {0, 1, 2, 3, 4}
    assert found.num_label_entries == 5  # as nnU-Net's planner counts: the ignore label and the background too


def test_lists_of_one_value_are_plain_classes(tmp_path):
    found = described(tmp_path, {"background": [0], "liver": [1], "spleen": 2}, [1, 2])
    assert found.labels == {"background": 0, "liver": 1, "spleen": 2} and found.regions == ()
    assert found.foreground == {"liver": (1,), "spleen": (2,)}


@pytest.mark.parametrize(
    ("labels", "order", "told"),
    [
        (BRATS, None, "needs regions_class_order: .* for each of whole, core, enhancing, in this order; it is missing"),
        (BRATS, [1, 2], r"for each of whole, core, enhancing, in this order; it is \[1, 2\]"),
        (BRATS, [1, 2, "3"], "needs regions_class_order"),
        (BRATS, {"whole": 1}, "needs regions_class_order"),
        (BRATS, [3, 2, 1], r"regions_class_order writes 1 for region enhancing, which is made of \[3\]"),
        (BRATS, [3, 2, 3], r"cannot express label 1: it lies in whole, and would be written as 3, which lies in whole, "
                           "core, enhancing"),
        (BRATS, [1, 2, 7], r"writes 7 for region enhancing"),
        ({"background": 0, "a": [1, 3], "b": [2, 3]}, [1, 2], "cannot express label 3: it lies in a, b, and would be "
                                                              "written as 2, which lies in b"),
        ({"background": 0, "core": 2, "whole": [1, 2]}, [2, 1], "cannot express label 2"),
        ({"background": 0, "a": [1, 4], "b": 4}, [1, 4], r"label 2 is in no region; they are made of \[1, 4\]"),
        ({"background": 0, "a": [0, 1]}, [1], "the background is in no region"),
        ({"background": 0, "a": [1, 2, 2]}, [1], "each once"),
        ({"background": 0, "a": [1, 2], "b": 2, "c": 2}, [1, 2, 2], "two labels share one value"),
        ({"background": 0, "a": [1, 1.5]}, [1], r"to a whole number, it maps to \[1, 1.5\] \(a region maps to"),
        ({"background": 0, "a": []}, [1], "must map to a whole number"),
        ({"background": 0, "a": [1, 2], "ignore": [3, 4]}, [1], "the ignore label must be one number"),
        ({"background": 0, "a": [1, 2], "ignore": 2}, [1], "ignore label must be the highest value, it is 2"),
        ({"a": [1, 2]}, [1], 'labels must contain "background": 0'),
        ({"background": 0, "liver": 1, "spleen": 2}, [2, 1], "no label is a list: classes that exclude each other"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(tmp_path, labels, order, told):
    with pytest.raises(DatasetError, match=told):
        described(tmp_path, labels, order)


def test_an_accepted_order_gives_every_label_back_in_its_regions():
    """Of all orders of nested and disjoint regions, exactly those pass that lose nothing."""
    sets = ((1, 2, 3), (2, 3), (3,), (4,))
    for chosen in itertools.permutations(sets):
        for written in itertools.product((1, 2, 3, 4), repeat=4):
            pairs = zip("abcd", chosen, written, strict=True)
            regions = [Region(name=name, labels=labels, written=value) for name, labels, value in pairs]
            lossless = all(value in region.labels for value, region in zip(written, regions, strict=True))
            for label in (1, 2, 3, 4):
                value = 0
                for region in regions:  # as a prediction is written
                    value = region.written if label in region.labels else value
                lossless &= all((label in region.labels) == (value in region.labels) for region in regions)
            assert (region_fault(regions) is None) == lossless, (chosen, written)


def test_hostile_values_take_no_memory():
    assert "is in no region" in str(region_fault([Region(name="a", labels=(1, 10**15), written=1)]))
