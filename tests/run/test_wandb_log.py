"""W&B that neither asks nor stops a run."""

import logging
import os
from pathlib import Path

import pytest
from hydra.utils import get_method

from tests import warm_start
from umamba.locations import ROOT
from umamba.run.errors import environment_of_children
from umamba.run.wandb_log import wandb_logger
from umamba.targets import present_names


def test_wandb_is_offline_without_a_key(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setattr("umamba.run.wandb_log.has_wandb_key", lambda: False)
    with caplog.at_level(logging.WARNING):
        logger = wandb_logger(project="p", save_dir=str(tmp_path))
    assert logger._offline and "wandb sync" in caplog.text


OFFLINE = """
import sys
from umamba.run.wandb_log import wandb_logger
logger = wandb_logger(project="p", save_dir=sys.argv[1])
logger.log_metrics({"train/loss": 1.0}, step=0)
logger.experiment.finish()
"""


def test_offline_the_one_line_is_ours(tmp_path: Path, monkeypatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    result = warm_start.run("-c", OFFLINE, tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and result.stderr.splitlines() == [
        "No W&B API key: logging offline. Upload later with `wandb sync`. `wandb login` sets a key."
    ]
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_key_is_found_where_wandb_keeps_it(tmp_path: Path, monkeypatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    program = "import sys; from umamba.run.wandb_log import has_wandb_key; sys.exit(has_wandb_key())"
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    for machine, found in (("elsewhere.example.org", False), ("wandb.example.org", True)):
        netrc.write_text(f"machine {machine} login user password {'0123456789' * 4}\n")
        ended = warm_start.run("-c", program, cwd=ROOT)
        assert "deprecated" not in ended.stderr
        assert ended.returncode == found, ended.stderr


def test_a_resumed_run_continues_its_own_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, again = (wandb_logger(project="p", save_dir=str(tmp_path / "run")) for _ in range(2))
    other = wandb_logger(project="p", save_dir=str(tmp_path / "other"))
    assert first.version == again.version != other.version
    assert first._wandb_init["id"] == first.version and first._wandb_init["resume"] == "allow"


def test_tags_and_what_tables_need_lie_in_the_runs_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    logger = wandb_logger(project="p", save_dir=str(tmp_path / "a"), tags=["ablation", "s6"])
    one = wandb_logger(project="p", save_dir=str(tmp_path / "one"), tags="ablation")
    assert one._wandb_init["tags"] == ["ablation"]
    assert logger._wandb_init["tags"] == ["ablation", "s6"] and "anonymous" not in logger._wandb_init
    assert os.environ["WANDB_DATA_DIR"] == "mine"
    monkeypatch.delenv("WANDB_DATA_DIR")
    for name in ("a", "b"):
        wandb_logger(project="p", save_dir=str(tmp_path / name))
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / name / "wandb")


UNREACHABLE = """
import logging, sys, time
logging.basicConfig(level=logging.WARNING)
from umamba.run.errors import environment_of_children
from umamba.run.wandb_log import wandb_logger
logger = wandb_logger(project="p", save_dir=sys.argv[1])
started = time.monotonic()
logger.log_metrics({"train/loss": 1.0}, step=0)
print("seconds", time.monotonic() - started)
print("offline", logger.experiment.offline)
"""


@pytest.mark.slow
def test_a_key_without_a_network_logs_offline(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    result = warm_start.run("-c", UNREACHABLE, tmp_path, cwd=ROOT)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "offline True" in output and "W&B cannot be used" in output
    assert list((tmp_path / "wandb").glob("offline-run-*")), output


KILLED = """
import logging, os, signal, sys
from pathlib import Path
logging.basicConfig(level=logging.WARNING)
from umamba.run.errors import environment_of_children
from umamba.run.wandb_log import wandb_logger
logger = wandb_logger(project="p", save_dir=sys.argv[1])
logger.log_metrics({"train/loss": 1.0}, step=0)
children = [int(child) for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
assert children, "W&B has no process of its own here"
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
for step in range(1, 4):
    logger.log_metrics({"train/loss": 1.0}, step=step)
logger.log_hyperparams({"seed": 1})
logger.finalize("success")
print("came to its end")
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds W&B's process in /proc")
def test_its_own_process_killed_does_not_end_a_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of a W&B in this very process: it would be used there too
    result = warm_start.run("-c", KILLED, tmp_path, cwd=ROOT)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "came to its end" in output, output
    assert output.count("W&B has failed") == 1


SERVES = """
import os, subprocess, sys
import wandb
from umamba.run.errors import environment_of_children
wandb.init(mode="offline", dir=sys.argv[1], project="p")
assert os.environ["WANDB_SERVICE"], "W&B has not told its children where it is"
code = subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], env=environment_of_children()).returncode
wandb.log({"x": 1})  # whose own W&B goes on
wandb.finish()
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds W&B's process in /proc")
def test_a_job_has_a_process_of_its_own_where_the_sweep_uses_it_too(tmp_path: Path, monkeypatch) -> None:
    """The job kills the W&B that serves it, which must not be the sweep's."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    result = warm_start.run("-c", SERVES, tmp_path, KILLED, cwd=ROOT)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "came to its end" in output, output
    assert output.count("W&B has failed") == 1


def test_a_started_program_gets_all_else_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "2-1-unix-x")
    monkeypatch.setenv("WANDB_PROJECT", "p")
    given = environment_of_children()
    assert given == {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}


def test_runs_from_before_it_moved_find_it() -> None:
    stored = {"wandb": {"_target_": "src.run.wandb_logger"}}
    assert get_method(present_names(stored)["wandb"]["_target_"]) is wandb_logger
