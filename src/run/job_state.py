"""How the runs of a list stand, by what they and those who started them have left in files."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table
from yaml import YAMLError

from umamba.files import load_json
from umamba.processes import STOP_SIGNALS, took
from umamba.run.console import table_console
from umamba.run.folder import last_checkpoint

log = logging.getLogger(__name__)

STOPPED_CODES = (*(128 + number for number in STOP_SIGNALS), *(-number for number in STOP_SIGNALS), -9, 137)
_LAST_LINES = 3  # of the output, as the reason of a failure
_LONGEST_REASON = 600  # characters
_SECTIONS = ("data", "trainer")  # of the configuration of every run


class Condition(Enum):
    """How a wanted run stands."""

    WANTED = "wanted"  # never started
    RUNNING = "running"  # a runner has it now
    STOPPED = "stopped"  # interrupted; it goes on from its checkpoint
    FINISHED = "finished"
    FAILED = "failed"  # ended by itself, with an error
    REFUSED = "refused"  # what is there is of other settings or another version, and does not count


def read_state(path: Path, keys: Collection[str], remove: Path) -> dict[str, Any]:
    """What is known of a run: its "attempts", a list of dictionaries, and further keys; empty without a file.

    Args:
        path: The file.
        keys: That it must have besides.
        remove: What to remove to begin anew, for the message.

    Raises:
        ValueError: The file is none of this kind.
    """
    if not path.is_file():
        return {}
    advice = f"Remove {remove} to begin anew."
    state = load_json(path, advice=advice)
    if not isinstance(state, dict) or not isinstance(state.get("attempts"), list) or not set(keys) <= set(state):
        wanted = ", ".join(["attempts, a list", *keys])
        raise ValueError(f"{path} is no state of a run; expected {wanted}, it holds {state!r:.100}. {advice}")
    return state


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock now."""
    if not lock.is_file():
        return False
    mine = FileLock(lock)
    free = took(mine, 0)
    mine.release()
    return not free


def steps_of(run_dir: Path) -> tuple[int | None, int | None]:
    """Optimizer steps of a run's last checkpoint, and the most that it or metrics.csv tells of; None where unknown."""
    saved, reached = None, None
    path = last_checkpoint(run_dir)
    if path.is_file():
        with suppress(Exception):  # torch has many; train.py says what is wrong with it
            saved = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    with suppress(OSError, ValueError, KeyError), open(run_dir / "metrics.csv", encoding="utf-8") as file:
        reached = max(int(row["step"]) + 1 for row in csv.DictReader(file) if row.get("step"))
    return saved, max((steps for steps in (saved, reached) if steps is not None), default=None)


def config_of(run_dir: Path) -> DictConfig | None:
    """A run's config.yaml; None where there is none, or one of something else."""
    with suppress(OSError, ValueError, YAMLError, RecursionError):
        config = OmegaConf.load(run_dir / "config.yaml")
        if isinstance(config, DictConfig) and all(OmegaConf.is_dict(config.get(key)) for key in _SECTIONS):
            return config
    return None


def planned_steps(run_dir: Path) -> int | None:
    """How many optimizer steps a run is to take, by its config.yaml; None where that does not say it."""
    config = config_of(run_dir)
    if config is None:
        return None
    trainer, batches = config.trainer, config.data.get("iterations_per_epoch")
    epochs, most = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    limited = epochs is not None and epochs >= 0 and batches
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches")
    limits = [epochs * steps_per_epoch(batches, limit, trainer.get("accumulate_grad_batches", 1))] if limited else []
    limits += [most] if most is not None and most >= 0 else []
    return min(limits, default=None)


def steps_per_epoch(batches: int, limit: float | None = None, accumulated: int = 1) -> int:
    """Optimizer steps of an epoch, as Lightning counts them.

    Args:
        batches: That the data module gives.
        limit: Trainer.limit_train_batches, which overfit_batches and fast_dev_run set: how many are taken of them (int)
            or which share (float); None for all.
        accumulated: Batches of a step.
    """
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return math.ceil(batches / accumulated)


def last_words(output: Path | None) -> str:
    """The end of what a process has said, in one line; empty if it said nothing."""
    if output is None or not output.is_file():
        return ""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " / ".join([line for line in lines if line][-_LAST_LINES:])[-_LONGEST_REASON:]


def in_one_line(text: str) -> str:
    """A message for a table."""
    return " ".join(text.split())[:_LONGEST_REASON]


def show_states(rows: Sequence[tuple[Condition, Mapping[str, str]]], note: str = "") -> None:
    """Print a line per run, and how many there are of each state.

    Args:
        rows: How each stands, and its cells by column; all have the same columns.
        note: Said behind the numbers.
    """
    counts = {state: sum(condition is state for condition, _ in rows) for state in Condition}
    said = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    columns = list(rows[0][1]) if rows else []
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, caption=f"{said}{note}")
    for column in table.columns:
        column.overflow = "fold"  # names are long and are copied: nothing of them is left out
    for _, cells in rows:
        table.add_row(*cells.values())
    table_console().print(table)
