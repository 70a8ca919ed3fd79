"""What only shows when the cases are seen together: duplicates, leakage, absent classes, outliers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from umamba.datamodules.doctor.case import CaseFacts
from umamba.machine import free_memory
from umamba.raw.checks import Finding
from umamba.raw.description import DatasetDescription

SPACING_FACTOR = 3.0  # from the median of the cases, per axis
SIZE_FACTOR = 3.0
_BYTES_OF_A_VALUE = 4  # of a preprocessed image
INTENSITY_FACTOR = 10.0  # of the width between percentiles 1 and 99


def compare_cases(facts: Sequence[CaseFacts], description: DatasetDescription) -> list[Finding]:
    """All findings that need more than one case; cases that cannot be read are left out."""
    read = [case for case in facts if case.shape is not None]
    return [
        *duplicates(read),
        *absent_classes(read, description),
        *odd_orientations(read),
        *too_large(read),
        *outliers(read),
    ]


def duplicates(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Images with the same voxels: an error between training and test, a warning within one of them."""
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in facts:
        groups[str(case.content)].append(case)
    findings = []
    for group in groups.values():
        if len(group) < 2:
            continue
        names = ", ".join(f"{case.case} ({'test' if case.split == 'Ts' else 'training'})" for case in group)
        if len({case.split for case in group}) > 1:
            message = f"the same image is in training and test: {names}. Remove it from one of them."
            findings.append(Finding(case=group[0].case, kind="leakage", severity="error", message=message))
        else:
            message = f"the same image more than once: {names}. Folds would share it; keep one."
            findings.append(Finding(case=group[0].case, kind="duplicate", severity="warning", message=message))
    return findings


def absent_classes(facts: Sequence[CaseFacts], description: DatasetDescription) -> list[Finding]:
    """Classes and regions that no training label holds."""
    present = {value for case in facts if case.split == "Tr" and case.labels for value in case.labels}
    findings = []
    for name, values in description.foreground.items():
        if not present.intersection(values):
            made_of = ", ".join(map(str, values))
            message = f"class {name} ({made_of}) is in no training label. Remove it from dataset.json, or look for it."
            findings.append(Finding(case="", kind="absent class", severity="warning", message=message))
    return findings


def odd_orientations(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Cases whose axes point elsewhere than most cases' do: nothing here reorients them."""
    counts = Counter(case.orientation for case in facts if case.orientation)
    if len(counts) < 2:
        return []
    usual, number = counts.most_common(1)[0]
    return [
        Finding(
            case=case.case,
            kind="orientation",
            severity="warning",
            message=f"{case.case} is stored {case.orientation}, {number} others are {usual}. The network sees it "
            "turned or mirrored; reorient image and label.",
        )
        for case in facts
        if case.orientation not in (None, usual)
    ]


def too_large(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Cases that do not fit into memory once they are resampled to the median spacing, near which the plan's lies."""
    findings: list[Finding] = []
    if not facts:
        return findings
    spacings = np.array([case.spacing for case in facts], float)
    target = np.median(spacings, axis=0)
    shapes = np.ceil(np.array([case.shape for case in facts], float) * spacings / target)
    free = free_memory()
    for case, shape in zip(facts, shapes, strict=True):
        needed = _BYTES_OF_A_VALUE * len(case.channels) * float(shape.prod())
        if needed > free:
            before, after, spacing = (
                " x ".join(f"{number:.4g}" for number in numbers) for numbers in (case.shape or (), shape, target)
            )
            message = (
                f"{case.case} has {before} voxels and would become about {after} at the data set's median spacing "
                f"{spacing} mm ({needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free). Correct the spacing in "
                "its header if it is wrong; else crop it, or work where there is more memory."
            )
            findings.append(Finding(case=case.case, kind="too large", severity="error", message=message))
    return findings


def outliers(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Cases whose spacing, size or intensities lie far from the median of all."""
    findings: list[Finding] = []
    if not facts:
        return findings

    def compare(kind: str, values: np.ndarray, factor: float, unit: str) -> None:
        """values: (cases, axes or channels), positive."""
        median = np.median(values, axis=0)
        far = np.abs(np.log(values / median)) > np.log(factor)
        for index in np.flatnonzero(far.any(axis=1)).tolist():
            found, usual = (" x ".join(f"{value:.4g}" for value in row) for row in (values[index], median))
            message = f"{kind} {found} {unit}, more than {factor:g} times off the median {usual}. Is that right?"
            findings.append(Finding(case=facts[index].case, kind=kind, severity="warning", message=message))

    compare("spacing outlier", np.array([case.spacing for case in facts], float), SPACING_FACTOR, "mm")
    compare("size outlier", np.array([case.shape for case in facts], float), SIZE_FACTOR, "voxels")
    if len({len(case.channels) for case in facts}) == 1:
        widths = np.array([[c["percentile_99"] - c["percentile_01"] for c in case.channels] for case in facts])
        compare("intensity outlier", np.maximum(widths, 1e-6), INTENSITY_FACTOR, "between percentiles 1 and 99")
    return findings
