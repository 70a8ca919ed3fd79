"""The fingerprint: spacings, shapes and foreground intensities of a data set's training cases (nnU-Net's, exactly)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from umamba.files import load_json
from umamba.planning.intensities import Intensities, Sample, draw, statistics
from umamba.raw.cropping import crop_to_nonzero
from umamba.raw.description import DatasetError
from umamba.typed import has_type

_SEED = 1234


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What one training case adds to the fingerprint.

    Attributes:
        spacing: mm, (z, y, x).
        shape_after_crop: (Z, Y, X) of the non-zero bounding box.
        relative_size: Voxels after / before cropping.
        samples: Foreground intensities per channel.
    """

    spacing: tuple[float, ...]
    shape_after_crop: tuple[int, ...]
    relative_size: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What the planner knows of a data set: facts of its training cases, which stand in the order of their names.

    Attributes:
        spacings: mm, (z, y, x) per case.
        shapes_after_crop: (Z, Y, X) per case.
        intensities: Foreground statistics per channel.
        median_relative_size: Median over cases of voxels after / before cropping.
    """

    spacings: tuple[tuple[float, ...], ...]
    shapes_after_crop: tuple[tuple[int, ...], ...]
    intensities: tuple[Intensities, ...]
    median_relative_size: float

    @property
    def median_spacing(self) -> tuple[float, float, float]:
        """Per axis, mm, (z, y, x)."""
        return _medians(self.spacings)

    @property
    def median_shape(self) -> tuple[float, float, float]:
        """Per axis, (Z, Y, X), after cropping; halves where the number of cases is even."""
        return _medians(self.shapes_after_crop)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, under the names of nnU-Net's dataset_fingerprint.json."""
        return {
            "spacings": [list(spacing) for spacing in self.spacings],
            "shapes_after_crop": [list(shape) for shape in self.shapes_after_crop],
            "foreground_intensity_properties_per_channel": {
                str(i): dataclasses.asdict(entry) for i, entry in enumerate(self.intensities)
            },
            "median_relative_size_after_cropping": self.median_relative_size,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read plain data, nnU-Net's own files (2.1 and 2.8) included.

        Raises:
            DatasetError: A key is missing or the entries do not fit together.
        """
        try:
            fingerprint = cls(
                spacings=tuple(tuple(abs(float(v)) for v in spacing) for spacing in content["spacings"]),
                shapes_after_crop=tuple(tuple(int(v) for v in shape) for shape in content["shapes_after_crop"]),
                intensities=Intensities.per_channel(content["foreground_intensity_properties_per_channel"]),
                median_relative_size=float(content["median_relative_size_after_cropping"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"no fingerprint of nnU-Net's form: {type(error).__name__} {error}") from error
        entries = [*fingerprint.spacings, *fingerprint.shapes_after_crop]
        if not entries or len(fingerprint.spacings) != len(fingerprint.shapes_after_crop):
            raise DatasetError("a fingerprint needs one spacing and one shape for each case, and at least one case")
        if any(len(entry) != 3 or not all(has_type(v, float) and v > 0 for v in entry) for entry in entries):
            raise DatasetError("every spacing and shape of a fingerprint must be three numbers > 0 (z, y, x)")
        return fingerprint

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a fingerprint file, ours or nnU-Net's dataset_fingerprint.json.

        Raises:
            FileNotFoundError: There is no such file.
            DatasetError: The file is no fingerprint; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no fingerprint at {path}.")
        content = load_json(path, DatasetError)
        try:
            return cls.from_dict(content)
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error


def case_facts(image: np.ndarray, label: np.ndarray, spacing: tuple[float, ...], num_samples: int) -> CaseFacts:
    """Measure one case.

    Args:
        image: (C, Z, Y, X) float32.
        label: (Z, Y, X); voxels > 0 count as foreground, an ignore label too.
        spacing: mm, (z, y, x).
        num_samples: Foreground voxels to draw per channel.
    """
    cropped, cropped_label, box = crop_to_nonzero(image, label)
    foreground = cropped_label > 0
    random = np.random.RandomState(_SEED)  # one generator for all channels of a case
    shape = tuple(stop - start for start, stop in box)
    return CaseFacts(
        spacing=tuple(spacing),
        shape_after_crop=shape,
        relative_size=math.prod(shape) / math.prod(image.shape[1:]),
        samples=tuple(draw(channel[foreground], num_samples, random) for channel in cropped),
    )


def combine(facts: Iterable[CaseFacts]) -> Fingerprint:
    """Put the cases, given in the order of their names, together (else DatasetError)."""
    cases = list(facts)
    channels = list(zip(*(case.samples for case in cases), strict=True))
    if not any(sample.values.size for sample in channels[0]):
        raise DatasetError(
            "No training case has any labelled voxel: nothing can be learned from them. Check that the label files "
            "hold the values of dataset.json."
        )
    return Fingerprint(
        spacings=tuple(case.spacing for case in cases),
        shapes_after_crop=tuple(case.shape_after_crop for case in cases),
        intensities=tuple(statistics(samples) for samples in channels),
        median_relative_size=float(np.median([case.relative_size for case in cases])),
    )


def _medians(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    z, y, x = (float(median) for median in np.median(values, axis=0))
    return z, y, x
