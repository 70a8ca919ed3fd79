"""Foreground intensities: a random sample of 10^8 voxels per channel, kept as values and how often each was drawn.

nnU-Net draws with replacement, so small and integer-valued data repeat few values very often: counts need a fraction of
the memory of the sample itself, and every statistic of the sample follows from them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

_TOTAL = 10**8  # voxels drawn over the whole data set, per channel
_CHUNK = 1 << 20  # draws at a time
MIN_STD = 1e-8  # nnU-Net's floor for a divisor
_BITS = 16  # of a float's 32 per histogram pass
_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Statistics of one channel's foreground voxels over the training set."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float

    @classmethod
    def per_channel(cls, content: Mapping[str, Mapping[str, Any]]) -> tuple[Self, ...]:
        """Read "foreground_intensity_properties_per_channel" of nnU-Net's fingerprints and plans.

        Args:
            content: Number of the channel, "0", "1", ... -> name of a statistic -> its value.

        Raises:
            KeyError: A channel or a statistic is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        return tuple(cls(**{name: float(content[str(i)][name]) for name in names}) for i in range(len(content)))

    def fault(self, *, clips: bool) -> str | None:
        """What contradicts itself; None if nothing does.

        Args:
            clips: Whether the channel is clipped to the percentiles and divided by the deviation (CT).
        """
        if self.std < 0:
            return f"std is {self.std}; expected a number >= 0"
        for low, high in (("min", "max"), ("percentile_00_5", "percentile_99_5")):
            smaller, larger = getattr(self, low), getattr(self, high)
            if smaller > larger:
                return f"{low} is {smaller}, above {high}, which is {larger}"
        if clips and (self.std < MIN_STD or self.percentile_00_5 == self.percentile_99_5):
            return (
                f"std is {self.std}, the percentiles are {self.percentile_00_5} and {self.percentile_99_5}: "
                "CTNormalization would make every image one value. Name the channel otherwise in dataset.json"
            )
        return None


@dataclass(frozen=True)
class Sample:
    """Sorted distinct float32 values and how often each was drawn (int64); empty for a case without foreground."""

    values: np.ndarray
    counts: np.ndarray


def samples_per_case(num_cases: int) -> int:
    """How many foreground voxels are drawn in each case."""
    return _TOTAL // num_cases


def draw(values: np.ndarray, num_samples: int, random: np.random.RandomState) -> Sample:
    """What `random.choice(values, num_samples, replace=True)` draws, counted instead of listed.

    Args:
        values: (N,) float32.
        num_samples: Draws; none are made if there are no values.
        random: Advanced exactly as `choice` would.
    """
    if not values.size:
        return Sample(values=np.empty(0, np.float32), counts=np.empty(0, np.int64))
    counts = np.zeros(values.size, dtype=np.uint32)
    step = max(_CHUNK, values.size // 8)  # a pass over all counts for each step: few, but no long list of draws
    for start in range(0, num_samples, step):
        indices = random.randint(0, values.size, size=min(step, num_samples - start))
        counts += np.bincount(indices, minlength=values.size).astype(np.uint32)
    drawn = counts > 0
    distinct, inverse = np.unique(values[drawn], return_inverse=True)
    merged = np.bincount(inverse, weights=counts[drawn], minlength=distinct.size).astype(np.int64)
    return Sample(values=distinct, counts=merged)


def statistics(samples: Sequence[Sample]) -> Intensities:
    """Statistics of all cases' samples of one channel together.

    Args:
        samples: One per case; at least one is not empty.
    """
    total = sum(int(sample.counts.sum()) for sample in samples)
    mean = sum(float(sample.values.astype(np.float64) @ sample.counts) for sample in samples) / total
    filled = [sample.values for sample in samples if sample.values.size]
    smallest, largest = float(min(values[0] for values in filled)), float(max(values[-1] for values in filled))
    # Squares of deviations below 1e-19 or above 1e19 leave float32's range; a power of two changes no digit of others
    power = math.frexp(max(mean - smallest, largest - mean))[1]
    spread = sum(float(np.square(np.ldexp(s.values - mean, -power)) @ s.counts) for s in samples) / total
    positions = [q / 100 * (total - 1) for q in _PERCENTILES]
    lower = [order_statistic(samples, int(p)) for p in positions]
    upper = [order_statistic(samples, min(int(p) + 1, total - 1)) for p in positions]
    low, median, high = (a + (b - a) * (p - int(p)) for a, b, p in zip(lower, upper, positions, strict=True))
    return Intensities(
        mean=mean,
        median=median,
        std=math.ldexp(spread**0.5, power),
        min=smallest,
        max=largest,
        percentile_00_5=low,
        percentile_99_5=high,
    )


def order_statistic(samples: Sequence[Sample], rank: int) -> float:
    """The value of a rank (from 0) among all drawn values, by two histogram passes over the bits of the floats.

    No pooled copy is sorted: 10^8 distinct values would take gigabytes.
    """
    histogram = np.zeros(1 << _BITS, dtype=np.int64)
    for sample in samples:
        histogram += _count(_ordered_bits(sample.values) >> _BITS, sample.counts)
    upper_bits, rank = _locate(histogram, rank)
    histogram[:] = 0
    for sample in samples:
        bits = _ordered_bits(sample.values)
        start, stop = np.searchsorted(bits, [upper_bits << _BITS, (upper_bits + 1) << _BITS])
        histogram += _count(bits[start:stop] & ((1 << _BITS) - 1), sample.counts[start:stop])
    lower_bits, _ = _locate(histogram, rank)
    found = np.uint32((upper_bits << _BITS) | lower_bits)
    sign = np.uint32(1 << 31)
    return float((found ^ sign if found & sign else ~found).view(np.float32))


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the float32 values: sign bit flipped, negative values inverted."""
    bits = values.view(np.uint32)
    return np.where(bits >> 31 == 1, ~bits, bits ^ np.uint32(1 << 31)).astype(np.int64)


def _count(bits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # float64 weights hold whole numbers exactly up to 2^53.
    return np.bincount(bits, weights=counts, minlength=1 << _BITS).astype(np.int64)


def _locate(histogram: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin that holds a rank, and the rank within the bin."""
    cumulated = np.cumsum(histogram)
    found = int(np.searchsorted(cumulated, rank, side="right"))
    return found, rank - int(cumulated[found] - histogram[found])
