"""Abdomen MR of the paper: the MRI of AMOS 2022, or U-Mamba's own Dataset702_AbdomenMR as it is."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import amos
from umamba.raw.organs import ABDOMEN_TOLERANCES


class AbdomenMRDataModule(SegmentationDataModule):
    """The organs of the CT set in MR: 60 training scans; `configuration=2d` trains on their slices."""

    nsd_tolerance = ABDOMEN_TOLERANCES

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare the MRI of AMOS 2022 from `source`; without one, say what to get where."""
        amos.prepare(source, self.dataset_dir, workers=self.num_workers, incomplete=incomplete)
