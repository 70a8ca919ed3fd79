"""Names and values of the classes that pictures of a training show."""

from __future__ import annotations

from typing import Any


def shown_classes(module: Any) -> dict[int, str]:
    """Label value, which gives the colour, -> name of a class; of a region the value that is written for it."""
    regions = {region.written: region.name for region in module.plan.regions}
    return regions or dict(enumerate(module.class_names, start=1))
