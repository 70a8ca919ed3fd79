"""Folders as their owners distribute them: packed."""

from __future__ import annotations

import shutil
from pathlib import Path


def zip_each(source: Path, target: Path) -> Path:
    """Pack each folder of `source` into a zip of its name; the folder with the zips."""
    for folder in source.iterdir():
        shutil.make_archive(str(target / folder.name), "zip", source, folder.name)
    return target
