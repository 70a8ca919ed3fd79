"""A command line in the words of Lightning's Hydra template, and nnU-Net's numbers of data sets, as this project's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from umamba.locations import CONFIGS
from umamba.run.sweep import quoted

_UNCHOSEN = ("experiment", "debug", "hparams_search")  # groups of which no file is taken unless one is asked for
_NEEDED = ("data", "model", "loss", "trainer")  # groups of which a run has one file
_SWITCH = (True, False, None, 0, 1)


def in_own_words(arguments: Sequence[str]) -> list[str]:
    """What train.py is given, with these words replaced; all others stay as they are.

    - ``callbacks=null``, ``logger=null``, ``augmentation=null``, or with ``~``: the group's file ``none``;
      ``experiment=null``, ``debug=null``: nothing.
    - ``max_epochs=3``: ``trainer.max_epochs=3``, and so for all keys of the trainer.
    - ``resume=FOLDER``, and ``ckpt_path=FOLDER/checkpoints/last.ckpt`` without a ``run_dir``: ``run_dir=FOLDER``.

    Raises:
        FileNotFoundError: what is to be resumed is not there.
        ValueError: the call does not say in which folder a checkpoint is resumed, or takes away what a run needs.
    """
    trainer = set(_keys("trainer/default")) - set(_keys("train"))
    has_folder = any(argument.startswith("run_dir=") for argument in arguments)
    words = []
    for argument in arguments:
        override = _parsed(argument)
        if override is None or override.type not in (OverrideType.CHANGE, OverrideType.DEL):
            words.append(argument)
            continue
        key, value = override.key_or_group, override._value
        value = value.text if isinstance(value, QuotedString) else value
        if value is None and (CONFIGS / key / "none.yaml").is_file():
            words.append(f"{key}=none")
        elif override.is_delete() and key in _NEEDED:
            there = ", ".join(sorted(path.stem for path in (CONFIGS / key).glob("[!_]*.yaml")))
            raise ValueError(f"{argument} leaves out what a run needs: {key}=... takes another one, of {there}.")
        elif override.is_delete() and (key in _keys("train") or key == "trainer.max_epochs"):
            raise ValueError(f"{argument} leaves out what a run needs. Give it a value, {key}=..., or leave this out.")
        elif override.is_delete():
            words.append(argument)
        elif value is None and key in _UNCHOSEN:
            continue
        elif key in trainer:
            words.append(f"trainer.{argument}")
        elif key == "resume" and value not in _SWITCH and not has_folder:
            words.append(_folder_of_run(Path(str(value)), argument))
        elif key == "ckpt_path" and value is not None and not has_folder:
            words.append(_folder_of_checkpoint(Path(str(value)), argument))
        else:
            words.append(argument)
    return words


def with_essentials(cfg: DictConfig) -> DictConfig:
    """The configuration, with what no run goes without where an experiment or the like has ``callbacks: null``."""
    if cfg.get("callbacks") is None:
        with open_dict(cfg):
            cfg.callbacks = OmegaConf.load(CONFIGS / "callbacks" / "none.yaml")
    return cfg


def _folder_of_run(folder: Path, argument: str) -> str:
    if not any((folder / name).is_file() for name in ("config.yaml", "checkpoints/last.ckpt")):
        raise FileNotFoundError(
            f"{argument}: there is no run in {folder}, which would have config.yaml and checkpoints/last.ckpt. "
            "resume=true, the default, goes on with what run_dir has."
        )
    return f"run_dir={quoted(str(folder))}"


def _folder_of_checkpoint(path: Path, argument: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no such file.")
    folder = path.parent.parent
    if (path.parent.name, path.name) == ("checkpoints", "last.ckpt") and (folder / "config.yaml").is_file():
        return f"run_dir={quoted(str(folder))}"
    raise ValueError(
        f"{argument} is not the last checkpoint of a run's folder, with which alone a run is resumed there. Give "
        "run_dir=<a new folder> to go on from it there, with its epoch, optimiser and configuration; or init_from=... "
        "instead of ckpt_path=... to begin anew with its weights."
    )


def _keys(config: str) -> list[str]:
    return list(yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8")))


def _parsed(argument: str) -> Override | None:
    """An override; None for what is none, or is none of Hydra's that it could read, which Hydra says."""
    if argument.startswith("-"):
        return None
    try:
        parsed = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return None
    return parsed[0]


def name_dataset(cfg: DictConfig) -> DictConfig:
    """The configuration, with a folder of ``paths.raw`` in place of its number or name given as data.dataset_dir.

    The same for each of data.sources. What is a folder as it stands is that one.

    Raises:
        FileNotFoundError: there is none of this number; those that there are, are named.
        ValueError: there are several.
    """
    sources = OmegaConf.select(cfg, "data.sources")
    places = range(len(sources)) if isinstance(sources, ListConfig) else [*(sources or ())]
    for node, place, key in [
        (cfg.get("data"), "dataset_dir", None),
        *((sources, place, "sources") for place in places),
    ]:
        given = None if node is None or OmegaConf.is_missing(node, place) else node.get(place)
        if given is None or Path(str(given)).is_dir():
            continue
        raw = Path(cfg.paths.raw)
        if re.fullmatch(r"\d+", str(given)):
            node[place] = _folder(given, raw, f"data.{key or place}")
        elif re.fullmatch(r"Dataset\d+_[^/]+", str(given)) and (raw / str(given)).is_dir():
            node[place] = str(raw / str(given))
    return cfg


def _folder(given: object, raw: Path, key: str) -> str:
    number = f"Dataset{int(str(given)):03d}_"
    there = sorted(path.name for path in raw.glob("Dataset*_*") if path.is_dir())
    found = [name for name in there if name.startswith(number)]
    if not found:
        raise FileNotFoundError(
            f"{key}={given}: {raw} has no {number}*; it has {', '.join(there) or 'no data set'}. Give "
            "another number, the folder itself, or where such folders lie (paths.raw, or the variable nnUNet_raw)."
        )
    if len(found) > 1:
        raise ValueError(f"{key}={given} could be {' or '.join(found)} in {raw}. Give the folder itself.")
    return str(raw / found[0])
