"""Where a run comes from: code, versions, command."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from umamba.locations import ROOT

REVISION = "UMAMBA_REVISION"  # in the environment: the commit, where the code was copied from elsewhere
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
    """Commit of the code, with ``-dirty`` where tracked files were changed.

    What the environment says (`REVISION`) goes before: code may be copied over another checkout. None: nobody knows.
    """
    if os.environ.get(REVISION):
        return os.environ[REVISION]
    try:
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# Of src/: what neither trains, predicts nor scores. Of configs/: what every run is told of its own, or that only lists.
_ELSEWHERE = (
    "benchmark/",
    "evidence/",
    "sweep/",
    "evaluation/report/",
    "datamodules/doctor/",
    "datamodules/prepare/",
    "help.py",
    "__main__.py",
)
_CONFIG_GROUPS = ("augmentation", "callbacks", "data", "model", "trainer")


def code_hash() -> str:
    """First 16 digits of the SHA-256 of all code and settings that decide what a run's scores are.

    Other than the commit it is the same after a change of documentation or of the report.
    """
    package, configs = ROOT / "src", ROOT / "configs"
    files = [path for path in package.rglob("*.py") if not str(path.relative_to(package)).startswith(_ELSEWHERE)]
    files += [path for group in _CONFIG_GROUPS for path in (configs / group).glob("*.yaml")]
    files += [ROOT / "train.py", configs / "train.yaml"]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
