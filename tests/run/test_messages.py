"""Each command says what was given wrongly in a message alone, as train.py does; HYDRA_FULL_ERROR=1 shows all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm_start


def call(folder: Path, *line: str, full: bool = False) -> subprocess.CompletedProcess:
    return warm_start.run(*line, cwd=folder, env={**os.environ, "HYDRA_FULL_ERROR": "1" if full else "0"})


def call_python(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["predict.py", "checkpoint=no.ckpt", "input=in", "output=out"], "No checkpoint at no.ckpt"),
        (["predict.py", "checkpont=no.ckpt"], "checkpont"),
        (["predict.py", "input=in"], "output=... is missing, and has no default"),
        (["train.py", "model=null", "optimizer=null"], "model=null chooses none of the group's files"),
        (["train.py", "resume=elsewhere"], "resume=elsewhere: there is no run in elsewhere"),
        (["train.py", "ckpt_path=no.ckpt"], "ckpt_path=no.ckpt: there is no such file"),
        (["predict.py", "ckpt_path=no.ckpt"], "predict.py takes checkpoint=<file>"),
        (["eval.py", "output=out"], "Give either ckpt_path=..., or predictions="),
        (["eval.py", "ckpt_path=no.ckpt", "output=out"], "no.ckpt"),
        (["-m", "umamba", "evaluate", "predictions=in", "output=out"], "references="),
        (["-m", "umamba.evaluation.report", "runs=in", "output=out"], "run.json"),
        (["-m", "umamba", "export", "checkpoint=no.ckpt", "output=out.ckpt"], "no.ckpt"),
        (["-m", "umamba.datamodules.doctor", "data=nothing"], "nothing"),
    ],
)
def test_a_mistake_is_a_message(tmp_path: Path, line: list[str], message: str) -> None:
    (tmp_path / "in").mkdir()
    ended = call(tmp_path, *line)
    said = ended.stderr + ended.stdout
    assert ended.returncode not in (0, None) and message in said, said
    assert "Traceback" not in said and "HYDRA_FULL_ERROR" not in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_hydras_switch_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in call(tmp_path, "eval.py", "output=out", full=True).stderr


def test_what_is_not_installed_is_a_message(tmp_path: Path) -> None:
    code = (
        "import sys; from umamba.run.errors import explained; from umamba.evaluation.tables import check_parquet\n"
        "import umamba.evaluation.tables as tables; tables.find_spec = lambda name: None\n"
        "with explained(), explained(): check_parquet(True)"
    )
    ended = call_python(tmp_path, code)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "pip install pyarrow" in ended.stderr


def test_a_full_disk_is_a_message(small_disk: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from umamba.run.errors import explained; from umamba.files import write_text\n"
        "with explained(), explained(): write_text('x' * 200_000, sys.argv[1])"
    )
    ended = call_python(tmp_path, code, str(small_disk / "label.txt"))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr and str(small_disk / "label.txt") in ended.stderr


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = (
        "import pathlib; from umamba.run.errors import explained\n"
        "with explained(), explained(): pathlib.Path('file/output').mkdir(parents=True)"
    )
    ended = call_python(tmp_path, code)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "file/output" in ended.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("data.num_workers=-2", "data.num_workers is -2; expected a whole number, 0 or more.\n"),
        ("+trainer.foo=1", "trainer: Trainer.__init__() got an unexpected keyword argument 'foo'\n"),
    ],
)
def test_what_is_built_of_a_wrong_value_is_said_without_hydras_words(tmp_path: Path, value: str, message: str) -> None:
    """And the call leaves nothing behind that the next one in this folder would take over."""
    ended = call(tmp_path, "train.py", "data=phantom", "trainer=cpu", f"run_dir={tmp_path / 'run'}", value)
    assert ended.returncode == 1 and ended.stderr == message, ended.stderr
    assert not (tmp_path / "run").exists()
