"""The ten tasks of the Medical Segmentation Decathlon, which anyone may download; hippocampus first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import decathlon


class DecathlonDataModule(SegmentationDataModule):
    """One task of the Decathlon.

    Args:
        decathlon_task: Its name, e.g. "Task04_Hippocampus".
        nsd_tolerance: Of the normalised surface Dice, in mm.
        arguments: As for `SegmentationDataModule`.
    """

    def __init__(self, *, decathlon_task: str, nsd_tolerance: float = 2.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.decathlon_task = decathlon_task
        self.nsd_tolerance = nsd_tolerance

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare the task from `source`, downloading it if there is none."""
        decathlon.prepare(
            source, self.dataset_dir, task=self.decathlon_task, workers=self.num_workers, incomplete=incomplete
        )
