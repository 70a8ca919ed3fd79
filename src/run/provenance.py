"""Where a run comes from: code, versions, command."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from umamba.locations import ROOT

RECORDED_PACKAGES = ("torch", "lightning", "monai", "torchio", "numpy", "SimpleITK", "blosc2")


def provenance(overrides: Sequence[str]) -> dict[str, Any]:
    """Commit, command-line overrides, time and versions of this call, as plain data."""
    return {
        "git_revision": git_revision(),
        "overrides": list(overrides),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in RECORDED_PACKAGES},
    }


def git_revision() -> str | None:
    """Commit of the code, with ``-dirty`` where tracked files were changed; None outside a git checkout."""
    try:
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
