"""What the doctor learns from one case: its grid, intensities, labels, a hash of its content, and its faults."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from umamba.raw.checks import Finding, LoadedCase, load_and_check
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription
from umamba.raw.file_identity import file_stamp
from umamba.raw.image_marks import voxel_hash
from umamba.raw.orientation import orientation

VERSION = 2  # of these checks: raise it when one changes, and every case is examined anew
SAMPLE = 1_000_000  # voxels that percentiles are taken from

GEOMETRY_KINDS = ("shape", "spacing", "direction", "origin")


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """One case, as plain data.

    Attributes:
        key: Of the files and of what they were compared with: facts with another key are out of date.
        case: Identifier.
        split: "Tr" or "Ts".
        shape: (Z, Y, X), or None if the case cannot be read; so are the ones below.
        spacing: mm, (z, y, x).
        orientation: Where the axes x, y, z point, e.g. "LPS"; None for pictures.
        channels: Per channel min, max, mean, std, percentiles 1 and 99.
        labels: Voxels per label value.
        content: Hash of the voxels.
        findings: What is wrong.
    """

    key: str
    case: str
    split: str
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    orientation: str | None = None
    channels: tuple[dict[str, float], ...] = ()
    labels: dict[int, int] | None = None
    content: str | None = None
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CaseFacts:
        """Inverse of `to_dict`, also after a round trip through JSON."""
        findings = tuple(Finding(**finding) for finding in values["findings"])
        labels = None if values["labels"] is None else {int(value): n for value, n in values["labels"].items()}
        return cls(**{**values, "findings": findings, "labels": labels, "channels": tuple(values["channels"])})


def case_key(case: RawCase, description: DatasetDescription) -> str:
    """Changes whenever a file of the case, the allowed labels or the channels do."""
    files = [path for path in (*case.images, case.label) if path is not None]
    facts: list[object] = [(path.name, *file_stamp(path)) for path in files]
    facts += [sorted(description.allowed_values), description.channel_names, VERSION]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def examine(job: tuple[RawCase, str], description: DatasetDescription) -> CaseFacts:
    """Read a case and gather its facts; what is wrong becomes a finding, not an exception."""
    case, split = job
    facts_of = functools.partial(CaseFacts, key=case_key(case, description), case=case.identifier, split=split)
    try:
        loaded, findings = load_and_check(case, description)
    except Exception as error:  # whatever a decoder does with a damaged file, the other cases are examined
        message = f"{case.images[0]} or its label cannot be examined: {type(error).__name__}: {error}."
        finding = Finding(case=case.identifier, kind="unreadable", severity="error", message=message)
        return facts_of(findings=(finding,))
    if loaded is None:
        return facts_of(findings=tuple(findings))
    channels = tuple(channel_facts(channel) for channel in loaded.image)
    findings += intensity_faults(case, loaded, channels, description)
    return facts_of(
        shape=loaded.geometry.shape,
        spacing=loaded.geometry.spacing,
        orientation=orientation(case.images[0], loaded.geometry),
        channels=channels,
        labels=None if loaded.label is None else count_labels(loaded.label),
        content=voxel_hash(loaded.image),
        findings=tuple(findings),
    )


def channel_facts(channel: np.ndarray) -> dict[str, float]:
    """Statistics of one channel (Z, Y, X); percentiles from an evenly spaced sample."""
    step = max(1, channel.size // SAMPLE)
    low, high = np.percentile(channel.ravel()[::step], [1, 99])
    moments = np.array([(part.sum(dtype=np.float64), np.square(part, dtype=np.float64).sum()) for part in channel])
    mean, square = moments.sum(axis=0) / channel.size
    return {
        "min": float(channel.min()),
        "max": float(channel.max()),
        "mean": float(mean),
        "std": float(np.sqrt(max(square - mean**2, 0.0))),
        "percentile_01": float(low),
        "percentile_99": float(high),
    }


def count_labels(label: np.ndarray) -> dict[int, int]:
    """Voxels per value, slice by slice to stay small."""
    counts: Counter[int] = Counter()
    for part in label:
        values, numbers = np.unique(part, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def intensity_faults(
    case: RawCase, loaded: LoadedCase, channels: tuple[dict[str, float], ...], description: DatasetDescription
) -> list[Finding]:
    """Channels without contrast, and CT that does not look like Hounsfield units."""
    findings = []
    names = description.channel_names if len(description.channel_names) == len(channels) else ("?",) * len(channels)
    for number, (name, facts) in enumerate(zip(names, channels, strict=True)):
        where = f"channel {number} ({name}) of {case.images[min(number, len(case.images) - 1)]}"
        message = None
        if facts["min"] == facts["max"] and loaded.image.any():
            message = f"{where} has the value {facts['min']:g} everywhere. Is it the right file?"
        elif name.upper() == "CT" and facts["min"] >= 0:
            message = (
                f"{where} has no value below 0 ({facts['min']:g} to {facts['max']:g}): Hounsfield units expected, "
                "where air is -1000. Was an offset of 1024 left in, or a window applied?"
            )
        if message:
            findings.append(Finding(case=case.identifier, kind="intensities", severity="warning", message=message))
    return findings
