"""A metrics.csv that a resumed run continues: a row for each epoch (and validation in it), once, none torn."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from umamba.files import write_text

log = logging.getLogger(__name__)
_EPOCH = "epoch"
_OF_ROW = {_EPOCH, "step"}
_RATE = "lr-"  # how the names of learning rates begin


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, writing ``metrics.csv`` straight into a run's folder and appending to what is there.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=folder, name="", version="")
        self._writer: MetricsWriter | None = None
        self._trainer: L.Trainer | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsWriter:
        if self._writer is None:
            self._writer = self._experiment = MetricsWriter(self.log_dir)
        return self._writer

    @rank_zero_only
    def begin(self, trainer: L.Trainer) -> None:
        """Drop the rows from the trainer's step on, which it writes (again); rows have the trainer's epoch from now."""
        self._trainer = trainer
        midway = trainer.current_epoch if trainer.fit_loop.restarted_mid_epoch else None
        self.experiment.rewind(trainer.global_step, midway)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Record metrics; callbacks that log beside the module, as of learning rates, do not say of which epoch."""
        epoch = {} if self._trainer is None else {_EPOCH: self._trainer.current_epoch}
        super().log_metrics({**epoch, **metrics}, step)


class MetricsWriter(ExperimentWriter):
    """Appends rows to ``metrics.csv``; whatever else changes the file writes it whole or not at all.

    What is logged of one epoch is one row, with the step of the last of it; what is logged several times in it, as by
    step, has a row each time. Lightning's own writer removes the file that it finds, and a kill while it adds a column
    loses every row. A last row that a kill has torn is removed when the file is opened.

    Args:
        log_dir: folder of the file, made if it is missing.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._last: list[dict[str, Any]] = []  # the last two rows of the file, which others may still join
        if os.path.isfile(self.metrics_file_path):
            self._keep(lambda row: True)

    def rewind(self, step: int, midway: int | None = None) -> None:
        """Keep the rows of the optimizer steps before `step`.

        Args:
            step: Where the training begins.
            midway: The epoch that it begins in the middle of, whose learning rate was logged at its start: that stays.

        Raises:
            ValueError: A row has no step, so that nobody knows whether it is of a step that is trained again.
        """
        self.metrics = [row for row in self.metrics if row["step"] < step]
        if os.path.isfile(self.metrics_file_path):
            rates = [row for row in self._read()[1] if row.get(_EPOCH) == str(midway)]
            self._keep(lambda row: self._step_of(row) < step)
            cells = [(key, value) for row in rates for key, value in row.items() if key.startswith(_RATE) and value]
            found = {key: float(value) for key, value in cells}
            if midway is not None and found and not any(row.get(_EPOCH) == str(midway) for row in self._last):
                self.metrics.append({"step": step - 1, _EPOCH: midway, **found})
        elif step > 0:
            log.warning(
                "%s is missing although the training continues at step %d: it starts again, without the earlier steps.",
                self.metrics_file_path, step,
            )  # fmt: skip

    def save(self) -> None:
        """Append the rows recorded since the last call, or put them into the epoch's row."""
        if not self.metrics:
            return
        exists = os.path.isfile(self.metrics_file_path)
        new, before = self._record_new_keys(), len(self._last)
        rows = _joined([*self._last, *self.metrics])
        if exists and (new or rows[:before] != self._last):
            kept = self._read()[1]
            write_text(_table(self.metrics_keys, [*kept[: len(kept) - before], *rows]), self.metrics_file_path)
        else:
            text = _table(self.metrics_keys, rows[before:], header=not exists)
            with open(self.metrics_file_path, "a", newline="", encoding="utf-8") as file:
                file.write(text)
        self._last, self.metrics = rows[-2:], []

    def _check_log_dir_exists(self) -> None:
        """Keep the file of an earlier process, which Lightning removes."""

    def _keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        self.metrics_keys, rows = self._read()
        kept = [row for row in rows if wanted(row)]
        text, self._last = _table(self.metrics_keys, kept), kept[-2:]
        if text != self._text():
            write_text(text, self.metrics_file_path)

    def _text(self) -> str:
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            try:
                return file.read()
            except UnicodeDecodeError as error:
                raise ValueError(self._no_table(str(error))) from error

    def _step_of(self, row: dict[str, str]) -> int:
        try:
            return int(row["step"])
        except (KeyError, ValueError) as error:
            raise ValueError(self._no_table(f"a row has the step {row.get('step')!r}")) from error

    def _no_table(self, reason: str) -> str:
        return (
            f"{self.metrics_file_path} is not as a run leaves it ({reason}). Put the run's own file back, or move this "
            "one away: the run goes on without the rows of the steps so far."
        )

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and whole rows of the file."""
        text = self._text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            log.warning("%s ends within a row, which is removed: %r.", self.metrics_file_path, text[len(whole) :])
        try:
            header, *rows = [*csv.reader(io.StringIO(whole, newline=""))] or [[]]
        except csv.Error as error:
            raise ValueError(self._no_table(str(error))) from error
        if odd := sum(len(row) != len(header) for row in rows):
            log.warning(
                "%s has %d row(s) of another number of columns, which are removed.", self.metrics_file_path, odd
            )
        return header, [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def _joined(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, those made one that follow each other in an epoch, have nothing in common, and are no row a step."""
    joined: list[dict[str, Any]] = []
    for row in rows:
        last, before = joined[-1] if joined else {}, joined[-2] if len(joined) > 1 else {}
        own = {key for key, value in row.items() if value != ""} - _OF_ROW
        apart = own & {key for key, value in last.items() if value != ""}
        alone = not _same(last, before, _EPOCH)
        if last and not apart and _same(last, row, _EPOCH) and (alone or _same(last, row, "step")):
            joined[-1] = {**last, **{key: value for key, value in row.items() if value != ""}}
        else:
            joined.append(row)
    return joined


def _same(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    """Whether two rows, read or recorded, have the same in a column, and anything."""
    return str(one.get(key, "")) == str(other.get(key, "")) != ""


def _table(columns: Sequence[str], rows: Sequence[dict], *, header: bool = True) -> str:
    """Rows as CSV with the line ends of Lightning's writer."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header and columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
