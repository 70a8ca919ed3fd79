"""Nuclei of the 2018 Data Science Bowl (BBBC038), which anyone may download."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import nuclei


class NucleiDataModule(SegmentationDataModule):
    """Nuclei in fluorescence, histology and bright field, scored by instance."""

    task = "instances"
    nsd_tolerance = 2.0  # px

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare the nuclei from `source`, downloading them if there is none."""
        nuclei.prepare(source, self.dataset_dir, workers=self.num_workers, incomplete=incomplete)
