"""By what a training image is known again: samples of its file, and its voxels however that was written.

A mark is plain text, ``<samples>`` or ``<samples>/<shape>/<hash>[/<spacing>]``: `file_identity.fingerprint` of the file
(of a label `file_content`), shape and hash of the voxels, and of a case's first image the spacing in mm. What has been
prepared by earlier versions, and their checkpoints, have the first part alone.

An image that holds one value alone, as a missing channel may, has that value instead of a hash: two of them are not
taken for one image.

The voxels are those of the arrays that the readers give: a file that was compressed anew, stored as another type that
holds its values, or given another header is the same image; one that was resampled, turned or rescaled is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from umamba.raw.file_identity import fingerprint
from umamba.raw.readers import read_geometry, read_images

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
    marks = [_voxels_of(image[number * each : (number + 1) * each]) for number in range(files)]
    marks[0] += _BETWEEN + "x".join(f"{size:.{_DIGITS}g}" for size in spacing)
    return marks if label is None else [*marks, _voxels_of(label[None])]


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


class KnownImages:
    """Images by their marks.

    Args:
        marks: Name -> mark, of one or several sets of cases.
    """

    def __init__(self, *marks: Mapping[str, str]) -> None:
        pairs = [(name, mark) for some in marks for name, mark in some.items() if not _is_constant(mark)]
        self._by_samples = {samples_of(mark): name for name, mark in pairs}
        self._by_voxels = {voxels: name for name, mark in pairs if (voxels := _shape_and_hash(mark))}
        self._shapes = {voxels.split(_BETWEEN)[0] for voxels in self._by_voxels}

    def name_of(self, images: Sequence[Path], mark: str | None = None, array: np.ndarray | None = None) -> str | None:
        """What the image of a case is called here; None if it is none of these.

        Args:
            images: Files of its channels; the first one tells.
            mark: Of the first, if it is known.
            array: All channels (C, Z, Y, X) if they have been read. Else they are where mark and shape leave it open.
        """
        if mark is not None and _is_constant(mark):
            return None
        name = self._by_samples.get(fingerprint(images[0]) if mark is None else samples_of(mark))
        if name is not None or not self._by_voxels:
            return name
        voxels = "" if mark is None else _shape_and_hash(mark)
        if not voxels:
            shape = read_geometry(images[0]).shape if array is None else array.shape[1:]
            if _text(shape) not in self._shapes:
                return None
            first = read_images(images[:1])[0] if array is None else array[: len(array) // len(images)]
            voxels = _voxels_of(first)
        return self._by_voxels.get(voxels)


def known_marks(marks: Iterable[str]) -> KnownImages:
    """Images whose names do not matter."""
    return KnownImages({mark: mark for mark in marks})


def _voxels_of(image: np.ndarray) -> str:
    low, high = float(image.min()), float(image.max())
    return _text(image.shape[1:]) + _BETWEEN + (f"{_CONSTANT}{low:g}" if low == high else voxel_hash(image))


def _is_constant(mark: str) -> bool:
    return _shape_and_hash(mark).partition(_BETWEEN)[2].startswith(_CONSTANT)


def _shape_and_hash(mark: str) -> str:
    return _BETWEEN.join(mark.split(_BETWEEN)[1:3])


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
