"""Regions: what is segmented where dataset.json's labels are lists, such as the whole tumour = oedema, core, enhancing.

Label maps stay plain: a voxel has one value, which may lie in several regions. A network has one output a region, and
what it says of a voxel is written as one value again, that of the last region it lies in ("regions_class_order").
Source: nnU-Net's region-based training (Isensee et al., arXiv 2011.00848); the checks are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Region:
    """One output of a network.

    Attributes:
        name: What it is called.
        labels: The label values it is made of, ascending.
        written: The value a predicted voxel gets if this is the last region, in the order of the outputs, it lies in.
    """

    name: str
    labels: tuple[int, ...]
    written: int


def region_fault(regions: Sequence[Region]) -> str | None:
    """What is wrong with some regions, in the order of the outputs; None if nothing is.

    A perfect prediction must come back as label values that lie in the same regions as the reference's: scores are of
    regions, and would blame the network for what the order cannot say.
    """
    names = [region.name for region in regions]
    if len(set(names)) != len(names):
        return f"two regions have one name, of {', '.join(names)}"
    for region in regions:
        if not region.labels or 0 in region.labels or len(set(region.labels)) != len(region.labels):
            return (
                f"region {region.name} is made of {list(region.labels)}; expected label values above 0 (the background "
                "is in no region), each once"
            )
        if region.written not in region.labels:
            return (
                f"regions_class_order writes {region.written} for region {region.name}, which is made of "
                f"{list(region.labels)}. Give one value of each region, in the order in which the regions stand"
            )
    values = values_of(regions)
    for expected, value in enumerate(values, start=1):
        if value != expected:
            return f"label {expected} is in no region; they are made of {values}. Renumber the labels, without a gap"
    for value in values:
        inside = [region for region in regions if value in region.labels]
        written = inside[-1].written
        others = [region for region in regions if written in region.labels]
        if inside != others:
            return (
                f"regions_class_order {[region.written for region in regions]} cannot express label {value}: it lies "
                f"in {_names(inside)}, and would be written as {written}, which lies in {_names(others)}. Put larger "
                "regions before those inside them, and let the order name, for each, the label that it has and those "
                "after it have not; regions that overlap otherwise cannot be trained together"
            )
    return None


def values_of(regions: Iterable[Region]) -> list[int]:
    """All label values of some regions, ascending."""
    return sorted({value for region in regions for value in region.labels})


def _names(regions: Sequence[Region]) -> str:
    return ", ".join(region.name for region in regions) or "no region"
