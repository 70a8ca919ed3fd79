"""Habits of people who come from nnU-Net and from Lightning's template."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.composed import composed
from umamba.callbacks.last_checkpoint import ended_by
from umamba.locations import CONFIGS
from umamba.resolvers import job_name, register_resolvers
from umamba.run.compare import ResumeError
from umamba.run.folder import open_run
from umamba.run.habits import in_own_words, name_dataset, with_essentials
from umamba.run.score import check_metric, score_of
from umamba.run.sweep import quoted


def data_sets(folder: Path, *names: str):
    for name in names:
        (folder / name).mkdir(parents=True)
    register_resolvers()
    return composed("train", ["data=custom", f"paths.raw={folder}", "data.dataset_dir=4", "paths.prepared=p"])


def test_a_number_finds_its_data_set(tmp_path: Path) -> None:
    cfg = name_dataset(data_sets(tmp_path, "Dataset004_Hippocampus", "Dataset040_Other"))
    assert cfg.data.dataset_dir == str(tmp_path / "Dataset004_Hippocampus")
    assert cfg.data.prepared_dir == "p/Dataset004_Hippocampus"


def test_a_number_may_be_long(tmp_path: Path) -> None:
    cfg = data_sets(tmp_path, "Dataset12345_Liver")
    cfg.data.dataset_dir = "12345"
    assert name_dataset(cfg).data.dataset_dir == str(tmp_path / "Dataset12345_Liver")


def test_a_name_finds_its_data_set_unless_it_is_a_folder_here_or_to_be_made(tmp_path: Path, monkeypatch) -> None:
    name = "Dataset004_Hippocampus"
    cfg = data_sets(tmp_path / "raw", name)
    monkeypatch.chdir(tmp_path)
    for given, expected in ((name, str(tmp_path / "raw" / name)), ("Dataset800_Both", "Dataset800_Both")):
        cfg.data.dataset_dir = given
        assert name_dataset(cfg).data.dataset_dir == expected
    (tmp_path / name).mkdir()
    cfg.data.dataset_dir = name
    assert name_dataset(cfg).data.dataset_dir == name


def test_a_number_that_is_nowhere_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Dataset004_\*; it has Dataset005_Liver.*nnUNet_raw"):
        name_dataset(data_sets(tmp_path, "Dataset005_Liver"))


def test_a_number_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could be Dataset004_A or Dataset004_B"):
        name_dataset(data_sets(tmp_path, "Dataset004_A", "Dataset004_B"))


def test_folders_stay_what_they_are(tmp_path: Path, monkeypatch) -> None:
    cfg = data_sets(tmp_path)
    (tmp_path / "4").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in (4, "raw/Dataset004_X", None):
        cfg.data.dataset_dir = given
        assert name_dataset(cfg).data.dataset_dir == given


TASK = ["model=umamba_bot", "fold=0", "data=custom", "data.dataset_dir=/x/y"]


def test_jobs_are_called_by_what_the_sweep_varies(monkeypatch) -> None:
    line = ["train.py", "-m", "model=umamba_bot,nnunet", "fold=range(0,5)", "data=custom", "data.dataset_dir=/x/y"]
    monkeypatch.setattr("sys.argv", line)
    assert job_name(TASK, None) == "fold-0_model-umamba_bot"
    monkeypatch.setattr("sys.argv", ["train.py", "--config-name=benchmark"])
    assert job_name(["experiment=flare_nnunet", "seed=1"], {"experiment": "glob(*)"}) == "experiment-flare_nnunet"


def test_names_that_no_folder_can_have_stay_apart(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "-m"])
    jobs = [["x=a/b"], ["x=a b"], ["x=[1,2]"], [f"fold={'0' * 300}"], []]
    names = [job_name(job, None) for job in jobs]
    assert len(set(names)) == len(jobs)
    assert all(re.fullmatch(r"[\w.+-]{1,130}", name) for name in names), names


def test_the_score_of_a_job(tmp_path: Path) -> None:
    pd.DataFrame({"epoch": [0, 1, 2], "val/dice_ema": [0.1, 0.4, None]}).to_csv(tmp_path / "metrics.csv", index=False)
    (tmp_path / "tables").mkdir()
    pd.DataFrame({"case": ["a", "b"], "dsc": [0.5, 0.7]}).to_csv(tmp_path / "tables" / "per_case.csv", index=False)
    assert score_of(tmp_path, "val/dice_ema") == 0.4
    assert score_of(tmp_path, "test/dsc") == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"no values of it; its numbers are epoch, val/dice_ema"):
        score_of(tmp_path, "val/dice_liver")
    with pytest.raises(FileNotFoundError, match="the job has left no"):
        score_of(tmp_path / "other", "val/dice")


@pytest.mark.parametrize(
    ("name", "test", "message"),
    [("test/dsc", False, "test=false leaves out"), ("dice", True, "expected a column of metrics.csv")],
)
def test_a_score_that_no_job_will_have(name: str, test: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_metric(name, test=test)
    check_metric(None, test=test)
    check_metric("val/dice_ema", test=test)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resume", "logs/x", "run_dir=<folder> goes on"),
        ("test", 3, "expected true or false"),
        ("seed", "abc", "expected a whole number"),
    ],
)
def test_switches_are_true_or_false(key: str, value: object, message: str, tmp_path: Path) -> None:
    switches = {"train": True, "test": True, "resume": True, "seed": 1, "ckpt_path": None}
    cfg = OmegaConf.create({**switches, "run_dir": str(tmp_path / "run"), key: value})
    with pytest.raises(ResumeError, match=message), open_run(cfg):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("waited", "stops_early", "finished"), [(5, True, True), (4, True, False), (5, False, False)])
def test_a_run_that_stopped_early_is_finished(tmp_path: Path, waited: int, stops_early: bool, finished: bool) -> None:
    kept = {"EarlyStopping{'monitor': 'val/dice_ema', 'mode': 'max'}": {"wait_count": waited, "patience": 5}}
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 7}}}}
    torch.save({"loops": loops, "global_step": 70, "callbacks": kept}, tmp_path / "last.ckpt")
    by = ended_by(tmp_path / "last.ckpt", max_epochs=100, stops_early=stops_early)
    assert by == ("early stopping" if finished else None)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["callbacks=null", "~logger", "augmentation=null"], ["callbacks=none", "logger=none", "augmentation=none"]),
        (["experiment=null", "debug=null", "fold=1"], ["fold=1"]),
        (["max_epochs=0", "fast_dev_run=true"], ["trainer.max_epochs=0", "trainer.fast_dev_run=true"]),
        (["max_epochs=3,4", "devices=[0,1]"], ["trainer.max_epochs=3,4", "trainer.devices=[0,1]"]),
    ],
)
def test_usual_words_mean_what_they_mean_elsewhere(given: list[str], meant: list[str]) -> None:
    assert in_own_words(given) == meant


@pytest.mark.parametrize(
    "word",
    [
        "data=null", "callbacks.preview=null", "~augmentation.gamma", "resume=false", "resume=null", "logger=csv",
        "+max_epochs=3", "--config-name=benchmark", "--multirun", "-m", "seed=1", "ckpt_path=null", "tags=[a,b]",
        "'logger=[csv", "~callbacks=default",
    ],
)  # fmt: skip
def test_other_words_stay(word: str) -> None:
    assert in_own_words([word]) == [word]


@pytest.mark.parametrize("word", ["~loss", "~loss=dice_ce", "~model", "~data", "~trainer"])
def test_what_a_run_needs_is_not_left_out(word: str) -> None:
    key = word.strip("~").split("=")[0]
    with pytest.raises(ValueError, match=rf"^{word} leaves out what a run needs: {key}=\.\.\. takes another"):
        in_own_words([word])
    for name in ("seed", "trainer.max_epochs"):
        with pytest.raises(ValueError, match=rf"^~{name} leaves out what a run needs\. Give it a value, {name}=\.\.\."):
            in_own_words([f"~{name}"])


@pytest.mark.parametrize("name", ["run", "a b", "seed=1,2", "it's"])
def test_a_run_to_go_on_with_is_its_folder(tmp_path: Path, name: str) -> None:
    folder, best = tmp_path / name, tmp_path / name / "checkpoints" / "best.ckpt"
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        in_own_words([f"resume={quoted(str(folder))}"])
    best.parent.mkdir(parents=True)
    for path in (folder / "config.yaml", best.with_name("last.ckpt"), best):
        path.touch()
    last = quoted(str(best.with_name("last.ckpt")))
    meant = [f"run_dir={quoted(str(folder))}"]
    assert in_own_words([f"resume={quoted(str(folder))}"]) == meant
    assert in_own_words([f"ckpt_path={last}"]) == meant
    with pytest.raises(ValueError, match="is not the last checkpoint of a run's folder.*init_from"):
        in_own_words([f"ckpt_path={quoted(str(best))}"])
    elsewhere = [f"ckpt_path={quoted(str(best))}", "run_dir=new"]
    assert in_own_words(elsewhere) == elsewhere


def test_every_file_none_is_one_of_its_group() -> None:
    assert {path.parent.name for path in CONFIGS.glob("*/none.yaml")} == {"callbacks", "logger", "augmentation"}


@pytest.mark.parametrize("given", [["callbacks=none"], ["~callbacks"], ["+callbacks=null"]])
def test_no_callbacks_are_those_that_no_run_goes_without(given: list[str]) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        if given == ["+callbacks=null"]:  # as an experiment says it
            cfg = compose("train")
            cfg.callbacks = None
        else:
            cfg = compose("train", given)
        callbacks = with_essentials(cfg).callbacks
        default = compose("train").callbacks
        for name in ("last", "finite"):
            assert callbacks[name]._target_ == default[name]._target_
        assert list(callbacks) == ["last", "finite"] and callbacks.finite == default.finite
