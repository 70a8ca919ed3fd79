"""How label maps are scored: said once, checked at once, and passed whole to whatever scores or draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

from umamba.evaluation.paper import abdomen_labels
from umamba.raw.description import PICTURE_ENDINGS
from umamba.raw.instances import classes_to_instances, grow_pixels
from umamba.raw.regions import Region
from umamba.typed import has_type

PROTOCOLS = ("standard", "paper")
TASKS = ("semantic", "instances")


class DataSet(Protocol):
    """What a plan and a dataset.json say of label maps."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Class name -> value, the background included."""

    @property
    def regions(self) -> Sequence[Region]:
        """The regions that are scored instead of classes; none where classes are."""

    @property
    def ignore_label(self) -> int | None:
        """Value of voxels that count for nothing; None where there is none such."""

    @property
    def file_ending(self) -> str:
        """Ending of images and label maps, with its dot."""


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """What the values of label maps mean; figures need no more.

    Attributes:
        labels: Class name -> value; the background (0) may be among them. Of regions, what a prediction writes.
        regions: Region name -> the values it is made of, where regions are scored; else empty.
        task: "semantic" compares classes, "instances" single objects of them.
        instance_predictions: Instance data only: predictions are instance maps already, not maps of classes.
        grow: Instance data only: px by which predicted instances are grown back over the boundary class.

    Raises:
        ValueError: The task is unknown, or an option would not act.
    """

    labels: Mapping[str, int]
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    task: str = "semantic"
    instance_predictions: bool = False
    grow: float = 0

    def __post_init__(self) -> None:
        _own(self, "labels")
        _own(self, "regions")
        object.__setattr__(self, "grow", grow_pixels(self.grow))
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, it is {self.task!r}.")
        if self.of_instances and self.regions:
            raise ValueError(
                f"task=instances counts objects of classes; the labels are the regions {', '.join(self.regions)}."
            )
        if not self.of_instances and (self.grow or self.instance_predictions):
            which = f"grow={self.grow}" if self.grow else "instance_predictions=true"
            raise ValueError(f"{which} is for task=instances; this task is {self.task}. Leave it out.")
        if self.grow and self.instance_predictions:
            raise ValueError(
                f"grow={self.grow} grows instances out of class maps; instance_predictions=true gives it none."
            )

    @property
    def of_instances(self) -> bool:
        """Whether references are instance maps."""
        return self.task == "instances"

    @property
    def remark(self) -> str:
        """What captions say of it; "" where predictions are compared as they are."""
        return grow_remark(self.grow)

    @property
    def foreground(self) -> dict[str, int]:
        """Class name -> value, without the background."""
        return {name: int(value) for name, value in self.labels.items() if value != 0}

    @property
    def scored(self) -> dict[str, int | tuple[int, ...]]:
        """What has a row in tables: class name -> value, or region name -> the values it is made of."""
        return {name: tuple(values) for name, values in self.regions.items()} or {**self.foreground}

    @property
    def values(self) -> tuple[int, ...]:
        """All values above 0 that a label map may hold, the ignore label left out."""
        return tuple({value: None for values in self.regions.values() for value in values}) or (
            *self.foreground.values(),
        )

    def as_compared(self, prediction: np.ndarray) -> np.ndarray:
        """A prediction as it is compared with its reference: of instance data an instance map.

        Args:
            prediction: Whole numbers, (Z, Y, X) or (Y, X).
        """
        if not self.of_instances or self.instance_predictions:
            return prediction
        return classes_to_instances(prediction, grow=self.grow)


@dataclass(frozen=True, kw_only=True)
class Scoring(Labelling):
    """How predictions are scored against references.

    Attributes:
        file_ending: Of the predictions (and of the references, unless these are instance maps), with its dot.
        ignore_label: Voxels with this value in the reference count for nothing.
        tolerance: Of NSD, for all classes or by class name; mm, or px where the files have no voxel size. Needed for
            semantic data under protocol standard, and of no effect otherwise: protocol paper brings its own.
        protocol: "standard", or "paper" for comparisons with the paper's tables (see `umamba.evaluation.paper`).

    Raises:
        ValueError: As `Labelling`; or the protocol is unknown or does not know these labels, there is no class to
            score, or a tolerance is missing or negative.
    """

    file_ending: str
    ignore_label: int | None = None
    tolerance: float | Mapping[str, float] | None = None
    protocol: str = "standard"

    @classmethod
    def of(cls, data_set: DataSet, **how: Any) -> Self:
        """Scoring of a data set's label maps; `how` are the attributes that the data set does not say."""
        written = {region.name: region.written for region in data_set.regions}
        return cls(
            labels={**data_set.labels, **written},
            regions={region.name: region.labels for region in data_set.regions},
            file_ending=data_set.file_ending,
            ignore_label=data_set.ignore_label,
            **how,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        _own(self, "tolerance")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, it is {self.protocol!r}.")
        if not self.foreground:
            raise ValueError(f"There is no class to score in the labels {dict(self.labels)}.")
        if self.protocol == "paper" and self.regions:
            raise ValueError("Protocol paper knows no regions. Use protocol=standard for this data set.")
        if self.protocol == "paper" and not self.of_instances and self.file_ending not in PICTURE_ENDINGS:
            abdomen_labels(self.foreground)
        if self.protocol == "paper" and self.ignore_label is not None:
            raise ValueError("Protocol paper knows no ignore label. Use protocol=standard for this data set.")
        bad = [name for name in self._with_tolerance if not _is_tolerance(self._tolerance(name))]
        if bad:
            raise ValueError(
                f"NSD needs a tolerance >= 0 (mm, or px for pictures) for {', '.join(bad)}; got {self.tolerance!r}. "
                "Set nsd_tolerance to a number, or to {class name: number}."
            )

    @property
    def tolerances(self) -> dict[str, float]:
        """Class name -> tolerance of NSD, where `tolerance` acts."""
        return {name: float(self._tolerance(name)) for name in self._with_tolerance}

    @property
    def reference_ending(self) -> str:
        """Ending of the references' names in a folder."""
        return ".tif" if self.of_instances else self.file_ending

    @property
    def _with_tolerance(self) -> list[str]:
        return [] if self.of_instances or self.protocol != "standard" else list(self.scored)

    def _tolerance(self, name: str) -> Any:
        return self.tolerance.get(name) if isinstance(self.tolerance, Mapping) else self.tolerance


def grow_remark(grow: float) -> str:
    """What captions say of instances that were grown by so many px; "" of 0."""
    return f"Predicted instances are grown by {grow} px over the boundary class." if grow else ""


def check_tolerance_names(tolerance: object, labels: Mapping[str, object]) -> None:
    """See that tolerances given by class names are all of classes, or regions, that there are (else ValueError).

    A data set may bring tolerances of more classes than it has; what a user writes should act.
    """
    foreground = [name for name, value in labels.items() if value != 0]
    given = tolerance if isinstance(tolerance, Mapping) else {}
    unknown = sorted(str(name) for name in given if name not in foreground)
    if unknown:
        raise ValueError(f"nsd_tolerance names {', '.join(unknown)}; the classes are {', '.join(foreground)}.")


def _own(frozen: Labelling, name: str) -> None:
    """Give it a plain copy of a mapping, which may be a view into a whole configuration."""
    if isinstance(getattr(frozen, name), Mapping):
        object.__setattr__(frozen, name, dict(getattr(frozen, name)))


def _is_tolerance(value: object) -> bool:
    return has_type(value, float) and value >= 0  # type: ignore[operator]
