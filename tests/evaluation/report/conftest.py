"""These tests read what a report says; what it shows, tests/evaluation/test_report.py looks at."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """For all of them."""
