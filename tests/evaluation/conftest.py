"""What the tests of tables and reports put in the place of the real thing."""

from __future__ import annotations

import pytest

from umamba.evaluation.report import sections


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a report are made and not drawn, which takes ten times as long as all its tables."""
    monkeypatch.setattr(sections, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(sections, "page_svg", lambda make: "<svg></svg>")
