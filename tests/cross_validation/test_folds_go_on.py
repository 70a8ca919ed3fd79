"""A cross-validation or cascade asked for again with other settings: refused before the first fold is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from tests.cascade.made_cascade import LOW, SECOND, split_in_two, two_stages
from tests.miniatures import make_volumes
from umamba.cascade import command as cascade
from umamba.cross_validation import cross_validate as folds
from umamba.cross_validation.cross_validate import cross_validate
from umamba.evaluation.held_out import cases_of_training
from umamba.locations import ROOT
from umamba.plain import to_plain
from umamba.resolvers import register_resolvers
from umamba.run.compare import ResumeError
from umamba.run.jobs import Job

COMMON = ["data=custom", "data.dataset_dir=here", "model=nnunet", "trainer=cpu"]
OTHER = "data.patch_size=[16,16,16]"


class Began(Exception):
    """A fold would have been trained."""


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What would have been trained."""
    begun: list[Job] = []

    def run_jobs(jobs: list[Job], slots: object) -> None:
        begun.extend(jobs)
        raise Began

    monkeypatch.setattr(folds, "run_jobs", run_jobs)
    return begun


@contextmanager
def called(config: str, *overrides: str) -> Iterator[DictConfig]:
    """The configuration of a call of train.py, within it."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose(config, list(overrides), return_hydra_config=True)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            yield cfg
        finally:
            HydraConfig.instance().cfg = before


def left_by(job: list[str], config: str, *, of_data: bool = False) -> Path:
    """The folder that a fold's process leaves, made by composing its command; without weights, and data if none are."""
    overrides = [word for word in job if not word.startswith(("hydra", "--"))]
    with called(config, *overrides) as cfg:
        content = to_plain(cfg)
    folder = Path(content["run_dir"])
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    checkpoint = {"config": content, "plan": {}, "configuration": content["data"]["configuration"]}
    if of_data:
        datamodule = instantiate(content["data"])
        datamodule.open_raw()
        datamodule.make_plan()
        checkpoint |= {"plan": datamodule.plan.to_dict(), "cases": cases_of_training(datamodule)}
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


def train(tmp_path: Path, *overrides: str) -> None:
    with called("cross_validation", *COMMON, f"run_dir={tmp_path}/cv", *overrides) as cfg:
        cross_validate(cfg, "train.py")


@pytest.fixture
def two(tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folds 0 and 1 of a cross-validation, as its own commands leave them; of no data."""
    monkeypatch.setattr(folds, "check_data_goes_on", lambda run: None)
    with pytest.raises(Began):
        train(tmp_path, "cross_validation.folds=[0,1]")
    for job in jobs:
        left_by(job.command[2:], "cross_validation")
    jobs.clear()
    return tmp_path / "cv"


@pytest.mark.parametrize("asked", ["[0,1,2,3,4]", "[2,3,4]", "[1,2]"])
def test_other_settings_are_refused_before_a_missing_fold_is_trained(two, jobs, tmp_path, asked) -> None:
    files = {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}
    with pytest.raises(ResumeError, match=r"fold_[01] was trained.*\n  data.patch_size: None -> \[16, 16, 16\]"):
        train(tmp_path, OTHER, f"cross_validation.folds={asked}")
    assert not jobs
    assert files == {path: path.read_bytes() for path in two.rglob("*") if path.is_file() and path in files}


@pytest.mark.parametrize(
    "overrides", [[], ["trainer.max_epochs=7"], ["data.num_workers=1"], ["cross_validation.mirror=true"]]
)
def test_the_same_settings_go_on(two, jobs, tmp_path, overrides) -> None:
    with pytest.raises(Began):
        train(tmp_path, *overrides)
    assert [job.name for job in jobs] == [f"Fold {fold}" for fold in range(5)]


def test_a_fold_without_a_checkpoint_may_change(two, jobs, tmp_path) -> None:
    for path in two.rglob("last.ckpt"):
        path.unlink()
    with pytest.raises(Began):
        train(tmp_path, OTHER)
    assert len(jobs) == 5


def test_one_differing_fold_among_others_is_found(two, jobs, tmp_path) -> None:
    with pytest.raises(Began):
        train(tmp_path)
    left_by([*jobs[4].command[2:], OTHER], "cross_validation")
    jobs.clear()
    with pytest.raises(ResumeError, match=r"fold_4 was trained.*\n  data.patch_size: \[16, 16, 16\] -> None"):
        train(tmp_path)
    assert not jobs


REFUSED_EARLY = [
    ("trainer.precision=half", "Precision 'half' is invalid"),
    ("callbacks.last=null", "combines the last checkpoints of its folds"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1"),
    ("data.placement=attic", "data.placement"),
    ("+model.network._target_=os.system", "model.network._target_"),
]


@pytest.mark.parametrize(("option", "message"), REFUSED_EARLY)
def test_what_every_fold_would_refuse_is_refused_before_the_first(jobs, tmp_path, option: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        train(tmp_path, option)
    assert not isinstance(caught.value, Began) and not jobs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A data set of two folds, and the file of a plan that gives it a cascade."""
    folder = make_volumes(tmp_path / "Dataset961_Two", labels=("liver", "tumour"))
    split_in_two(folder)
    two_stages().save(tmp_path / "plan.json")
    return folder


def train_both(raw: Path, *overrides: str) -> None:
    places = [f"data.dataset_dir={raw}", f"data.prepared_dir={raw.parent}/prepared",
              f"data.planning.plans={raw.parent}/plan.json", f"run_dir={raw.parent}/casc"]  # fmt: skip
    with called("cascade", "data=custom", "model=nnunet", "trainer=cpu", *places, *overrides) as cfg:
        cascade.run_cascade(cfg, "train.py")


def train_set(raw: Path, *overrides: str) -> None:
    """A cross-validation of a data set, always in the same folder, as without run_dir=."""
    places = [f"data.dataset_dir={raw}", f"data.prepared_dir={raw.parent / raw.name}_prepared"]
    called_with = ["data=custom", "model=nnunet", "trainer=cpu", *places, f"run_dir={raw.parent}/cv", *overrides]
    with called("cross_validation", *called_with) as cfg:
        cross_validate(cfg, "train.py")


def test_other_data_and_another_plan_are_refused_before_a_fold_is_trained(raw: Path, jobs: list[Job]) -> None:
    with pytest.raises(Began):
        train_set(raw, "cross_validation.folds=[0,1]")
    left_by(jobs[0].command[2:], "cross_validation", of_data=True)
    jobs.clear()
    with pytest.raises(Began):
        train_set(raw, "cross_validation.folds=[0,1]")
    other = make_volumes(raw.parent / "Dataset962_Other", labels=("liver", "tumour"), shape=(20, 24, 22))
    split_in_two(other)
    jobs.clear()
    with pytest.raises(ResumeError, match=r"was trained on other data[^$]*cases\.trained_on"):
        train_set(other, "cross_validation.folds=[0,1]")
    with pytest.raises(ResumeError, match=r"was trained on other data"):  # no fold that is there is asked for
        train_set(other, "cross_validation.folds=[1,0]")
    assert not jobs and not (raw.parent / "Dataset962_Other_prepared" / "plan.json").exists()

    path = raw.parent / f"{raw.name}_prepared" / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"]["wide"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    path.write_text(json.dumps(plan))
    with pytest.raises(Began):
        train_set(raw, "cross_validation.folds=[0,1]")
    jobs.clear()
    plan["configurations"]["3d_fullres"]["batch_size"] = 5
    path.write_text(json.dumps(plan))
    with pytest.raises(ResumeError, match=r"plan.configurations.3d_fullres.batch_size: 2 -> 5"):
        train_set(raw, "cross_validation.folds=[0,1]")
    assert not jobs


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("10", "1", r"1 case\(s\) in both train and val: 'case_1'"),
        ("29", "1", r"1 case\(s\) not in the data set \(which has 'case_0', ...\): 'case_9'"),
        ("2", "01", r"1 case\(s\) in the val of another fold too: 'case_0'"),
    ],
)
def test_faults_of_any_fold_are_told_before_the_first_is_trained(
    raw: Path, jobs, train: str, val: str, message
) -> None:
    parts = [("12", "0"), (train, val)]
    splits = [{"train": [f"case_{i}" for i in one], "val": [f"case_{i}" for i in other]} for one, other in parts]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match=rf"splits_final.json, fold 1: {message}"):
        train_set(raw, "cross_validation.folds=[0,1]")
    assert not jobs


@pytest.mark.parametrize("stage", [LOW, SECOND])
def test_both_stages_are_compared_before_the_first_is_trained(raw, jobs, monkeypatch, stage) -> None:
    commands: list[list[str]] = []
    with monkeypatch.context() as patched:  # what each stage would train
        patched.setattr(folds, "run_jobs", lambda jobs, slots: commands.extend(job.command for job in jobs) or {})
        patched.setattr(folds, "pool", lambda *_: None)
        train_both(raw, "cross_validation.folds=[0,1]")
    of_stage = [command for command in commands if f"data.configuration='{stage}'" in command]
    assert len(commands) == 4 and len(of_stage) == 2
    monkeypatch.setattr(folds, "check_data_goes_on", lambda run: None)
    left_by(of_stage[0][2:], "cascade")
    with pytest.raises(Began):
        train_both(raw, "cross_validation.folds=[0,1]")
    assert len(jobs) == 2
    jobs.clear()
    with pytest.raises(ResumeError, match=rf"{stage}/fold_0 was trained.*\n  data.patch_size"):
        train_both(raw, "cross_validation.folds=[0,1]", OTHER)
    assert not jobs


def test_folds_of_a_cascade_that_do_not_hold_out_every_case_are_refused(raw, jobs) -> None:
    (raw / "splits_final.json").unlink()
    said = r"folds=\[0,1\] is given to a cascade, and 3 case.*folds=\[0,1,2,3,4\]"
    with pytest.raises(ValueError, match=said) as caught:
        train_both(raw, "cross_validation.folds=[0,1]")
    assert f"data.configuration={SECOND} previous_stage=" in str(caught.value) and not jobs
    with pytest.raises(Began):
        train_both(raw)


def test_what_both_stages_would_refuse_is_refused_before_the_first(raw, jobs) -> None:
    with pytest.raises(Exception, match="Precision 'half' is invalid"):
        train_both(raw, "cross_validation.folds=[0,1]", "trainer.precision=half")
    assert not jobs
