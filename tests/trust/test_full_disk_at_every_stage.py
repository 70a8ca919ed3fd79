"""A disk that is really full: every stage says so, leaves nothing half-written and goes on when there is room."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from compare import all_whole, load, same_labels
from harness import run, train_line

KIB = 1024
AMOUNT = r"\d[\d.,]* ?(B|bytes|[kKMG]i?B)\b"


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes of a disk free; removing the returned file gives the rest back."""
    ballast = disk / "ballast.bin"
    free = os.statvfs(disk)
    ballast.write_bytes(b"\0" * max(0, free.f_bavail * free.f_frsize - room))
    return ballast


def refused_then_done(disk: Path, room: int, *line: str, folder: Path, root: Path | None = None) -> None:
    """The command fails on the full disk and succeeds when there is room."""
    ballast = fill(disk, room)
    output = run(*line, ok=False, folder=folder, root=root)
    said = re.sub(r"\s+", "", output)  # wherever a line was broken
    assert re.sub(r"\s+", "", str(disk)) in said, f"the message does not say what is full:\n{output[-3000:]}"
    assert re.search(r"[Nn]o space left|disk (of .* )?is full", output), output[-3000:]
    all_whole(disk)
    assert re.search(AMOUNT, output), f"the message does not say how much is needed:\n{output[-3000:]}"
    ballast.unlink()
    run(*line, folder=folder, root=root)
    all_whole(disk)


def test_making_raw_data(small_disk: Path, tmp_path: Path) -> None:
    line = ("-m", "umamba.datamodules.prepare", "data=phantom", f"paths.raw={small_disk}", "data.num_workers=0")
    refused_then_done(small_disk, 300 * KIB, *line, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_preparing(small_disk: Path, prepared: Path, tmp_path: Path, workers: int) -> None:
    line = train_line(
        tmp_path / "run", "train=false", "test=false", f"paths.prepared={small_disk / 'prepared'}", workers=workers
    )
    refused_then_done(small_disk, 400 * KIB, *line, folder=tmp_path, root=prepared)


@pytest.mark.slow
@pytest.mark.parametrize("room", [300 * KIB, 1200 * KIB, 1900 * KIB], ids=["first", "second", "third"])
def test_checkpoints(small_disk: Path, prepared: Path, tmp_path: Path, room: int) -> None:
    """The disk is full at the first checkpoint or at a later one; the run goes on from the last whole one."""
    line = train_line(small_disk / "run", "trainer.max_epochs=3", "test=false")
    refused_then_done(small_disk, room, *line, folder=tmp_path, root=prepared)
    assert load(small_disk / "run" / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_predictions(small_disk: Path, prepared: Path, trained: Path, tmp_path: Path) -> None:
    images = prepared / "data" / "raw" / "Dataset900_Phantom" / "imagesTs"
    line = (
        "predict.py", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"input={images}",
        f"output={small_disk / 'out'}",
    )  # fmt: skip
    refused_then_done(small_disk, 12 * KIB, *line, folder=tmp_path)
    same_labels(small_disk / "out", trained / "predictions")


@pytest.mark.slow
@pytest.mark.parametrize("room", [4 * KIB, 24 * KIB, 64 * KIB])
def test_tables_and_figures(small_disk: Path, prepared: Path, trained: Path, tmp_path: Path, room: int) -> None:
    line = (
        "eval.py", f"ckpt_path={trained / 'checkpoints' / 'last.ckpt'}", f"output={small_disk / 'scores'}",
    )  # fmt: skip
    refused_then_done(small_disk, room, *line, folder=tmp_path, root=prepared)
    assert (small_disk / "scores" / "tables" / "summary.csv").is_file()


@pytest.mark.slow
def test_the_report(small_disk: Path, trained: Path, tmp_path: Path) -> None:
    line = ("-m", "umamba.evaluation.report", f"runs={trained}", f"output={small_disk / 'report'}")
    refused_then_done(small_disk, 40 * KIB, *line, folder=tmp_path)
    assert (small_disk / "report" / "report.html").read_text().rstrip().endswith("</html>")
