"""A slice of a case as a picture: which one, and how bright."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WINDOW = (0.5, 99.5)  # percentiles of the slice that become black and white


def fullest_slice(reference: np.ndarray, predictions: Sequence[np.ndarray]) -> int:
    """The slice with most reference foreground; without any, with most predicted foreground."""
    for label in (reference, *predictions):
        area = np.count_nonzero(label, axis=(1, 2))
        if area.any():
            return int(area.argmax())
    return reference.shape[0] // 2


def picture_of(channels: np.ndarray) -> np.ndarray:
    """(C, Y, X) -> (Y, X, 3) in [0, 1]: three channels as colours, otherwise the first one in grey."""
    channels = channels if len(channels) == 3 else channels[:1]
    low, high = np.percentile(channels, _WINDOW)
    scaled = np.clip((channels - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1)
