"""The command that predicts with an ensemble."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from umamba.run.sweep import quoted

_PLAIN = re.compile(r"[\w./+-]+")  # what neither a shell nor Hydra reads as something else


def predict_command(ensemble: Path, *, mirror: bool) -> str:
    """As it is given to a shell; what is to be filled in is in capitals.

    Args:
        ensemble: ensemble.json, or its folder.
        mirror: Whether it was scored with mirroring.
    """
    path = str(ensemble.resolve())
    checkpoint = path if _PLAIN.fullmatch(path) else quoted(path)
    words = ["python", "predict.py", f"checkpoint={checkpoint}", "input=IMAGES", "output=PREDICTIONS"]
    return shlex.join([*words, *(["mirror=true"] if mirror else [])])
