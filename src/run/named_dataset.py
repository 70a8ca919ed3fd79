"""A raw data set by its number or name, as nnU-Net's users name it."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf


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
