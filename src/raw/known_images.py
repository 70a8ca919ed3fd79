"""Whether the image of a case is one of those that are known by their marks, see `umamba.raw.image_marks`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import (
    are_constant,
    constants,
    is_constant,
    samples_of,
    shape_and_hash,
    shape_of,
    shape_text,
    voxels_of,
)
from umamba.raw.readers import read_geometry, read_images

WHY_DOUBT = (
    "Cases are known by the voxels of their channels. Where these hold one value alone, as an empty channel does, no "
    "image is known again; and a checkpoint of an earlier version knows files by their bytes, none that was compressed "
    "anew."
)


class Match(NamedTuple):
    """What is known of an image.

    Attributes:
        name: What it is called; None if it is not known to be one of these.
        doubt: Whether nobody can tell: it holds one value alone where one of these does.
        copy: Whether nobody can tell if it is a copy: some of these are known by the bytes of their files alone.
    """

    name: str | None
    doubt: bool = False
    copy: bool = False


class KnownImages:
    """Images of cases by their marks, those of `known_by`.

    Args:
        marks: Name -> mark, of one or several sets of cases.
    """

    def __init__(self, *marks: Mapping[str, str]) -> None:
        every = [(name, mark) for some in marks for name, mark in some.items()]
        pairs = [(name, mark) for name, mark in every if not is_constant(mark)]
        self._by_samples = {samples_of(mark): name for name, mark in pairs}
        self._by_file_alone = {samples_of(mark) for _, mark in pairs if not shape_and_hash(mark)}  # of earlier versions
        self._by_voxels = {voxels: name for name, mark in pairs if (voxels := shape_and_hash(mark))}
        self._constant = {shape_and_hash(mark) for _, mark in every if is_constant(mark)}
        self._shapes = {shape_of(voxels) for voxels in {*self._by_voxels, *self._constant}}

    def find(self, images: Sequence[Path], marks: Sequence[str] = (), array: np.ndarray | None = None) -> Match:
        """Look for the image of a case, known by the first of its files that does not hold one value alone.

        Args:
            images: Files of its channels.
            marks: Of these files, if they are known.
            array: All channels (C, Z, Y, X) if they have been read. Else they are where mark and shape leave it open.
        """
        match = self._find(images, marks, array)
        return match._replace(copy=bool(self._by_file_alone) and match == Match(None))

    def _find(self, images: Sequence[Path], marks: Sequence[str], array: np.ndarray | None) -> Match:
        """As `find`, of images that are no copies."""
        first = marks[0] if marks else fingerprint(images[0])
        alike = self._by_samples.get(samples_of(first))
        blank = alike is not None and self._is_blank(first, images, array)  # empty channels are alike in many cases
        if (alike is None and not self._shapes) or (alike is not None and not blank):
            return Match(alike)
        if not blank and not shape_and_hash(first):
            shape = read_geometry(images[0]).shape if array is None else array.shape[1:]
            if shape_text(shape) not in self._shapes:
                return Match(None)
        constant: list[str] = []
        for number, path in enumerate(images):
            voxels = shape_and_hash(marks[number]) if marks else ""
            voxels = voxels or voxels_of(_part(images, number, array))
            if not are_constant(voxels):
                samples = samples_of(marks[number]) if marks else fingerprint(path)
                name = self._by_voxels.get(voxels) or self._by_samples.get(samples)
                # Of cases of a source, what other channels than the first hold may be unknown.
                return Match(name, doubt=name is None and (blank or not self._constant.isdisjoint(constant[:1])))
            constant.append(voxels)
        return Match(None, doubt=blank or not self._constant.isdisjoint([constant[0], constants(constant)]))

    def _is_blank(self, first: str, images: Sequence[Path], array: np.ndarray | None) -> bool:
        """Whether a first image that has the bytes of a known one holds one value alone; read where that may be."""
        if samples_of(first) not in self._by_file_alone or shape_and_hash(first):
            return is_constant(first)
        return are_constant(voxels_of(_part(images, 0, array)))


def known_marks(marks: Iterable[str]) -> KnownImages:
    """Images whose names do not matter."""
    return KnownImages({mark: mark for mark in marks})


def _part(images: Sequence[Path], number: int, array: np.ndarray | None) -> np.ndarray:
    """The channels (C, Z, Y, X) in a file of a case."""
    if array is None:
        return read_images([images[number]])[0]
    each = len(array) // len(images)
    return array[number * each : (number + 1) * each]
