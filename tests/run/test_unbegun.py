"""A start that is refused leaves nothing that looks like a run, and touches nothing that is one."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from tests.miniatures import TINY, make_volumes, run
from umamba.cascade.command import run_cascade
from umamba.run.unbegun import Before, nothing_left, remove_unbegun, what_is_there

DATA = [*TINY, "data=custom", "data.dataset_dir=raw", "model=nnunet", "test=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    make_volumes(folder / "raw", cases=5)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.precision=half"], "Precision 'half' is invalid"),
        (["run_dir=logs/mine", "seed=-1"], "seed=-1: expected a whole number"),
        (["run_dir=elsewhere/mine", "init_from=nowhere.ckpt"], "There is no checkpoint at init_from=nowhere.ckpt"),
        (["logger=wandb", "data.batch_size=0"], "data.batch_size=0: expected a whole number from 1"),
        (["--config-name=cross_validation", "trainer.precision=half"], "Precision 'half' is invalid"),
        (["--config-name=cascade", "loss.class_weights=[1,2,3,4,5]"], "class_weights"),
        (["--config-name=cascade"], "has no configuration '3d_cascade_fullres'"),
        (["--multirun", "trainer.precision=32-true,half"], "the job trainer.precision-half would be refused"),
        (["--multirun", "seed=1,-1"], "seed=-1: expected a whole number"),
        (["--multirun", "seed=1,2", "hydra.sweep.subdir=same"], "gives several jobs the folder same"),
    ],
)
def test_a_start_that_is_refused_leaves_no_folder(folder: Path, options: list[str], message: str) -> None:
    flags = [option for option in options if option.startswith("--")]
    said = run("train.py", *flags, *DATA, *options[len(flags) :], folder=folder, ok=False)
    assert message in said and "Traceback" not in said and "Error executing" not in said, said
    assert "Epoch" not in said and ("class_weights" not in message or "Fingerprint" not in said)
    made = [path for name in ("logs", "elsewhere") for path in (folder / name).rglob("*")]
    assert not made and not (folder / "elsewhere" / "mine").exists(), made


def test_what_a_run_has_made_and_what_is_in_use_stays(tmp_path: Path, caplog) -> None:
    there = what_is_there(tmp_path)
    for name in ("begun", "used", "linked", "unbegun"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_text("said")
    (tmp_path / "begun" / "config.yaml").write_text("")
    (tmp_path / "linked" / ".lock").symlink_to(tmp_path / "begun" / "train.log")
    with FileLock(tmp_path / "used" / ".lock"):
        for folder in (*tmp_path.iterdir(), tmp_path / "nowhere"):
            remove_unbegun(folder, there)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["begun", "linked", "used"]
    assert all((folder / "train.log").read_text() == "said" for folder in tmp_path.iterdir())


def test_the_folder_of_the_call_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    there = what_is_there(tmp_path)
    for start in ("here/below", "here"):
        monkeypatch.chdir(tmp_path / start)
        remove_unbegun(Path(), there)
        assert (tmp_path / start).is_dir()
    monkeypatch.chdir(tmp_path / "here" / "below")
    Path(".lock").touch()  # what the call has made goes
    remove_unbegun(Path(), there)
    assert not [*Path().iterdir()]
    monkeypatch.chdir(tmp_path)
    remove_unbegun(tmp_path / "here" / "below", None)
    assert (tmp_path / "here" / "below").is_dir()
    remove_unbegun(tmp_path / "here" / "below", there)
    assert not (tmp_path / "here" / "below").exists()


def test_folders_between_the_runs_and_this_one_go_while_they_are_empty(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "task" / "fold_0" / "now"
    (tmp_path / "logs").mkdir()
    there = what_is_there(folder)
    folder.mkdir(parents=True)
    handler = logging.FileHandler(folder / "train.log")
    logging.getLogger().addHandler(handler)
    remove_unbegun(folder, there)
    assert handler not in logging.getLogger().handlers
    assert (tmp_path / "logs").is_dir() and not (tmp_path / "logs" / "task").exists()
    folder.mkdir(parents=True)
    (tmp_path / "logs" / "task" / "fold_1").mkdir()
    remove_unbegun(folder, there)
    assert [path.name for path in (tmp_path / "logs" / "task").iterdir()] == ["fold_1"]


def test_lines_of_long_work_are_in_the_log_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cascade is planned before its first fold begins: what is said meanwhile was in the log file only then."""
    path = tmp_path / "train.log"
    path.write_text("before\n")
    here = SimpleNamespace(runtime=SimpleNamespace(output_dir=tmp_path))
    monkeypatch.setattr("umamba.run.unbegun.HydraConfig.get", lambda: here)
    monkeypatch.setattr(Before, "there", what_is_there(tmp_path))

    def plan(*given: object) -> str:
        logging.getLogger("umamba").warning("planning")
        assert path.read_text() == "before\nplanning\n"
        raise ValueError("no cascade")

    for name in ("_refuse_chosen", "check_options", "check_settings", "folds_of"):
        monkeypatch.setattr(f"umamba.cascade.command.{name}", lambda *given: None)
    monkeypatch.setattr("umamba.cascade.command._first_stage", plan)
    logging.getLogger().addHandler(handler := logging.FileHandler(path))
    config = {"run_dir": str(tmp_path), "cascade": {"configuration": "3d_cascade_fullres"}}
    with pytest.raises(ValueError, match="no cascade"), nothing_left():
        run_cascade(OmegaConf.create(config | {"cross_validation": {"folds": [0, 1]}}), "train.py")
    logging.getLogger().removeHandler(handler)
    assert path.read_text() == "before\n" and [*tmp_path.iterdir()] == [path]


def test_what_was_there_before_a_start_that_is_refused_stays_as_it_was(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "kept").mkdir()
    (folder / "kept" / "notes.txt").write_text("mine")
    begun = [*DATA, "run_dir=run", "trainer.max_epochs=1"]
    run("train.py", *begun, folder=folder)
    before = (folder / "run" / "train.log").read_bytes()
    assert b"Epoch 1/1" in before
    wrong, late, nothing = "trainer.precision=half", "init_from=nowhere.ckpt", "data.batch_size=0"
    for name, option in (("mine", wrong), ("kept", late), ("kept", nothing), ("mine/below/deeper", nothing)):
        run("train.py", *DATA, f"run_dir={name}", option, folder=folder, ok=False)
    run("train.py", "--config-name=cross_validation", *DATA, "run_dir=mine", wrong, folder=folder, ok=False)
    run("train.py", "--multirun", *DATA, "hydra.sweep.dir=mine", "seed=1,-1", folder=folder, ok=False)
    assert not [*(folder / "mine").iterdir()]
    assert [path.name for path in (folder / "kept").iterdir()] == ["notes.txt"]
    for options in ([*begun, "seed=5"], ["run_dir=run", "seed=-1"], ["run_dir=run", "data.dataset_dir=gone"]):
        run("train.py", *options, folder=folder, ok=False)
        assert (folder / "run" / "train.log").read_bytes() == before
    with FileLock(folder / "run" / ".lock"):
        said = run("train.py", "run_dir=run", folder=folder, ok=False)
    assert "is in use by another training" in said and (folder / "run" / "train.log").read_bytes() == before
    run("train.py", "run_dir=run", "trainer.max_epochs=2", folder=folder)
    now = (folder / "run" / "train.log").read_bytes()
    assert now.startswith(before) and b"Continuing with the configuration" in now and b"Epoch 2/2" in now
