"""A run's folder with damaged or missing files: gone on with where nothing is lost by it, else refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.run.test_resumed_config import called, trained
from umamba.run.compare import ResumeError
from umamba.run.folder import Run


def gone_on_with(folder: Path) -> Run:
    with called(folder, "trainer.max_epochs=9") as run:
        run.record()
    return run


@pytest.mark.parametrize("content", [b"a: [1, 2", b"\xff\x00\xfe", b"- 1\n", b"", b"a: 1\n", b"a: ${b\n", b"\0"])
def test_a_configuration_that_is_none_is_named_and_may_be_removed(tmp_path: Path, content: bytes) -> None:
    trained(tmp_path, "seed=7")
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ResumeError, match=r"config\.yaml .*or remove this one: the run then goes on"):
        gone_on_with(tmp_path)
    assert path.read_bytes() == content
    path.unlink()
    assert gone_on_with(tmp_path).config.seed == 7


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"resumes": [{"started": "then"}]}'])
def test_a_damaged_origin_stops_no_run(tmp_path: Path, content: bytes, caplog) -> None:
    trained(tmp_path)
    path = tmp_path / "provenance.json"
    path.write_bytes(content)
    gone_on_with(tmp_path)
    *earlier, last = json.loads(path.read_text())["resumes"]
    assert last["changes"]["trainer.max_epochs"][1] == 9
    assert bool(earlier) != ("provenance.json was not whole" in caplog.text)


@pytest.mark.parametrize("content", [b"\xff\xff", b"a b = [\n=\n"])
def test_damaged_overrides_stop_no_run(tmp_path: Path, content: bytes, caplog) -> None:
    trained(tmp_path)
    (tmp_path / "overrides.txt").write_bytes(content)
    gone_on_with(tmp_path)
    assert "overrides.txt was not as a run leaves it" in caplog.text
    assert (tmp_path / "overrides.txt").read_text().splitlines()[-1] == "trainer.max_epochs=9"


def with_best(folder: Path, epochs: int) -> None:
    """A run that has lost its last checkpoint, but not its best one."""
    trained(folder)
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    progress = {"epoch_progress": {"current": {"processed": epochs}}}
    torch.save({**content, "loops": {"fit_loop": progress}}, last.with_name("best.ckpt"))
    last.unlink()


def test_a_run_that_lost_its_last_checkpoint_does_not_overwrite_its_best_one(tmp_path: Path) -> None:
    with_best(tmp_path, 2)
    with pytest.raises(ResumeError, match=r"last\.ckpt is not there.*best\.ckpt is.*Copy it to last\.ckpt"):
        gone_on_with(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "best.ckpt").rename(checkpoints / "last.ckpt")
    assert gone_on_with(tmp_path).resume_from == checkpoints / "last.ckpt"


def test_a_run_that_was_killed_between_its_first_two_checkpoints_begins_anew(tmp_path: Path) -> None:
    with_best(tmp_path, 1)
    assert gone_on_with(tmp_path).resume_from is None


def test_a_folder_in_the_place_of_the_last_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    (tmp_path / "checkpoints" / "last.ckpt").mkdir()
    with pytest.raises(ResumeError, match=r"last\.ckpt is no file"):
        gone_on_with(tmp_path)
