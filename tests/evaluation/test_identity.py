"""Which runs a report takes for replicates, which it tells apart and how, and which it refuses to compare."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation import scored_runs
from umamba.evaluation.identity import facts_of, name_apart
from umamba.evaluation.pairs import Pair
from umamba.evaluation.record import content_of, read_record
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.networks import all_scores, replicate_spread
from umamba.evaluation.report.runs import gather
from umamba.usual_loss import USUAL

make_run = scored_runs.make_run


def network(**arguments) -> dict:
    return {"model": {"network": {"_target_": "umamba.models.umamba.UMamba", **arguments}}}


def names(folder: Path) -> set[tuple[str, str, str]]:
    return {(run.dataset, run.network, run.replicate) for run in gather([folder])}


@pytest.mark.parametrize(
    "config",
    [
        network(variant="repo"),
        {"trainer": {"max_epochs": 50, "precision": "32-true"}},
        {"trainer": {"max_epochs": 2, "precision": "bf16-mixed"}},
        {"data": {"dataset_dir": "/raw/Dataset900_Phantom", "oversample": 0.5}},
        {"data": {"dataset_dir": "/raw/Dataset900_Phantom", "oversample": 0.33, "augmentation": [{"_target_": "a.b"}]}},
        {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1}},
        {"callbacks": {"average": {"_target_": "lightning.pytorch.callbacks.WeightAveraging"}}},
        {"a_new_setting": 3},
    ],
)
def test_another_training_is_another_network(tmp_path, config):
    make_run(tmp_path / "a", seed=1)
    make_run(tmp_path / "b", seed=2, config=config)
    runs = gather([tmp_path])
    assert len({run.network for run in runs}) == 2
    assert (replicate_spread(all_scores(runs))["replicates"] == 1).all()


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"dataset_dir": "/elsewhere/Dataset900_Phantom", "oversample": 0.33, "num_workers": 7}},
        {"trainer": {"max_epochs": 2, "precision": "32-true", "devices": 4, "default_root_dir": "x",
                     "accumulate_grad_batches": 1}},
        {"logger": {"wandb": {"_target_": "x"}}, "paths": {"raw": "y"}, "run_dir": "z", "optimizer": None},
        {"callbacks": {"cost": {"_target_": "umamba.callbacks.cost.Cost", "folder": "x"}, "progress": None}},
    ],
)  # fmt: skip
def test_where_and_how_it_ran_makes_no_other_network(tmp_path, config):
    make_run(tmp_path / "a", seed=1)
    make_run(tmp_path / "b", seed=2, config=config)
    assert names(tmp_path) == {("flare", "umamba_bot", f"fold 0, seed {seed}") for seed in (1, 2)}


def test_names_say_what_differs(tmp_path):
    make_run(tmp_path / "paper", config=network(variant="paper"))
    make_run(tmp_path / "repo", config=network(variant="repo"))
    make_run(tmp_path / "flat", config=network(variant="repo"), configuration="2d")
    make_run(tmp_path / "mirrored", config=network(variant="repo"), options={"mirror": True})
    assert {run.network for run in gather([tmp_path])} == {
        "umamba_bot (configuration=2d, variant=repo)",
        "umamba_bot (configuration=3d_fullres, variant=paper)",
        "umamba_bot (configuration=3d_fullres, variant=repo)",
        "umamba_bot (configuration=3d_fullres, variant=repo), mirrored",
    }
    page = make_report([tmp_path], tmp_path / "report").read_text()
    assert "U-Mamba_Bot (configuration=2d, variant=repo)" in page
    table = pd.read_csv(tmp_path / "report" / "tables" / "flare_settings.csv")
    assert set(table["setting"]) == {"configuration", "model.network.variant"}


def test_losses_are_told_apart_and_none_is_the_usual_one(tmp_path):
    """Also of records that another version has written, with the usual loss or fewer settings of it."""
    topk = {**USUAL, "hardest_percent": 10.0}
    make_run(tmp_path / "before", seed=1)
    make_run(tmp_path / "usual", seed=2, config={"loss": USUAL})
    make_run(tmp_path / "written", seed=3)
    record = json.loads((tmp_path / "written" / "run.json").read_text())
    record["members"][0]["training"]["loss"] = {**USUAL}
    del record["members"][0]["training"]["loss"]["gamma"]
    (tmp_path / "written" / "run.json").write_text(json.dumps(record))
    assert names(tmp_path) == {("flare", "umamba_bot", f"fold 0, seed {seed}") for seed in (1, 2, 3)}
    make_run(tmp_path / "topk", config={"loss": topk})
    make_run(tmp_path / "cnn", network="nnunet", config={"loss": topk})
    runs = gather([tmp_path])
    assert {run.network for run in runs} == {
        "nnunet (loss.hardest_percent=10.0)", "umamba_bot (loss.hardest_percent=10.0)",
        "umamba_bot (loss.hardest_percent=100.0)",
    }  # fmt: skip
    member = {"network": "n", "fold": 0, "seed": 1, "imported": "a", "training": {"imported": "nnUNetTrainer"}}
    facts = facts_of({"configuration": "2d", "members": [member], "plan": {}, "options": {}}, False)
    assert not any(key.startswith("loss") for key in facts)  # it had its own


def test_a_training_counts_once(tmp_path, caplog):
    first = make_run(tmp_path / "run" / "tables")
    shutil.copytree(tmp_path / "run", tmp_path / "copied")
    assert names(tmp_path) == {("flare", "umamba_bot", "fold 0, seed 0")} and "different scores" not in caplog.text
    shutil.rmtree(tmp_path / "copied")
    again = make_run(tmp_path / "again", gain=0.1)
    os.utime(first / "run.json", (1, 1))
    (run,) = gather([tmp_path])
    assert run.folder == again and "different scores; the later one" in caplog.text


def test_the_plain_half_of_post_processed_scores_is_the_plain_run(tmp_path):
    folder = make_run(tmp_path / "plain")
    post = make_run(tmp_path / "post", options={"postprocessing": True, "rules": [["liver"]]})
    scores = pd.read_csv(folder / "scores.csv")
    both = pd.concat([scores.assign(run="plain"), scores.assign(run="post-processed")])
    scored_runs.replace_scores(post, both)
    assert sorted(run.network for run in gather([tmp_path])) == ["umamba_bot", "umamba_bot, post-processed"]


def test_ensembles_are_told_apart_by_their_members(tmp_path):
    def member(fold: int, **more: object) -> dict:
        return {"model_name": "umamba_bot", "fold": fold, "seed": 0, **network(**more), "data": {}}

    one = make_run(tmp_path / "a", config=member(0), more_members=(member(1),))
    make_run(tmp_path / "b", config=member(2), more_members=(member(3),))
    make_run(tmp_path / "c", config=member(0), more_members=(member(1, variant="repo"),))
    runs = {run.folder.name: run for run in gather([tmp_path])}
    assert runs["a"].replicate == "folds 0 + 1, seed 0" and runs["a"].network == runs["b"].network
    assert runs["c"].network != runs["a"].network and runs["a"].network.endswith(", ensemble of 2")
    assert json.loads((one / "run.json").read_text())["members"][1]["fold"] == 1


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        gather([folder])
    assert str(folder / "a") in str(caught.value) and str(folder / "b") in str(caught.value)


def test_what_cannot_be_compared_is_refused(tmp_path):
    cases = [f"c{i}" for i in range(6)]
    for name, options, match in (
        ("cases", {"cases": cases[:4]}, r"not on the same cases: only umamba_bot in .*/a has c4, c5"),
        ("content", {"cases": cases, "content": "4567"}, r"reference of case c0 was another one"),
        ("labels", {"cases": cases, "classes": ("liver", "spleen", "tumour")}, r"differ in labels"),
        ("task", {"cases": cases, "classes": ("instances",)}, r"differ in task"),
    ):
        for network_name in ("umamba_bot", "nnunet"):  # as replicates, and as networks
            folder = tmp_path / name / network_name
            make_run(folder / "a", cases=cases)
            make_run(folder / "b", network=network_name, seed=2, **options)
            refused(folder, match.replace("c4", "c[45]") if network_name == "nnunet" else match)
    folder = tmp_path / "tolerance"
    for run, tolerance in (("a", 1.0), ("b", 2.0)):
        made = make_run(folder / run, network=run)
        scored_runs.replace_scores(made, pd.read_csv(made / "scores.csv").assign(nsd_tolerance=tolerance))
    refused(folder, r"differ in NSD tolerances.*1\.0.*2\.0")


def test_validation_and_test_scores_are_sections_of_their_own(tmp_path):
    make_run(tmp_path / "a", cases=["t1", "t2"])
    for fold in (0, 1):
        make_run(tmp_path / f"v{fold}", cases=[f"v{fold}a", f"v{fold}b"], fold=fold, scored="validation")
    make_run(tmp_path / "all", cases=["v0a", "v1a"], fold="all", scored="training")
    assert {name for name, _, _ in names(tmp_path)} == {"flare", "flare, validation", "flare, cases trained on"}
    make_run(tmp_path / "b", cases=["v0a", "v0b"], network="nnunet", scored="validation")
    with pytest.raises(ValueError, match=r"flare, validation, but not on the same cases.*v1a, v1b"):
        gather([tmp_path])


def test_names_of_cases_and_classes_that_look_like_numbers(tmp_path):
    for run, name in (("a", "nnunet"), ("b", "umamba_bot")):
        make_run(tmp_path / run, network=name, cases=["001", "1", "NA"], classes=("nan", "2"))
    scores = all_scores(gather([tmp_path]))
    assert set(scores["case"]) == {"001", "1", "NA"} and set(scores["class"]) == {"nan", "2"}
    assert make_report([tmp_path], tmp_path / "report").is_file()


def test_records_that_say_too_little_are_refused(tmp_path):
    folder = make_run(tmp_path / "a")
    record = json.loads((folder / "run.json").read_text())
    old = {key: record[key] for key in record if key not in ("version", "members", "plan", "cases", "scored")}
    for content in (old, old | {"pairs": [{"case": "c", "prediction": "p", "reference": "r", "images": []}]}):
        (folder / "run.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"a/run\.json is of an older version .*Score the run again"):
            read_record(folder / "run.json")
    for broken in ("{", "[]", "{}"):
        (folder / "run.json").write_text(broken)
        with pytest.raises(ValueError, match=r"a/run\.json is no.* Score the run again"):
            read_record(folder / "run.json")


def test_older_records_are_completed_from_what_they_name(tmp_path):
    raw = tmp_path / "Dataset123_Mine"
    (raw / "labelsTs").mkdir(parents=True)
    (raw / "labelsTs" / "case_00.nii.gz").write_bytes(gzip.compress(b"a label map"))
    config = {"data_name": "custom", "model_name": "umamba_bot", "fold": 3, "seed": 7, **network(variant="repo"),
              "data": {"dataset_dir": str(raw)}, "trainer": {"max_epochs": 2}}  # fmt: skip
    plan = {"configurations": {"2d": {"patch_size": [8, 8]}}, "channel_names": ["CT"]}
    torch.save({"state_dict": {}, "plan": plan, "configuration": "2d", "config": config, "epoch": 2},
               tmp_path / "last.ckpt")  # fmt: skip
    pair = Pair(case="case_00", prediction=tmp_path / "p.nii.gz", reference=raw / "labelsTs" / "case_00.nii.gz")
    folder = make_run(tmp_path / "tables", cases=[pair], dataset="custom")
    record = json.loads((folder / "run.json").read_text())
    for key in ("version", "members", "plan", "cases", "scored"):
        del record[key]
    (folder / "run.json").write_text(json.dumps(record | {"checkpoints": [str(tmp_path / "last.ckpt")]}))
    (run,) = gather([folder])
    assert (run.dataset, run.network, run.replicate) == ("Dataset123_Mine", "umamba_bot", "fold 3, seed 7")
    assert run.facts["model.network.variant"] == "repo" and run.facts["configuration"] == "2d"
    assert run.record["cases"] == {"case_00": hashlib.sha256(b"a label map").hexdigest()[:16]}
    (raw / "labelsTs" / "case_00.nii.gz").unlink()
    content_of.cache_clear()
    with pytest.raises(ValueError, match=r"run\.json is of an older version .*case_00\.nii\.gz"):
        gather([folder])


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2, width=16) | st.text("ab.$,(", max_size=3),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), part, max_size=3),
    max_leaves=6,
)  # fmt: skip
trainings = st.dictionaries(st.sampled_from(["model", "data", "trainer", "x", "y"]), plain, max_size=4)


def record_of(training: dict, **changes: object) -> dict:
    member = {"network": "n", "fold": 0, "seed": 1, "imported": None, "training": training}
    return {"configuration": "2d", "members": [member], "plan": {}, "options": {}} | changes


@given(trainings, st.integers(), st.integers())
def test_seed_and_fold_make_no_difference(training, seed, fold):
    other = copy.deepcopy(record_of(training))
    other["members"][0] |= {"seed": seed, "fold": fold}
    assert facts_of(other, False) == facts_of(record_of(training), False)


@given(trainings, st.sampled_from(["configuration", "plan", "mirror", "rules", "training", "members"]))
def test_everything_else_does(training, what):
    record = record_of(training)
    other, processed = copy.deepcopy(record), what == "rules"
    if what == "configuration":
        other["configuration"] = "3d_fullres"
    elif what == "plan":
        other["plan"] = {"patch_size": [8, 8]}
    elif what == "mirror":
        other["options"] = {"mirror": True}
    elif what == "rules":
        other["options"] = {"rules": [["liver"]]}
    elif what == "training":
        other["members"][0]["training"]["z"] = 1
    else:
        other["members"] *= 2
    assert facts_of(other, processed) != facts_of(record, processed)


@given(trainings, st.sampled_from(["a", "m"]))
def test_an_ensemble_is_all_of_its_members(training, network):
    """Not only the first one, and not only what they are: how many are of which."""
    one, other = ({"network": name, "fold": 0, "seed": 1, "imported": None, "training": part}
                  for name, part in (("n", training), (network, {**training, "x": 7})))  # fmt: skip
    named = {**other, "training": training}  # differs in the name alone
    for second in (other, named):
        facts = [
            facts_of(record_of({}, members=members), False)
            for members in ([one, one, one], [one, one, second], [one, second, second], [second, second, second])
        ]
        assert all(a != b for i, a in enumerate(facts) for b in facts[:i])
        assert facts_of(record_of({}, members=[second, one, one]), False) == facts[1]


@pytest.mark.parametrize(
    "key", ["network", "configuration", "members", "plan", "labels", "mirror", "grow", "rules", "epochs", "imported"]
)
def test_no_entry_of_a_configuration_hides_behind_a_fact(tmp_path, key):
    make_run(tmp_path / "a", seed=1, config={key: "one"})
    make_run(tmp_path / "b", seed=2, config={key: "two"})
    make_run(tmp_path / "c", seed=3, config={key: "two"})
    runs = {run.folder.name: run for run in gather([tmp_path])}
    assert len({run.network for run in runs.values()}) == 2 and runs["b"].network == runs["c"].network


@settings(deadline=None)
@given(st.lists(trainings, min_size=1, max_size=6))
def test_names_tell_all_apart_whatever_differs(trainings_):
    facts = [facts_of(record_of(training), False) for training in trainings_]
    distinct = [one for i, one in enumerate(facts) if repr(sorted(one.items())) not in
                {repr(sorted(before.items())) for before in facts[:i]}]  # fmt: skip
    suffixes = name_apart(distinct)
    assert len(set(suffixes)) == len(distinct)
    assert suffixes == [""] if len(distinct) == 1 else all(suffixes)
    assert name_apart(distinct[::-1]) == suffixes[::-1]
