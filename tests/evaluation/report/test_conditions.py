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
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.told_apart import beyond_networks, in_names, in_words
from umamba.evaluation.report.verdict import _unlike
from umamba.locations import CONFIGS
from umamba.resolvers import register_resolvers
from umamba.usual_loss import USUAL, name_of_loss, with_loss, without_usual_loss

NOT_ALONE = "their scores may differ for these reasons too, not because of the networks alone"
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


def test_losses_of_another_kind_are_called_by_their_names(tmp_path):
    """Nor is one of the project's said to lack what another's has; and the words name all that differs."""
    own = {"_target_": "mymix.MyLoss", "_partial_": True, "margin": 0.1}
    topk, sharp = {**USUAL, "hardest_percent": 10.0}, {**USUAL, "gamma": 3.0}
    make_run(tmp_path / "usual", network="umamba_none")
    make_run(tmp_path / "topk", network="umamba_none", config={"loss": topk})
    make_run(tmp_path / "sharp", network="umamba_none", config={"loss": sharp})
    for margin in (0.1, 0.2):
        config = {"loss": {**own, "margin": margin}, "trainer": {"max_epochs": 3}}
        make_run(tmp_path / f"own {margin}", network="nnunet", config=config)
    assert names(tmp_path) == {
        "umamba_none (loss=dice_ce)", "umamba_none (loss=dice_topk)", "umamba_none (loss=dice_ce gamma=3.0)",
        "nnunet (loss=mymix.MyLoss, loss.margin=0.1)", "nnunet (loss=mymix.MyLoss, loss.margin=0.2)",
    }  # fmt: skip
    page = make_report([tmp_path], tmp_path / "report").read_text()
    assert "in loss, loss.margin, max_epochs, checkpoint (see the runs and their settings)" in page
    settings = pd.read_csv(tmp_path / "report" / "tables" / "flare_settings.csv")["setting"]
    assert {"loss._target_", "loss.hardest_percent", "loss.margin", "trainer.max_epochs"} <= set(settings)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml") if path.stem != "own"))
def test_a_loss_is_called_by_its_file(name):
    with initialize_config_dir(str(CONFIGS / "loss"), version_base="1.3"):
        loss = OmegaConf.to_container(compose(name))
    assert name_of_loss({key: value for key, value in loss.items() if value is not None}) == name


def test_the_usual_loss_is_not_what_somebody_made_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "dice_ce.yaml").write_text(f"_target_: {USUAL['_target_']}\ngamma: 3.0\n")
    monkeypatch.setattr("umamba.usual_loss.CONFIGS", tmp_path)
    edited = {**USUAL, "gamma": 3.0}
    assert (name_of_loss(USUAL), name_of_loss(edited)) == ("dice_ce", "dice_ce gamma=3.0")
    assert without_usual_loss({"loss": edited}) == {"loss": edited}
    assert without_usual_loss({"loss": dict(USUAL)}) == {} and with_loss({}) == {"loss": USUAL}


def test_words_name_many_settings_in_part():
    settings = [{f"data.setting_{number}": run for number in range(11)} for run in range(2)]
    words = in_words(["nnunet", "resenc"], settings)
    assert words[0] == "setting_0" and len(words) == 11 and in_words(["nnunet"] * 2, settings) == []
    assert "in setting_0, setting_1, " in _unlike(words)[0] and ", and 3 more (see " in _unlike(words)[0]


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
