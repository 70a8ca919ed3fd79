"""Microscopy of the paper: NeurIPS 2022 cells, or U-Mamba's own Dataset703_NeurIPSCell as it is."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import neurips_cells


class CellDataModule(SegmentationDataModule):
    """Cells of many microscopes, scored by instance: 1000 training and 101 test images."""

    task = "instances"
    nsd_tolerance = 2.0  # px

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Prepare the NeurIPS 2022 cells from `source`; without one, say what to get where."""
        neurips_cells.prepare(source, self.dataset_dir, workers=self.num_workers, incomplete=incomplete)
