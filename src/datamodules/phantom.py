"""Generated data: a CT-like abdomen in 3D and microscopy of cells in 2D."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare import phantom, phantom_cells


class PhantomDataModule(SegmentationDataModule):
    """Sixteen generated abdominal volumes with five organs."""

    nsd_tolerance = 4.0  # mm: about one pixel

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Generate the volumes; `source` must be None; nothing can be incomplete."""
        phantom.prepare(source, self.dataset_dir, workers=self.num_workers)


class PhantomCellsDataModule(SegmentationDataModule):
    """Twenty-six generated images of touching cells, scored by instance."""

    task = "instances"
    nsd_tolerance = 2.0  # px

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Generate the images; `source` must be None; nothing can be incomplete."""
        phantom_cells.prepare(source, self.dataset_dir, workers=self.num_workers)
