"""Masks for the tests of metrics: smoothed noise, and boxes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def blobs(seed: int, shape: tuple[int, ...], share: float = 0.3) -> np.ndarray:
    """Smoothed noise above its quantile."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return noise > np.quantile(noise, 1 - share)


def cube(shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """A box, with its first corner and its edges."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask
