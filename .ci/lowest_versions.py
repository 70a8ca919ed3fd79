"""Print the lowest versions that pyproject.toml allows as constraints of pip, one NAME==VERSION a line."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lowest(requirements: list[str]) -> list[str]:
    """Of `name>=bound[,...]` the line `name==bound`; what is pinned stays as it is.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    lines = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)(?:>=|==)([\w.]+)(?:,.*)?", requirement)
        if found is None:
            raise ValueError(f"{requirement} has no lower bound; expected name>=version.")
        lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.stdout.write("\n".join(lowest(project["dependencies"] + project["optional-dependencies"]["test"])) + "\n")
