"""What the tests of preparation put in the place of the real thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from umamba.planning import stores


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that preparation writes."""
    names: list[str] = []
    original = stores.write_case

    def recording(folder: Path, identifier: str, *args: Any) -> Any:
        names.append(identifier)
        return original(folder, identifier, *args)

    monkeypatch.setattr(stores, "write_case", recording)
    return names
