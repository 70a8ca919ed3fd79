"""Configurations of the project as Hydra composes them, without a command."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from umamba.locations import CONFIGS


def composed(config: str | None = None, overrides: Sequence[str] = (), *, hydra: bool = False) -> DictConfig:
    """A file of configs/ with overrides; with Hydra's own part if asked for."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, list(overrides), return_hydra_config=hydra)
