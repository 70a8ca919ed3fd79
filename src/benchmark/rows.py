"""The rows of a benchmark as files: added one by one, so that one that is cut short keeps what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from umamba.benchmark.measure import identity
from umamba.benchmark.verdict import markdown
from umamba.files import load_json, write_json, write_text


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder; none where there is no file (else ValueError)."""
    path = folder / "epochs.json"
    if not path.is_file():
        return []
    try:
        rows = load_json(path)
        _ = [identity(row) for row in rows], markdown(rows)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} holds no rows of this benchmark. Move it away, or set another output.") from error
    return rows


def add_row(folder: Path, row: dict[str, Any]) -> None:
    """Write epochs.json and epochs.md with one row more, in place of one that measured the same."""
    kept = [other for other in read_rows(folder) if identity(other) != identity(row)]
    write_json([*kept, row], folder / "epochs.json")
    write_text(markdown([*kept, row]), folder / "epochs.md")
