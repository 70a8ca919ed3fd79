"""What a user can put right is said without a traceback; a fault of the program keeps it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from umamba.locations import ROOT
from umamba.run.compare import ResumeError
from umamba.run.errors import explained
from umamba.run.lock import RunInUseError
from umamba.target_check import trusted_names


@pytest.fixture
def log_file(tmp_path: Path):
    handler = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "train.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


@pytest.mark.parametrize("error", [ResumeError("Another fold."), RunInUseError("In use.")])
def test_the_message_is_last_and_alone(error: Exception, log_file: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended, explained():
        raise error
    assert ended.value.code == 1 and capsys.readouterr().err == f"{error}\n"
    assert "Traceback" in log_file.read_text() and "test_errors.py" in log_file.read_text()


def test_within_hydras_job_it_stands_alone_too(capsys) -> None:
    with pytest.raises(SystemExit), explained(), explained():
        raise ResumeError("Another fold.")
    assert capsys.readouterr().err == "Another fold.\n" and "HYDRA_FULL_ERROR" not in os.environ


def test_an_error_that_the_project_raises_itself(log_file: Path, capsys) -> None:
    with pytest.raises(SystemExit), explained():
        trusted_names("a/b")
    assert "Traceback" not in capsys.readouterr().err and "trusted_names" in log_file.read_text()


@pytest.mark.parametrize("fault", [lambda: int("x"), lambda: {}["x"], lambda: Path("missing").read_text()])
def test_a_fault_of_the_program_keeps_its_traceback(fault, log_file: Path) -> None:
    with pytest.raises((ValueError, KeyError, FileNotFoundError)), explained(), explained():
        fault()
    assert log_file.read_text().count("Traceback") == 1


def test_hydras_own_switch_shows_everything(monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ResumeError), explained(), explained():
        raise ResumeError("Another fold.")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0.1", r"(?s)optimizer.lr.*model\.optimizer\.lr=.*resumed keeps the optimiser"),
        ("data.iteration_per_epoch=4", "iteration_per_epoch"),
        ("model=umambo", "umamba_bot"),
        ("max_epochs=3", r"There is trainer\.max_epochs\."),
        ("data.lr=3", r"There is model\.optimizer\.lr\."),
        ("trainer.iterations_per_epoch=3", r"There is data\.iterations_per_epoch\."),
        ("checkpoint=last.ckpt", "train.py and eval.py take ckpt_path=<file>"),
    ],
)
def test_a_wrong_key_is_explained(override: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit), explained(), initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", [override])
    assert re.search(message, capsys.readouterr().err)


def test_what_cannot_be_built_says_why(capsys) -> None:
    with pytest.raises(SystemExit), explained():
        instantiate({"_target_": "umamba.callbacks.cost.Cost", "fodler": "x"})
    assert "fodler" in capsys.readouterr().err
