"""Where the project's own files lie, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parent  # of a checkout: the folder of train.py
CONFIGS = next(folder for folder in (_PACKAGE / "configs", ROOT / "configs") if folder.is_dir())
