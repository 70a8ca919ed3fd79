"""By what a training image is known again: samples of its file, and its voxels however that was written.

A mark is plain text, ``<samples>`` or ``<samples>/<shape>/<hash>[/<spacing>]``: `file_identity.fingerprint` of the file
(of a label `file_content`), shape and hash of the voxels, and of a case's first image the spacing in mm. What has been
prepared by earlier versions, and their checkpoints, have the first part alone.

An image that holds one value alone, as a missing channel may, has that value instead of a hash: two of them are not
taken for one image. A case is known by its first channel that holds more, see `known_by`.

The voxels are those of the arrays that the readers give: a file that was compressed anew, stored as another type that
holds its values, or given another header is the same image; one that was resampled, turned or rescaled is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

CHANNEL = "channel_"  # before the number of a case's second image and those after it, in checkpoints
_BETWEEN = "/"
_CONSTANT = "constant "  # before the value
_DIGITS = 6  # of a spacing, which headers round to float32


def voxel_hash(image: np.ndarray) -> str:
    """Hash of shape and voxels, as float32, of an image (C, Z, Y, X): the same however its file was written."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    for channel in image:
        for part in channel:
            values = np.add(part, 0, dtype=np.float32, casting="unsafe")  # -0.0, which whole numbers lack, becomes 0
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def voxel_marks(image: np.ndarray, files: int, spacing: Sequence[float], label: np.ndarray | None = None) -> list[str]:
    """What follows the samples in the marks of a case's files.

    Args:
        image: All channels (C, Z, Y, X), float32.
        files: In how many files they came; one picture holds several.
        spacing: Of the first, (z, y, x) in mm.
        label: (Z, Y, X), if there is one.

    Returns:
        One of each file of the image, and one of the label.
    """
    each = len(image) // files
    marks = [voxels_of(image[number * each : (number + 1) * each]) for number in range(files)]
    marks[0] += _BETWEEN + "x".join(f"{size:.{_DIGITS}g}" for size in spacing)
    return marks if label is None else [*marks, voxels_of(label[None])]


def joined(samples: str, voxels: str | None) -> str:
    """The mark of a file, of which the voxels may be unknown."""
    return samples if voxels is None else samples + _BETWEEN + voxels


def samples_of(mark: str) -> str:
    """The part of a mark that is of the file alone, and all that earlier versions have."""
    return mark.split(_BETWEEN)[0]


def of_files(marks: Any) -> Any:
    """Plain data with `samples_of` each mark in it."""
    if isinstance(marks, Mapping):
        return {name: of_files(mark) for name, mark in marks.items()}
    if isinstance(marks, list):
        return [of_files(mark) for mark in marks]
    return samples_of(marks) if isinstance(marks, str) else marks


def are_alike(then: str, now: str) -> bool:
    """Whether a preparation makes the same of two files: of one content, or of the same voxels and spacing."""
    samples, _, voxels = then.partition(_BETWEEN)
    samples_now, _, voxels_now = now.partition(_BETWEEN)
    return samples == samples_now or (voxels != "" and voxels == voxels_now)


def known_by(marks: Sequence[str]) -> str:
    """The mark by which a case is known: that of its first image that does not hold one value alone.

    Args:
        marks: Of all its images, in the order of the channels.

    Returns:
        Where all hold one value alone, one of all these values, by which nobody can tell cases apart.
    """
    told = next((mark for mark in marks if not is_constant(mark)), None)
    return told or joined(samples_of(marks[0]), constants(map(shape_and_hash, marks)))


def of_cases(trained_on: Mapping[Any, Any], files: Any) -> dict[str, str]:
    """The marks by which the cases of a checkpoint are known.

    Args:
        trained_on: Case -> mark of its first image.
        files: Case -> marks of its other files, "channel_1" and so on; a case that is not among them, as of a source
            (`init_from`), is known by its first image alone.
    """
    known = {}
    for name, first in trained_on.items():
        others = files.get(name) if isinstance(files, Mapping) else None
        others = others if isinstance(others, Mapping) else {}
        channels = (others.get(f"{CHANNEL}{index}") for index in range(1, len(others) + 1))
        known[str(name)] = known_by([str(first), *(str(mark) for mark in channels if mark is not None)])
    return known


def voxels_of(image: np.ndarray) -> str:
    """Shape and hash, or the one value, of the image (C, Z, Y, X) that a file holds."""
    low, high = float(image.min()), float(image.max())
    return shape_text(image.shape[1:]) + _BETWEEN + (f"{_CONSTANT}{low:g}" if low == high else voxel_hash(image))


def is_constant(mark: str) -> bool:
    """Whether it is known to be of an image that holds one value alone."""
    return are_constant(shape_and_hash(mark))


def are_constant(voxels: str) -> bool:
    """Likewise, of what `voxels_of` says."""
    return voxels.partition(_BETWEEN)[2].startswith(_CONSTANT)


def constants(voxels: Iterable[str]) -> str:
    """One for the images of a case that hold one value each, of what `voxels_of` says of them."""
    first, *others = voxels
    return " ".join([first, *(one.removeprefix(f"{shape_of(one)}{_BETWEEN}{_CONSTANT}") for one in others)])


def shape_of(voxels: str) -> str:
    """The shape in what `voxels_of` says, as `shape_text` writes it."""
    return voxels.partition(_BETWEEN)[0]


def shape_and_hash(mark: str) -> str:
    """What a mark has of `voxels_of`; "" where the voxels are unknown."""
    return _BETWEEN.join(mark.split(_BETWEEN)[1:3])


def shape_text(shape: Sequence[int]) -> str:
    """A shape (Z, Y, X) as marks have it."""
    return "x".join(map(str, shape))
