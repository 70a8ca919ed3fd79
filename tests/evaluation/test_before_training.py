"""What the test of a training would refuse is refused before the first epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.miniatures import make_volumes
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
