"""nnU-Net's intensity normalisations, one function per scheme.

Each takes one channel (Z, Y, X) float32, which it may overwrite, the label in which -1 marks voxels outside the
non-zero mask, or None where the whole image counts, and the foreground statistics; it returns the channel.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

import numpy as np

from umamba.planning.intensities import MIN_STD, Intensities
from umamba.raw.description import DatasetError

log = logging.getLogger(__name__)

_TINY = np.float32(MIN_STD)

Scheme = Callable[[np.ndarray, np.ndarray | None, Intensities], np.ndarray]


def ct(channel: np.ndarray, mask: np.ndarray | None, intensities: Intensities) -> np.ndarray:
    """Clip to the foreground percentiles 0.5 and 99.5, then z-score with the data set's mean and deviation."""
    np.clip(channel, intensities.percentile_00_5, intensities.percentile_99_5, out=channel)
    channel -= intensities.mean
    channel /= max(intensities.std, MIN_STD)
    return channel


def z_score(channel: np.ndarray, mask: np.ndarray | None, intensities: Intensities) -> np.ndarray:
    """Z-score of this image; with the mask, inside it only, and voxels outside keep their value (else DatasetError)."""
    inside = None if mask is None else mask >= 0
    values = channel if inside is None else channel[inside]
    with np.errstate(over="ignore", invalid="ignore"):  # said by the check
        mean, std = values.mean(), values.std()
    check_spread(float(std), float(channel.min()), float(channel.max()))
    if inside is not None:
        channel[inside] = (values - mean) / max(std, _TINY)
        return channel
    channel -= mean
    channel /= max(std, _TINY)
    return channel


def no_norm(channel: np.ndarray, mask: np.ndarray | None, intensities: Intensities) -> np.ndarray:
    """The channel as it is."""
    return channel


def rescale_0_1(channel: np.ndarray, mask: np.ndarray | None, intensities: Intensities) -> np.ndarray:
    """Map this image's range to [0, 1] (else DatasetError)."""
    low, high = channel.min(), channel.max()
    check_spread(float(high) - float(low), float(low), float(high))
    channel -= low
    channel /= max(channel.max(), _TINY)
    return channel


def rgb_0_1(channel: np.ndarray, mask: np.ndarray | None, intensities: Intensities) -> np.ndarray:
    """Map 0..255 to [0, 1] (DatasetError: other values)."""
    check_bytes(float(channel.min()), float(channel.max()))
    channel /= 255.0
    return channel


def check_spread(spread: float, low: float, high: float) -> None:
    """See that what a channel is divided by is a number (else DatasetError): it would be 0 everywhere, or NaN.

    Args:
        spread: Deviation or range of its values, of float32.
        low: Its least value.
        high: Its largest value.
    """
    if not spread <= np.finfo(np.float32).max:
        raise DatasetError(
            f"The image has values of {low:g} to {high:g}, which are too large to be normalised in float32. Is the "
            "file damaged, or of another type than its header says? Else scale them."
        )


def check_bytes(low: float, high: float) -> None:
    """See by its least and largest value that a channel taken for one of 0 to 255 is one (else DatasetError)."""
    if low < 0 or high > 255:
        raise DatasetError(
            f"rgb_to_0_1 expects values in 0..255, the image has {low}..{high}. Name its channels otherwise in "
            "dataset.json (any other name means a z-score)."
        )


SCHEMES: dict[str, Scheme] = {
    "CTNormalization": ct,
    "ZScoreNormalization": z_score,
    "NoNormalization": no_norm,
    "RescaleTo01Normalization": rescale_0_1,
    "RGBTo01Normalization": rgb_0_1,
}
_BY_CHANNEL = {
    "CT": "CTNormalization",
    "noNorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}

_SQUEEZED = {re.sub(r"[\W_]+", "", name.casefold()): name for name in _BY_CHANNEL if name != "zscore"}


def scheme_for(channel_name: str, rule: str) -> str:
    """Name of the scheme for a channel: rule 2.1 matches names exactly, 2.8 in any case; anything else is a z-score."""
    if rule == "2.8":
        folded = {name.casefold(): scheme for name, scheme in _BY_CHANNEL.items()}
        return folded.get(channel_name.casefold(), "ZScoreNormalization")
    return _BY_CHANNEL.get(channel_name, "ZScoreNormalization")


def say_near_misses(channel_names: Sequence[str], rule: str) -> None:
    """Warn of channels that get a z-score though their names are nearly those of another scheme."""
    for name in channel_names:
        if scheme_for(name, rule) != "ZScoreNormalization":
            continue
        words = re.split(r"[\W_]+", name.casefold())
        meant = "CT" if "ct" in words else _SQUEEZED.get("".join(words))
        if meant is not None:
            log.warning(
                "Channel %r gets a z-score of each image: only a channel that is called exactly %r is normalised "
                "differently%s. Rename it in dataset.json if that is meant.",
                name, meant, " (rule 2.8 takes it in any case)" if rule != "2.8" else " (in any case)",
            )  # fmt: skip


def uses_mask(scheme: str, median_relative_size: float) -> bool:
    """Whether a scheme keeps to the non-zero mask: z-scores, where cropping took more than a quarter of the volume."""
    return scheme == "ZScoreNormalization" and median_relative_size < 3 / 4
