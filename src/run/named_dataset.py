"""A raw data set by its number, as nnU-Net's users name it."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def name_dataset(cfg: DictConfig) -> DictConfig:
    """The configuration, with the folder DatasetNNN_* of ``paths.raw`` in place of a number given as data.dataset_dir.

    Raises:
        FileNotFoundError: there is none of this number; those that there are, are named.
        ValueError: there are several.
    """
    given = OmegaConf.select(cfg, "data.dataset_dir")
    if given is None or not re.fullmatch(r"\d{1,4}", str(given)) or Path(str(given)).is_dir():
        return cfg
    raw = Path(cfg.paths.raw)
    number = f"Dataset{int(given):03d}_"
    there = sorted(path.name for path in raw.glob("Dataset*_*") if path.is_dir())
    found = [name for name in there if name.startswith(number)]
    if not found:
        raise FileNotFoundError(
            f"data.dataset_dir={given}: {raw} has no {number}*; it has {', '.join(there) or 'no data set'}. Give "
            "another number, the folder itself, or where such folders lie (paths.raw, or the variable nnUNet_raw)."
        )
    if len(found) > 1:
        raise ValueError(f"data.dataset_dir={given} could be {' or '.join(found)} in {raw}. Give the folder itself.")
    cfg.data.dataset_dir = str(raw / found[0])
    return cfg
