"""Where a key is that was given at another place, or under the name that it has elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from umamba.help import SHOWN_FILES
from umamba.locations import CONFIGS

_WRONG_KEY = re.compile(r"Could not override '([\w./]+)'")
_ELSEWHERE = {
    "ckpt_path": "predict.py takes checkpoint=<file>, train.py and eval.py ckpt_path=<file>.",
    "checkpoint": "train.py and eval.py take ckpt_path=<file>, predict.py checkpoint=<file>.",
    "extras": "What is asked or printed beside a run has no options here.",
    "task": "data=custom has data.task: semantic or instances.",
}
_PLUGINS = {
    "Could not find 'hydra/sweeper/optuna'": 'pip install hydra-optuna-sweeper "optuna<3"',
    "Could not find 'hydra/launcher/submitit_": "hydra/launcher=slurm gives jobs to SLURM, and needs no package.",
    "Could not find 'hydra/launcher/joblib'": "hydra/launcher=gpus runs jobs at the same time, and needs no package.",
    "hydra_plugins.umamba": "hydra/launcher=serial, gpus and slurm run sweeps of train.py. `python -m umamba.evidence` "
    "deals its runs to GPUs itself (gpus=, per_gpu=), and as a whole runs in one job of SLURM.",
}


def hint(message: str) -> str:
    """What to add to Hydra's message about a key or plugin that does not exist; empty where nothing is known."""
    for name, what in _PLUGINS.items():
        if name in message:
            return what
    found = _WRONG_KEY.search(message)
    if found is None:
        return ""
    given = found[1]
    if given in _ELSEWHERE:
        return _ELSEWHERE[given]
    wanted = given.rpartition(".")[2]
    keys = [key for key in _all_keys() if key.rpartition(".")[2] == wanted and key != given]
    return f"There is {' and '.join(keys)}." if keys else ""


def _all_keys() -> Iterator[str]:
    for group, files in SHOWN_FILES.items():
        for file in files:
            yield from _leaves(yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8")), group)


def _leaves(node: Any, key: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield key
        return
    for name, value in node.items():
        if name != "defaults" and not str(name).startswith("_"):
            yield from _leaves(value, f"{key}.{name}")
