"""A user's own data set in nnU-Net's raw layout: `data=custom data.dataset_dir=...`."""

from __future__ import annotations

from typing import Any, Literal

from umamba.datamodules.base import SegmentationDataModule


class CustomDataModule(SegmentationDataModule):
    """Any raw data set; it cannot be made, so only the user can provide it.

    Args:
        task: "semantic", or "instances" for labels 1 interior, 2 boundary with instance maps in instancesTr/Ts.
        nsd_tolerance: Of the normalised surface Dice, in mm (2D: px); a number, or one per class name.
        arguments: As for `SegmentationDataModule`.
    """

    def __init__(
        self,
        *,
        task: Literal["semantic", "instances"] = "semantic",
        nsd_tolerance: float | dict[str, float] = 2.0,
        **arguments: Any,
    ) -> None:
        if task not in ("semantic", "instances"):
            raise ValueError(f'data.task is {task!r}; expected "semantic" or "instances"')
        self.task = task  # before the base looks at what only one of them has
        super().__init__(**arguments)
        self.nsd_tolerance = nsd_tolerance
