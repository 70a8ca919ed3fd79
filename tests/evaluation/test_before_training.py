"""What the test of a training would refuse is refused before the first epoch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.miniatures import make_pictures, make_volumes
from umamba.datamodules.custom import CustomDataModule
from umamba.evaluation.before_training import check_test


def opened(raw: Path, **options) -> CustomDataModule:
    datamodule = CustomDataModule(dataset_dir=raw, prepared_dir=raw.parent / "prepared", **options)
    datamodule.open_raw()
    return datamodule


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        ({"livver": 1.0}, "names livver; the classes are liver"),
        ({"liver": 1.0, "spleen": 1.0}, "names spleen; the classes are liver"),
        (-1.0, "needs a tolerance >= 0 .* for liver; got -1.0"),
        (None, "needs a tolerance >= 0"),
    ],
)
def test_what_is_no_tolerance_for_these_classes(tmp_path, tolerance, message):
    datamodule = opened(make_volumes(tmp_path / "Dataset950_Small"), nsd_tolerance=tolerance)
    with pytest.raises(ValueError, match=message):
        check_test(datamodule)


def test_no_class_and_no_reference(tmp_path):
    raw = make_volumes(tmp_path / "Dataset950_Small")
    check_test(opened(raw))
    with pytest.raises(FileNotFoundError, match=r"expected .*instancesTr/.*\.tif"):
        check_test(opened(raw, task="instances"))
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"labels": {"background": 0}}))
    with pytest.raises(ValueError, match=r"dataset\.json has no class to score"):
        check_test(opened(raw))


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (np.full((48, 56), 2**31, np.uint32), r"case_0\.tif holds the values .* of at most 31 bits"),
        (np.ones((48, 50), np.uint16), r"case_0\.tif has the shape \(1, 48, 50\), its image .*\(1, 48, 56\)"),
    ],
)
def test_an_instance_map_that_could_not_be_scored_against(tmp_path, instances, message):
    raw = make_pictures(tmp_path / "Dataset951_Cells", instances=True)
    check_test(opened(raw, task="instances"))
    tifffile.imwrite(raw / "instancesTr" / "case_0.tif", instances)
    with pytest.raises(ValueError, match=message):
        check_test(opened(raw, task="instances"))
