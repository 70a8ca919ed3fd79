"""A run that is killed at any moments of its life and started again by the same command ends as if nothing had been."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import all_whole, load, nothing_unfinished, same_run
from harness import KILLS, Command, dice, once, train_line

CASES = [(every, workers) for every in (1, 2, 4) for workers in (0, 2)]
FAST = (2, 2)  # the case that `make test` runs too
CHAIN = 4  # kills of one run, at most


def reference(shared: Path, every: int) -> tuple[Path, float]:
    """An uninterrupted run without workers, and the seconds from the end of its imports to its end."""

    def make(folder: Path) -> None:
        with Command(*train_line(folder / "run", every=every), folder=folder) as command:
            command.started()
            begin = time.monotonic()
            assert command.wait() == 0, command.output
            (folder / "seconds.json").write_text(json.dumps(time.monotonic() - begin))

    folder = once(shared / f"reference-{every}", make)
    return folder / "run", json.loads((folder / "seconds.json").read_text())


def stage(root: Path, run: Path) -> str:
    """What a run is at, told from its files."""
    prepared = root / "data" / "prepared" / "Dataset900_Phantom"
    if not (root / "data" / "raw" / "Dataset900_Phantom").is_dir():
        return "making raw data"
    if not (prepared / "plan.json").is_file():
        return "planning"
    if len(list(prepared.glob("*/[!.]*/case.json"))) < 12:
        return "preprocessing"
    if any((run / "checkpoints").glob(".writing-*")):
        return "writing a checkpoint"
    if not (run / "predictions").is_dir():
        return "training and validation"
    if len(list((run / "predictions").glob("*.nii.gz"))) < 4:
        return "prediction"
    return "scoring" if not (run / "tables" / "summary.tex").is_file() else "figures"


def killed_chain(folder: Path, line: tuple[str, ...], moments: list[float]) -> list[str]:
    """Start, kill and start again, the last time to the end; the stages in which the kills came.

    Args:
        moments: seconds of the run's life, ascending. Each attempt is killed after the time to the next one.
    """
    hit, killed = [], []
    for moment, before in zip(moments, [0.0, *moments], strict=False):
        with Command(*line, folder=folder) as command:
            command.started()
            if command.ends_within(moment - before):
                assert command.code == 0, f"{command} failed after kills in {hit}:\n{command.output[-5000:]}"
                break
            hit.append(stage(folder, folder / "run"))
            command.kill()
            killed.append(command)  # its children have to end by themselves, the next attempt starts beside them
            for checkpoint in (folder / "run" / "checkpoints").glob("[!.]*.ckpt"):
                load(checkpoint)
    with Command(*line, folder=folder) as command:
        assert command.wait() == 0, f"{command} failed after kills in {hit}:\n{command.output[-5000:]}"
        command.must_leave_nothing()
    for command in killed:
        command.must_leave_nothing()
    return hit


@pytest.mark.parametrize(
    ("every", "workers"), [pytest.param(*c, marks=() if c == FAST else pytest.mark.slow) for c in CASES]
)
def test_a_killed_run_ends_as_one_that_was_not(shared: Path, tmp_path: Path, record_property, every, workers) -> None:
    expected, seconds = reference(shared, every)
    random, wanted = dice("kills", every, workers), math.ceil(KILLS / len(CASES))
    stages: Counter[str] = Counter()
    chains = 0
    while stages.total() < wanted:
        folder = tmp_path / f"chain {chains}"  # with a blank
        folder.mkdir()
        kills = random.randint(1, min(CHAIN, wanted - stages.total()))
        moments = sorted(random.uniform(0, seconds) for _ in range(kills))
        stages.update(killed_chain(folder, train_line(folder / "run", every=every, workers=workers), moments))
        same_run(folder / "run", expected)
        all_whole(folder)
        nothing_unfinished(folder)
        shutil.rmtree(folder)
        chains += 1
    record_property("kills", f"{stages.total()} in {chains} runs of {seconds:.1f} s: {dict(stages)}")


def in_a_checkpoint(run: Path) -> bool:
    """Whether one is being written."""
    return any((run / "checkpoints").glob(".writing-*"))


def in_the_scores(run: Path) -> bool:
    """Whether cases are being scored: all are predicted, no table is there."""
    return len(list((run / "predictions").glob("*.nii.gz"))) == 4 and not (run / "tables" / "scores.csv").is_file()


def in_the_tables(run: Path) -> bool:
    """Whether tables are being written: some are there, the record that says that all are is not."""
    return (run / "tables" / "scores.csv").is_file() and not (run / "tables" / "run.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [in_a_checkpoint, in_the_scores, in_the_tables], ids=lambda each: each.__name__)
def test_a_kill_in_a_moment_that_chance_seldom_meets(
    shared: Path, prepared: Path, tmp_path: Path, record_property, moment: Callable[[Path], bool]
) -> None:
    """Three kills as soon as the run is there; each time the same command goes on."""
    expected, _ = reference(shared, 2)
    line, run = train_line(tmp_path / "run", every=2), tmp_path / "run"
    hit = 0
    for _ in range(3):
        with Command(*line, folder=tmp_path, root=prepared) as command:
            while command.code is None and not moment(run):
                time.sleep(0.0005)  # a file of this size is written in milliseconds
            if command.code is not None:
                assert command.code == 0, command.output[-5000:]
                break
            command.kill()
            hit += moment(run)  # as it was left
            command.must_leave_nothing()
    assert hit, f"no kill came {moment.__name__}"
    with Command(*line, folder=tmp_path, root=prepared) as command:
        assert command.wait() == 0, command.output[-5000:]
        command.must_leave_nothing()
    same_run(run, expected)
    all_whole(run)
    nothing_unfinished(run)
    record_property("kills", f"{hit} {moment.__name__}")
