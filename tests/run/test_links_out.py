"""Links in a run's folder, which may have come from somebody else, lead no writer out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import warm_start
from tests.run.test_resumed_config import called, trained
from umamba.run.compare import ResumeError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
PLACES = ["metrics.csv", "train.log", ".lock", "hparams.yaml", "config.yaml", "checkpoints", "predictions",
          "checkpoints/best.ckpt", "predictions/a.nii.gz", "tables/scores.csv", "figures/a.png",
          "progress.png", "wandb", "wandb/debug.log", "wandb/artifacts/staging"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    trained(run)
    link = run / place
    if "." in Path(place).name:
        precious.write_text("mine\n")
        link.unlink(missing_ok=True)
    else:
        precious.mkdir()
        if link.is_dir():
            link.rename(tmp_path / "aside")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(precious)
    before = precious.read_bytes() if precious.is_file() else sorted(precious.iterdir())
    with pytest.raises(ResumeError, match=f"{place} is a link to {precious}, out of the run's folder"), called(run):
        pass
    assert (precious.read_bytes() if precious.is_file() else sorted(precious.iterdir())) == before
    assert link.is_symlink()


def test_links_within_the_folder_and_to_it_are_none_of_these(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    (tmp_path / "run" / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "wandb" / "latest-run").symlink_to("run-1")  # as W&B makes them
    (tmp_path / "run" / "wandb" / "debug.log").symlink_to(Path("run-1") / "logs" / "debug.log")
    (tmp_path / "run" / "latest.ckpt").symlink_to(Path("checkpoints") / "last.ckpt")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with called(tmp_path / "link") as run:
        assert run.resume_from is not None


def test_not_even_the_log_is_written_through_a_link(tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious.sh"
    run.mkdir()
    precious.write_text("echo mine\n")
    (run / "train.log").symlink_to(precious)
    ended = warm_start.run("train.py", f"run_dir={run}", cwd=tmp_path)
    assert ended.returncode == 1 and "out of the run's folder" in ended.stderr and "Traceback" not in ended.stderr
    assert precious.read_text() == "echo mine\n"
    assert [path.name for path in run.iterdir()] == ["train.log"]
