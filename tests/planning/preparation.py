"""Preparing small data sets, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.prepare import prepare
from umamba.planning.store import Store

SMALL = PlannerOptions(base_features=8)


def run(raw: Path, out: Path, options: PlannerOptions = SMALL, configuration: str = "3d_fullres") -> tuple[Plan, Store]:
    """Prepare in this process, so that what a test puts in the place of functions is seen."""
    return prepare(raw, out, configuration, options, workers=1)
