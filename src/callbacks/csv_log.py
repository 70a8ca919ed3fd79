"""A metrics.csv that a resumed run continues instead of deleting."""

from __future__ import annotations

import csv
import os
import warnings
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, writing ``metrics.csv`` straight into a run's folder and appending to what is there.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is not None:
            return self._experiment
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        aside = path.with_name(path.name + ".earlier")  # out of the way: Lightning's writer removes what it finds
        if path.is_file():
            os.replace(path, aside)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
            self._experiment = ExperimentWriter(log_dir=self.log_dir)
        if aside.is_file():
            os.replace(aside, path)
            with open(path, newline="", encoding="utf-8") as file:
                self._experiment.metrics_keys = next(csv.reader(file), [])
        return self._experiment
