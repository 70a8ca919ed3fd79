"""Networks that were not trained alike say so: in their names, in a table of settings and in words."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.evaluation.scored_runs import make_run
from umamba.evaluation.identity import facts_of, training_of
from umamba.evaluation.members import Member
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.conditions import beyond_networks, in_names
from umamba.evaluation.report.runs import gather
from umamba.locations import CONFIGS
from umamba.resolvers import register_resolvers

NOT_ALONE = "a difference between runs that do is not one of the networks alone"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("[!_]*.yaml"))


def names(folder: Path) -> set[str]:
    return {run.network for run in gather([folder])}


def facts(patch: list[int], **more: object) -> dict:
    return {"configuration": "3d_fullres", "plan.patch_size": patch, **more}


def test_a_flat_network_beside_a_3d_one(tmp_path):
    make_run(tmp_path / "a", network="nnunet")
    make_run(tmp_path / "b", network="umamba_none", configuration="2d")
    assert names(tmp_path) == {"nnunet (configuration=3d_fullres)", "umamba_none (configuration=2d)"}
    page = make_report([tmp_path], tmp_path / "report").read_text()
    assert "nnU-Net (configuration=3d_fullres) against U-Mamba without Mamba (configuration=2d): " in page
    assert f"in configuration (see the runs and their settings): {NOT_ALONE}." in page
    table = pd.read_csv(tmp_path / "report" / "tables" / "flare_settings.csv").set_index("setting")
    assert table.loc["configuration"].to_dict() == {
        "nnU-Net (configuration=3d_fullres)": "3d_fullres", "U-Mamba without Mamba (configuration=2d)": "2d",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"trainer": {"max_epochs": 50, "precision": "32-true"}}, "max_epochs=50"),
        ({"data": {"dataset_dir": "/raw/Dataset900_Phantom", "oversample": 0.5}}, "oversample=0.5"),
        ({"warmup_epochs": 5}, "warmup_epochs=5"),
    ],
)
def test_other_settings_are_in_the_name(tmp_path, config, label):
    make_run(tmp_path / "a", network="nnunet")
    make_run(tmp_path / "b", network="umamba_enc", config=config)
    make_run(tmp_path / "c", network="umamba_enc", config=config, seed=1)
    found = names(tmp_path)
    assert len(found) == 2 and f"umamba_enc ({label})" in found
    assert NOT_ALONE in make_report([tmp_path], tmp_path / "report").read_text()


def test_what_one_network_has_in_two_forms_is_not_the_others_matter(tmp_path):
    for variant in ("paper", "repo"):
        network = {"_target_": "umamba.models.umamba.UMamba", "variant": variant}
        make_run(tmp_path / variant, network="umamba_enc", config={"model": {"network": network}})
    make_run(tmp_path / "cnn", network="nnunet", config={"tags": ["first"], "cuda_graph": False})
    assert names(tmp_path) == {"nnunet", "umamba_enc (variant=paper)", "umamba_enc (variant=repo)"}
    assert NOT_ALONE not in make_report([tmp_path], tmp_path / "report").read_text()


def test_one_name_says_both(tmp_path):
    for variant in ("paper", "repo"):
        network = {"_target_": "umamba.models.umamba.UMamba", "variant": variant}
        make_run(tmp_path / variant, network="umamba_enc", config={"model": {"network": network}}, configuration="2d")
    make_run(tmp_path / "cnn", network="nnunet")
    assert names(tmp_path) == {
        "nnunet (configuration=3d_fullres)", "umamba_enc (configuration=2d, variant=paper)",
        "umamba_enc (configuration=2d, variant=repo)",
    }  # fmt: skip


def test_data_sets_do_not_mix(tmp_path):
    make_run(tmp_path / "a", network="nnunet")
    make_run(tmp_path / "b", network="umamba_enc", configuration="2d", dataset="amos_mr", content="4567")
    assert names(tmp_path) == {"nnunet", "umamba_enc"}


def test_shipped_networks_differ_in_nothing_but_themselves():
    """Optimiser, schedule, precision and options of a network are its own."""
    register_resolvers()
    plan = {"configurations": {"3d_fullres": {"patch_size": [40, 56, 40]}}, "channel_names": ["CT"]}
    found = []
    for model in MODELS:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            overrides = [f"model={model}", f"model_name={model}", "data_name=phantom", "task_name=task", "run_dir=run"]
            config = OmegaConf.to_container(compose("train", [*overrides, "paths.root=."]), resolve=True)
        member = Member(path=Path("last.ckpt"), config=config, plan=plan, configuration="3d_fullres", epochs=1000)
        one = {"network": model, "training": training_of(member)}
        record = {"configuration": "3d_fullres", "members": [one], "plan": {}, "options": {}}
        found.append(facts_of(record, processed=False))
    assert len(MODELS) > 6 and beyond_networks(MODELS, found) == []
    found[0]["trainer.gradient_clip_val"] = 1
    assert beyond_networks(MODELS, found) == in_names(MODELS, found) == ["trainer.gradient_clip_val"]


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ([40, 56, 40], [48, 64, 48], False),
        ([40, 56, 40], [64, 64, 64], False),
        ([48, 64, 48], [64, 64, 64], False),
        ([40, 56, 40], [40, 56, 48], True),
        ([64, 64, 64], [128, 128, 128], True),
        ([16, 16], [16, 16, 16], True),
    ],
)
def test_a_patch_that_is_rounded_up_is_the_planned_one(one, other, differ):
    pair = [facts(one), facts(other)]
    for some in (pair, pair[::-1]):
        assert beyond_networks(["nnunet", "swinunetr"], some) == (["plan.patch_size"] if differ else [])


def test_own_weights_to_begin_with_and_own_first_stages():
    some = [facts([8, 8, 8], **{"init_from": name, "previous_stage.model.network._target_": name}) for name in "ab"]
    assert beyond_networks(["nnunet", "resenc"], some) == []
    some[0]["previous_stage.data.oversample"] = 0.5
    del some[1]["init_from"]
    assert set(beyond_networks(["nnunet", "resenc"], some)) == {"init_from", "previous_stage.data.oversample"}
