"""Networks that were trained on other cases are told apart, whatever their names and settings are."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from umamba.evaluation.members import data_of
from umamba.evaluation.record import save_record
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.runs import gather

_spec = importlib.util.spec_from_file_location("scored_runs", Path(__file__).with_name("scored_runs.py"))
scored_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scored_runs)


def data(train: str, val: str = "", changed: str = "") -> dict:
    """Of cases of one letter each; labels of `changed` ones are others."""
    files = {name: {"label": f"{name}{name in changed}"} for name in train + val}
    found = data_of({**{name: f"image {name}" for name in train}, "init_from/z": "image z"}, files)
    assert found is not None
    return found


def names(folder: Path, **runs: tuple[str, int, dict | None]) -> list[str]:
    for name, (network, fold, known) in runs.items():
        seed = int(name[-1])
        scored_runs.make_run(folder / name / "tables", network=network, fold=fold, seed=seed, data=known)
    return [run.network for run in sorted(gather([folder]), key=lambda run: run.folder)]


def test_what_a_checkpoint_says_of_its_training_data() -> None:
    assert data("abc")["cases"] == 3 and data("abc") == data("cab")
    assert data("ab", "c")["set"] == data("bc", "a")["set"] == data("abc")["set"] != data("abcd")["set"]
    assert data("ab", "c")["trained_on"] != data("bc", "a")["trained_on"]
    assert data("abc")["set"] != data("abc", changed="b")["set"]
    assert data_of(None, {"a": {}}) is data_of({"a": "1"}, None) is data_of({"a": "1"}, {}) is None


def test_folds_of_one_set_are_replicates(tmp_path: Path) -> None:
    found = names(
        tmp_path, r0=("nnunet", 0, data("ab", "c")), r1=("nnunet", 1, data("ac", "b")), r2=("resenc", 0, None)
    )
    assert found == ["nnunet", "nnunet", "resenc"]


def test_networks_of_other_cases_say_so(tmp_path: Path) -> None:
    found = names(
        tmp_path, r0=("nnunet", 0, data("ab", "c")), r1=("nnunet", 0, data("abd", "c")),
        r2=("resenc", 0, data("abd", "c")), r3=("nnunet", 1, data("bcd", "a")), r4=("resenc", 1, None),
    )  # fmt: skip
    assert found == [
        "nnunet (training set of 3)", "nnunet (training set of 4)", "resenc (training set of 4)",
        "nnunet (training set of 4)", "resenc (training set unknown)",
    ]  # fmt: skip


def test_as_many_cases_with_other_labels_are_told_apart_by_their_hash(tmp_path: Path) -> None:
    one, other = data("abc"), data("abc", changed="b")
    found = names(tmp_path, r0=("nnunet", 0, one), r1=("nnunet", 0, other))
    assert found == [f"nnunet (training set {known['set'][:4]} of 3)" for known in (one, other)]


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_of_networks_of_other_cases_is_said_to_be_more_than_theirs(tmp_path: Path) -> None:
    more = "in the training set (see the runs and their settings): their scores may differ for these reasons too"
    for name, other in (("same", data("abc")), ("other", data("abc", changed="b"))):
        names(tmp_path / name, r0=("nnunet", 0, data("abc")), r1=("resenc", 0, other))
        page = make_report([tmp_path / name], tmp_path / f"{name}_report").read_text()
        assert (more in page) == (name == "other")


def test_one_fold_of_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained on different cases, though both are of fold 0: .*two splits"):
        names(tmp_path, r0=("nnunet", 0, data("ab", "c")), r1=("resenc", 0, data("bc", "a")))


def test_an_ensemble_of_two_seeds_stands_beside_its_members(tmp_path: Path) -> None:
    known = data("ab", "c")
    of_seed_1 = {
        "seed": 1, "data_name": "flare", "model_name": "nnunet", "fold": 0,
        "model": {"network": {"_target_": "networks.nnunet"}},
        "data": {"dataset_dir": "/raw/Dataset900_Phantom", "oversample": 0.33},
        "trainer": {"max_epochs": 2, "precision": "32-true"},
    }  # fmt: skip
    make_run = scored_runs.make_run
    for seed in (0, 1):
        make_run(tmp_path / f"r{seed}" / "tables", network="nnunet", seed=seed, data=known)
    both = make_run(tmp_path / "both", network="nnunet", data=known, more_members=(of_seed_1,))
    assert sorted(run.network for run in gather([tmp_path])) == ["nnunet", "nnunet", "nnunet, ensemble of 2"]
    record = json.loads((both / "run.json").read_text())
    record["members"][1]["data"] = data("bc", "a")  # of another split
    save_record(record, both)
    with pytest.raises(ValueError, match="two splits"):
        gather([tmp_path])


def test_a_training_that_was_scored_by_an_older_version_too_counts_once(tmp_path: Path) -> None:
    for name, known in (("old", None), ("new", data("ab"))):
        scored_runs.make_run(tmp_path / name / "tables", data=known)
    assert len(gather([tmp_path])) == 1
