"""What can be wrong with one raw case, found before it costs a training run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.doubts import file_doubts
from umamba.raw.grids import DIRECTION_TOLERANCE, SPACING_TOLERANCE, close, geometry_faults
from umamba.raw.nifti import count_nonfinite
from umamba.raw.nifti_header import is_nifti
from umamba.raw.origins import origin_faults
from umamba.raw.readers import Geometry, read_geometry, read_images, read_label
from umamba.words import count, listed

log = logging.getLogger(__name__)

_DOUBTS = {
    "origin": "files that lie up to a voxel apart",
    "spacing": "a header that leaves the size of a voxel in doubt",
    "picture": "pictures that some programs show otherwise than they are stored",
    "orientation": "axes that point elsewhere than those of the training",
    "place": "two places in their headers",
    "axes": "axes that are at right angles but for the rounding of a header",
    "values": "values that seem unlike those of the training",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a case: an error stops the preparation, a warning is said and handled.

    Attributes:
        case: The case's identifier.
        kind: What it is about, for tables: "unreadable", "channels", "spacing", "picture", "values", "empty", "shape",
            "direction", "origin", "labels".
        severity: "error" or "warning".
        message: What was expected, what came, which file, what to do.
    """

    case: str
    kind: str
    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True, kw_only=True)
class LoadedCase:
    """The arrays of a case that was read."""

    image: np.ndarray
    geometry: Geometry
    label: np.ndarray | None


def check_case(case: RawCase, dataset: DatasetDescription) -> list[Finding]:
    """Read a case and list all that is wrong with it; an empty list means it is sound."""
    return load_and_check(case, dataset)[1]


def load_and_check(case: RawCase, dataset: DatasetDescription) -> tuple[LoadedCase | None, list[Finding]]:
    """Read a case and check it.

    Returns:
        The arrays, or None if a file cannot be read, and the findings.
    """
    findings: list[Finding] = []

    def report(kind: str, message: str, severity: Literal["error", "warning"] = "error") -> None:
        findings.append(Finding(case=case.identifier, kind=kind, severity=severity, message=message))

    try:
        image, geometry = read_images(case.images)
        for kind, message in _image_faults(case.images, image, geometry, dataset.channel_names):
            report(kind, message)
    except (DatasetError, FileNotFoundError) as error:
        report("unreadable", str(error))
        return None, findings
    for path in case.images:
        for kind, message in file_doubts(path):
            report(kind, message, "warning")
    if not image.any():
        report("empty", f"{case.images[0]} holds zeros only. If that is no mistake it is kept, uncropped.", "warning")
    files, geometries = [*case.images], [geometry, *(read_geometry(path) for path in case.images[1:])]
    label = None
    if case.label is not None:
        try:
            label, label_geometry = read_label(case.label)
        except (DatasetError, FileNotFoundError) as error:
            report("unreadable", str(error))
            return None, findings
        for kind, message in file_doubts(case.label):
            report(kind, message, "warning")
        files, geometries = [*files, case.label], [*geometries, label_geometry]
        for kind, message in geometry_faults(case.label, case.images[0], label_geometry, geometry):
            report(kind, message)
    for severity, message in origin_faults(files, geometries):
        report("origin", message, severity)
    if case.label is not None and label is not None:
        for kind, message, severity in _label_faults(case.label, label, dataset):
            report(kind, message, severity)
    return LoadedCase(image=image, geometry=geometry, label=label), findings


def _label_faults(
    path: Path, label: np.ndarray, dataset: DatasetDescription
) -> Iterator[tuple[str, str, Literal["error", "warning"]]]:
    present = np.unique(np.concatenate([np.unique(part) for part in label]))  # by slice: np.unique copies and sorts
    strange = [int(v) for v in present if int(v) not in dataset.allowed_values]
    if strange:
        scaled = ": 255 suggests a mask that was scaled for viewing." if 255 in strange else "."
        yield (
            "labels",
            f"{path} holds the values {listed(strange, 8)}, which dataset.json does not declare (it has "
            f"{sorted(dataset.allowed_values)}). Add them to labels, or correct the file{scaled}",
            "error",
        )
    elif not ((present > 0) & (present != dataset.ignore_label)).any():
        yield "empty", f"{path} has no foreground; patches of this case are drawn anywhere.", "warning"


def read_sound_images(
    paths: Sequence[Path], channel_names: Sequence[str], doubts: dict[str, str] | None = None
) -> tuple[np.ndarray, Geometry]:
    """Read the images of a case to be predicted.

    Args:
        paths: One file per channel, or one picture with all of them.
        channel_names: What the channels are to be.
        doubts: Gets what is odd about them and is no reason to refuse them, of each kind (see `log_doubts`) the
            first; None logs it.

    Returns:
        The image (C, Z, Y, X) as float32, and the geometry of the first file.

    Raises:
        FileNotFoundError: A file does not exist.
        DatasetError: A file cannot be read or is cut off, holds NaN or infinite voxels, or the channels differ.
    """
    image, geometry = read_images(paths)
    faults = [message for _, message in _image_faults(paths, image, geometry, channel_names)]
    odd: list[tuple[str, str]] = []
    for severity, message in origin_faults(paths, [geometry, *map(read_geometry, paths[1:])]):
        if severity == "error":
            faults.append(message)
        else:
            odd.append(("origin", message))
    if faults:
        raise DatasetError(" ".join(faults))
    odd += [doubt for path in paths for doubt in file_doubts(path)]
    for kind, message in odd:
        note_doubt(doubts, kind, message)
    return image, geometry


def note_doubt(doubts: dict[str, str] | None, kind: str, message: str) -> None:
    """Keep the first of its kind, to be said with those of other cases; or say it now, where nothing is kept."""
    if doubts is None:
        log.warning("%s", message)
    else:
        doubts.setdefault(kind, message)


def raise_errors(findings: list[Finding]) -> None:
    """Raise one DatasetError that lists the errors among the findings, if there are any."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = listed([f"{finding.case}: {finding.message}" for finding in errors], 10, "\n  ")
        cases = len({finding.case for finding in errors})
        raise DatasetError(
            f"{count(cases, 'case')} cannot be used:\n  {lines}\n"
            "All findings, with what to do: python -m umamba.datamodules.doctor data=custom data.dataset_dir=FOLDER"
        )


def log_warnings(findings: Sequence[Finding]) -> None:
    """Log the findings, one line each; those about origins, which whole data sets have in common, in one."""
    origins = [finding for finding in findings if finding.kind == "origin"]
    for finding in findings:
        if finding.kind != "origin":
            log.warning("%s: %s", finding.case, finding.message)
    if origins:
        log_doubts("origin", len({finding.case for finding in origins}), origins[0].message)


def log_doubts(kind: str, cases: int, first: str) -> None:
    """Say in one line what is odd about so many cases, of a kind of `_DOUBTS`."""
    log.warning("%d case(s) have %s, such as: %s", cases, _DOUBTS[kind], first)


def _image_faults(
    paths: Sequence[Path], image: np.ndarray, geometry: Geometry, channel_names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Kind and message of each fault of a case's images."""
    if image.shape[0] != len(channel_names):
        yield (
            "channels",
            f"{paths[0]} and its siblings give {image.shape[0]} channel(s); expected are "
            f"{len(channel_names)} ({', '.join(channel_names)}). Give one file per channel, NAME_0000, NAME_0001, ...",
        )
    if not all(math.isfinite(s) and s > 0 for s in geometry.spacing):
        yield (
            "spacing",
            f"{paths[0]} has spacing {geometry.spacing} mm (z, y, x); expected numbers > 0. Correct its header.",
        )
    for path, bad in _nonfinite(paths, image):
        yield (
            "values",
            f"{path} has {bad} NaN or infinite voxels (or too large for float32). Replace them, for instance by the "
            "background's value, or correct the scale in its header.",
        )
    for path in paths[1:]:
        other = read_geometry(path)
        if not close(other.spacing, geometry.spacing, SPACING_TOLERANCE):
            yield (
                "spacing",
                f"{path} has spacing {other.spacing} mm, {paths[0]} has {geometry.spacing} (z, y, x).",
            )
        elif not close(other.direction, geometry.direction, DIRECTION_TOLERANCE, relative=False):
            yield "direction", f"{path} has direction {other.direction}, {paths[0]} has {geometry.direction}."


def _nonfinite(paths: Sequence[Path], image: np.ndarray) -> list[tuple[Path, int]]:
    """Files with NaN or infinite voxels, and how many."""
    if len(paths) != len(image):  # pictures hold whole numbers, but a float TIFF may not
        counts = [(paths[0], int(np.count_nonzero(~np.isfinite(image))))]
    else:
        pairs = zip(paths, image, strict=True)
        # What is stored, for SimpleITK reads NaN as 0; and what was read: scl_slope and float32 may make it infinite.
        counts = [
            (path, (count_nonfinite(path) if is_nifti(path) else 0) or _bad_voxels(channel)) for path, channel in pairs
        ]
    return [(path, bad) for path, bad in counts if bad]


def _bad_voxels(channel: np.ndarray) -> int:
    # The sum is finite only if every voxel is: one pass without a mask of the volume's size.
    finite = np.isfinite(channel.sum(dtype=np.float64))
    return 0 if finite else int(np.count_nonzero(~np.isfinite(channel)))
