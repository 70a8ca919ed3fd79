"""The doctor's quick part, run before every training: headers, lengths and file lists alone, 5 to 10 ms a case."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from umamba.raw.checks import Finding, log_warnings, raise_errors
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.grids import geometry_faults
from umamba.raw.orientation import orientation_of
from umamba.raw.origins import origin_faults
from umamba.raw.pictures import check_picture_whole
from umamba.raw.readers import Geometry, is_picture, read_geometry
from umamba.raw.volume_files import check_volume_whole


def quick_check(dataset: RawDataset | Path | str) -> list[Finding]:
    """Check what can be checked without reading a voxel.

    Pairs and names of the files, empty files and files that are cut off, by their lengths, the grids of image and label
    as their headers state them and where their axes point (volumes), and files that are in training and test, byte by
    byte.

    Raises:
        FileNotFoundError: There is no raw data set.
        DatasetError: It has faults; up to ten are listed.
    """
    raw = dataset if isinstance(dataset, RawDataset) else RawDataset.open(dataset)
    findings: list[Finding] = []
    pointing: dict[str, list[str]] = defaultdict(list)  # where axes point -> training cases
    for case in raw.training_cases:
        faults, geometry = header_faults(case)
        findings += faults
        if geometry is not None and (found := orientation_of(geometry)):
            pointing[found].append(case.identifier)
    findings += [finding for case in raw.test_cases for finding in header_faults(case)[0]]
    findings += shared_files(raw) + mixed_orientations(pointing)
    raise_errors(findings)
    log_warnings(findings)
    return findings


def header_faults(case: RawCase) -> tuple[list[Finding], Geometry | None]:
    """Empty files, files that are cut off, headers that cannot be read, and grids that differ.

    Returns:
        The faults; and the geometry of the first image, None of a picture and where it cannot be read.
    """

    def error(kind: str, message: str) -> Finding:
        return Finding(case=case.identifier, kind=kind, severity="error", message=message)

    files = [path for path in (*case.images, case.label) if path is not None]
    empty = [path for path in files if path.stat().st_size == 0]
    if empty:
        return [error("unreadable", f"{path} is empty (0 bytes). Copy it again.") for path in empty], None
    try:
        for path in files:
            (check_picture_whole if is_picture(path) else check_volume_whole)(path)
        if any(is_picture(path) for path in files):
            return [], None
        image, *others = (read_geometry(path) for path in case.images)
        label = None if case.label is None else read_geometry(case.label)
    except DatasetError as fault:
        return [error("unreadable", str(fault))], None
    findings = [
        error("shape", f"{path} has shape {other.shape} (z, y, x), {case.images[0]} has {image.shape}.")
        for path, other in zip(case.images[1:], others, strict=True)
        if other.shape != image.shape
    ]
    geometries = [image, *others]
    if case.label is not None and label is not None:
        findings += [
            error(kind, message) for kind, message in geometry_faults(case.label, case.images[0], label, image)
        ]
        geometries.append(label)
    findings += [
        Finding(case=case.identifier, kind="origin", severity=severity, message=message)
        for severity, message in origin_faults(files, geometries)
    ]
    return findings, image


def mixed_orientations(pointing: Mapping[str, Sequence[str]]) -> list[Finding]:
    """One warning where not all training images point along the same axes.

    Args:
        pointing: Letters of where x, y, z point -> cases.
    """
    if len(pointing) < 2:
        return []
    usual, *others = sorted(pointing, key=lambda letters: -len(pointing[letters]))
    found = ", ".join(f"{len(pointing[letters])} {letters}" for letters in others)
    return [
        Finding(
            case=pointing[others[0]][0],
            kind="orientation",
            severity="warning",
            message=f"its axes point elsewhere than most. {len(pointing[usual])} training case(s) are stored {usual}, "
            f"{found}: the network sees some turned or mirrored. The doctor names them; reorient image and label.",
        )
    ]


def shared_files(raw: RawDataset) -> list[Finding]:
    """Test images that are byte by byte a training image; only files of equal size are read."""
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for case in raw.training_cases:
        by_size[case.images[0].stat().st_size].append((case.identifier, case.images[0]))
    findings = []
    for case in raw.test_cases:
        candidates = by_size.get(case.images[0].stat().st_size, [])
        digest = _digest(case.images[0]) if candidates else None
        findings += [
            Finding(
                case=case.identifier,
                kind="leakage",
                severity="error",
                message=f"{case.images[0]} is the training image {path}. Remove it from one of them.",
            )
            for _, path in candidates
            if _digest(path) == digest
        ]
    return findings


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
