"""A start that is refused leaves nothing that looks like a run, and touches nothing that is one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from filelock import FileLock

from tests.miniatures import TINY, make_volumes, run
from umamba.run.unbegun import remove_unbegun

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
        (["logger=wandb", "data.batch_size=0"], "batch_size = 0: expected"),
        (["--config-name=cross_validation", "trainer.precision=half"], "Precision 'half' is invalid"),
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
    assert "Epoch" not in said
    made = [path for name in ("logs", "elsewhere") for path in (folder / name).rglob("*")]
    assert not made and not (folder / "elsewhere" / "mine").exists(), made


def test_a_job_that_fails_is_told_of_in_our_words_alone(folder: Path) -> None:
    said = run("train.py", "--multirun", *DATA, "fold=0,7", "trainer.max_epochs=1", "hydra.sweep.dir=sweep",
               folder=folder, ok=False)  # fmt: skip
    assert "fold-0 is done." in said and "fold-7 failed: data.fold must be" in said.replace("\n", " "), said
    assert "Error executing" not in said and "HYDRA_FULL_ERROR" not in said and "Traceback" not in said, said
    assert sorted(path.name for path in (folder / "sweep").iterdir()) == ["fold-0", "jobs", "multirun.yaml"]


def test_what_a_run_has_made_and_what_is_in_use_stays(tmp_path: Path, caplog) -> None:
    for name in ("begun", "used", "linked", "unbegun"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_text("said")
    (tmp_path / "begun" / "config.yaml").write_text("")
    (tmp_path / "linked" / ".lock").symlink_to(tmp_path / "begun" / "train.log")
    with FileLock(tmp_path / "used" / ".lock"):
        for folder in (*tmp_path.iterdir(), tmp_path / "nowhere"):
            remove_unbegun(folder, None)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["begun", "linked", "used"]
    assert all((folder / "train.log").read_text() == "said" for folder in tmp_path.iterdir())


def test_the_folder_of_the_call_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    for start in ("here/below", "here"):
        monkeypatch.chdir(tmp_path / start)
        remove_unbegun(Path(), tmp_path)
        assert (tmp_path / start).is_dir()
    remove_unbegun(tmp_path / "here" / "below", None)
    assert not (tmp_path / "here" / "below").exists()


def test_folders_between_the_runs_and_this_one_go_while_they_are_empty(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "task" / "fold_0" / "now"
    folder.mkdir(parents=True)
    handler = logging.FileHandler(folder / "train.log")
    logging.getLogger().addHandler(handler)
    remove_unbegun(folder, tmp_path / "logs")
    assert handler not in logging.getLogger().handlers
    assert (tmp_path / "logs").is_dir() and not (tmp_path / "logs" / "task").exists()
    folder.mkdir(parents=True)
    (tmp_path / "logs" / "task" / "fold_1").mkdir()
    remove_unbegun(folder, tmp_path / "logs")
    assert [path.name for path in (tmp_path / "logs" / "task").iterdir()] == ["fold_1"]
