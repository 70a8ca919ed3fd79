"""Plans of made-up fingerprints, against what nnunetv2 plans of them; see tests/golden/plans.md."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from umamba.planning.fingerprint import Fingerprint
from umamba.planning.nnunet_plans import plan_from_nnunet
from umamba.planning.options import PlannerOptions
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription

PATH = Path(__file__).parents[1] / "golden" / "plans.json.xz"
ENTRIES: list[dict[str, Any]] = json.loads(lzma.decompress(PATH.read_bytes()))
EXACT = (
    "patch_size", "batch_size", "strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage",
    "n_conv_per_stage_decoder", "residual_encoder", "normalization", "use_mask_for_norm", "batch_dice",
    "previous_stage",
)  # fmt: skip


def test_every_kind_of_plan_is_there() -> None:
    assert {entry["release"] for entry in ENTRIES} == {"2.8.1", "2.1.2"}
    assert {entry["preset"] for entry in ENTRIES} == {"default", "resenc_m", "resenc_l", "resenc_xl"}
    counts = [len(entry["plans"]["configurations"]) for entry in ENTRIES]
    assert {1, 2, 4} <= {*counts}  # slices alone; no low resolution; a cascade


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_a_plan_is_that_of_nnunetv2(tmp_path: Path, number: int) -> None:
    entry = ENTRIES[number]
    (tmp_path / "dataset.json").write_text(json.dumps(entry["dataset"]))
    description = DatasetDescription.read(tmp_path / "dataset.json")
    theirs = plan_from_nnunet(entry["plans"], description)
    options = PlannerOptions(
        rule=entry["release"].rpartition(".")[0], preset=entry["preset"], memory_gb=entry["memory_gb"]
    )
    ours = plan_dataset(Fingerprint.from_dict(entry["fingerprint"]), description, options)
    assert ours.transpose_forward == theirs.transpose_forward
    assert ours.configurations.keys() == theirs.configurations.keys()
    for name, planned in theirs.configurations.items():
        own = ours.configuration(name)
        for key in EXACT:
            assert getattr(own, key) == getattr(planned, key), (name, key)
        assert own.spacing == pytest.approx(planned.spacing, rel=1e-12)
        assert own.median_shape == pytest.approx(planned.median_shape, rel=1e-12)
