"""Configurations of the project as Hydra composes them, without a command."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, read_write

from umamba.locations import CONFIGS
from umamba.run.sweep import quoted


def composed(
    config: str | None = None, overrides: Sequence[str] = (), *, hydra: bool = False, run_dir: str | None = None
) -> DictConfig:
    """A file of configs/ with overrides; with Hydra's own part if asked for.

    The same is composed once. `run_dir`, which each test has another of, is put in as if it stood before the overrides.
    """
    cfg: DictConfig = pickle.loads(_composed(config, tuple(overrides), hydra))
    if run_dir is None:
        return cfg
    if not any(override.startswith("run_dir=") for override in overrides):
        cfg.run_dir = run_dir.replace("${", r"\${")
    if hydra:
        with read_write(cfg.hydra):
            cfg.hydra.overrides.task.insert(0, f"run_dir={quoted(run_dir)}")
    return cfg


@cache
def _composed(config: str | None, overrides: tuple[str, ...], hydra: bool) -> bytes:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return pickle.dumps(compose(config, list(overrides), return_hydra_config=hydra))
