"""Where a key is that was given at another place, or under the name that it has elsewhere."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import yaml

from umamba.help import KEYS_OF_GROUPS, SHOWN_FILES, choices_of, config_name
from umamba.locations import CONFIGS

_WRONG_KEY = re.compile(r"Could not override '([\w./]+)'")
_WRONG_CHOICE = re.compile(r"Could not find '([\w/]+)/([^'/]+)'")
_GRAMMAR = {
    "missing EQUAL": "Options are given as key=value, without blanks around the =.",
    "expecting ID": "Options are given as key=value, as in checkpoint=last.ckpt input=images; --help lists the keys.",
    **dict.fromkeys(
        ("LexerNoViableAlt", "no viable alternative"),
        "A value with other characters than letters, digits and /._-:@% is put into quotes, and these "
        "into others for the shell: 'input=\"my images\"'. For ~ write the whole path, or $HOME.",
    ),
}
_ELSEWHERE = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "There is trainer.max_epochs."),
    **dict.fromkeys(("gpus", "trainer.gpus", "gpu"), "There is trainer.devices, and trainer.accelerator=cpu or gpu."),
    "ckpt_path": "predict.py takes checkpoint=<file>, train.py and eval.py ckpt_path=<file>.",
    "checkpoint": "train.py and eval.py take ckpt_path=<file>, predict.py checkpoint=<file>.",
    "extras": "What is asked or printed beside a run has no options here.",
    "data.grow": "It grows predicted cells back over their boundary class, in data sets that are scored by instance "
    "(nuclei, cell, phantom_cells, custom). Of a run that run_dir=<folder> goes on with it is +data.grow=2.",
    "task": "data=custom has data.task: semantic or instances.",
}
_PLUGINS = {
    "Could not find 'hydra/sweeper/optuna'": 'It is another package: pip install hydra-optuna-sweeper "optuna<3"',
    "Could not find 'hydra/launcher/submitit_": "hydra/launcher=slurm gives jobs to SLURM, and needs no package.",
    "Could not find 'hydra/launcher/joblib'": "hydra/launcher=gpus runs jobs at the same time, and needs no package.",
    "hydra_plugins.umamba": "hydra/launcher=serial, gpus and slurm run sweeps of train.py. `python -m umamba.evidence` "
    "deals its runs to GPUs itself (gpus=, per_gpu=), and as a whole runs in one job of SLURM.",
}


def hint(message: str) -> str:
    """What to add to Hydra's message about a key or plugin that does not exist; empty where nothing is known."""
    for name, what in (*_PLUGINS.items(), *_GRAMMAR.items()):
        if name in message:
            return what
    if choice := _WRONG_CHOICE.search(message):
        for group in dict.fromkeys((choice[1], *SHOWN_FILES)):  # data=flare may be what experiment=flare means
            if alike := get_close_matches(choice[2], choices_of(group), n=2, cutoff=0.6):
                return f"There is {' and '.join(f'{group}={name}' for name in alike)}."
        return "Choose one of these; --help says what they are."
    found = _WRONG_KEY.search(message)
    if found is None:
        return ""
    given = found[1]
    if given in _ELSEWHERE:
        return _ELSEWHERE[given]
    if _is_of_the_trainer(given):
        return f"Lightning's Trainer has it, and the config does not list it: +{given}=... adds it."
    wanted, known = given.rpartition(".")[2], list(_all_keys(config_name() or "train"))
    if given in known:
        return f"It has values, into which these are merged; ++{given}=... adds what it lacks."
    keys = [key for key in known if key.rpartition(".")[2] == wanted] or _alike(given, known)
    return f"There is {' and '.join(keys)}." if keys else "--help lists the keys that there are."


def _is_of_the_trainer(key: str) -> bool:
    """Whether it is an argument of Lightning's Trainer; that is imported already where such a key can be given."""
    group, _, name = key.rpartition(".")
    trainer = getattr(sys.modules.get("lightning"), "Trainer", None)
    return group == "trainer" and trainer is not None and name in inspect.signature(trainer.__init__).parameters


def _alike(given: str, known: list[str]) -> list[str]:
    """Keys that are written nearly as the one that was given, at its place or at another."""
    alike = get_close_matches(given, known, n=2, cutoff=0.66)
    if alike:
        return alike
    ends = {key.rpartition(".")[2]: key for key in known}
    return [ends[end] for end in get_close_matches(given.rpartition(".")[2], ends, n=2, cutoff=0.8)]


def _all_keys(config: str) -> Iterator[str]:
    """Keys of a command, with a dot for each group."""
    own = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    yield from (key for name in own if name not in ("defaults", "hydra") for key in _leaves(own[name], name))
    chosen = {str(group).lstrip("/") for entry in own.get("defaults", ()) if isinstance(entry, dict) for group in entry}
    for group, files in SHOWN_FILES.items():
        for file in files if group in chosen or config in KEYS_OF_GROUPS else ():
            yield from _leaves(yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8")), group)


def _leaves(node: Any, key: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield key
        return
    for name, value in node.items():
        if name != "defaults" and not str(name).startswith("_"):
            yield from _leaves(value, f"{key}.{name}")
