"""Abdomen CT of the paper: FLARE 2022, or U-Mamba's own Dataset701_AbdomenCT as it is."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import flare
from umamba.raw.organs import ABDOMEN_TOLERANCES


class AbdomenCTDataModule(SegmentationDataModule):
    """Thirteen organs in CT: 50 training and 50 test scans."""

    nsd_tolerance = ABDOMEN_TOLERANCES

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare FLARE 2022 from `source`; without one, say what to get where."""
        flare.prepare(source, self.dataset_dir, workers=self.num_workers, incomplete=incomplete)
