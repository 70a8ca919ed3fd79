"""A metrics.csv that a resumed run continues: every row once, none torn."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from umamba.files import write_text

log = logging.getLogger(__name__)


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, writing ``metrics.csv`` straight into a run's folder and appending to what is there.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=folder, name="", version="")
        self._writer: MetricsWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsWriter:
        if self._writer is None:
            self._writer = self._experiment = MetricsWriter(self.log_dir)
        return self._writer

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows from `step` on: training begins there, and writes them (again)."""
        self.experiment.rewind(step)


class MetricsWriter(ExperimentWriter):
    """Appends rows to ``metrics.csv``; whatever else changes the file writes it whole or not at all.

    Lightning's own writer removes the file that it finds, and a kill while it adds a column loses every row. A last row
    that a kill has torn is removed when the file is opened.

    Args:
        log_dir: folder of the file, made if it is missing.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        if os.path.isfile(self.metrics_file_path):
            self._keep(lambda row: True)

    def rewind(self, step: int) -> None:
        """Keep the rows of the optimizer steps before `step`.

        Raises:
            ValueError: A row has no step, so that nobody knows whether it is of a step that is trained again.
        """
        self.metrics = [row for row in self.metrics if row["step"] < step]
        if os.path.isfile(self.metrics_file_path):
            self._keep(lambda row: self._step_of(row) < step)

    def save(self) -> None:
        """Append the rows recorded since the last call."""
        if not self.metrics:
            return
        if self._record_new_keys() and os.path.isfile(self.metrics_file_path):
            self._rewrite_with_new_header(self.metrics_keys)
        exists = os.path.isfile(self.metrics_file_path)
        text = _table(self.metrics_keys, self.metrics, header=not exists)
        with open(self.metrics_file_path, "a", newline="", encoding="utf-8") as file:
            file.write(text)
        self.metrics = []

    def _check_log_dir_exists(self) -> None:
        """Keep the file of an earlier process, which Lightning removes."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        _, rows = self._read()
        write_text(_table(fieldnames, rows), self.metrics_file_path)

    def _keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        self.metrics_keys, rows = self._read()
        kept = _table(self.metrics_keys, [row for row in rows if wanted(row)])
        if kept != self._text():
            write_text(kept, self.metrics_file_path)

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


def _table(columns: Sequence[str], rows: Sequence[dict], *, header: bool = True) -> str:
    """Rows as CSV with the line ends of Lightning's writer."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header and columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
