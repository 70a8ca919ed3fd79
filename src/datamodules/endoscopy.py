"""Endoscopy of the paper: EndoVis 2017, or U-Mamba's own Dataset704_Endovis17 as it is."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import endovis


class EndoscopyDataModule(SegmentationDataModule):
    """Seven robotic instruments: 1800 training and 1200 test frames; folds hold out whole videos."""

    nsd_tolerance = 2.0  # px

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare EndoVis 2017 from `source`; without one, say what to get where."""
        endovis.prepare(source, self.dataset_dir, workers=self.num_workers, incomplete=incomplete)
