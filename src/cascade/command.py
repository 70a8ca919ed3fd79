"""Both stages one after the other, each a cross-validation: what ``--config-name=cascade`` does."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from umamba.cross_validation.cross_validate import cross_validate
from umamba.datamodules.augmentation.previous_stage import CASCADE_TRANSFORMS
from umamba.inference.previous_facts import KEY as PREVIOUS
from umamba.planning.cascade import previous_stage
from umamba.run.sweep import quoted
from umamba.targets import check_config

log = logging.getLogger(__name__)

KEY = "cascade"  # of the configuration; a single fold's has none


def run_cascade(cfg: DictConfig, script: str | Path) -> Path:
    """Train both stages of a cascade, or go on with them where they were interrupted.

    Args:
        cfg: A training's configuration with `KEY` and that of a cross-validation.
        script: train.py.

    Returns:
        The ensemble.json of the second stage.

    Raises:
        ValueError: The plan has no such cascade, or an option is the command's to choose; see `cross_validate`.
        RuntimeError, RunInUseError, Stopped: See `cross_validate`.
    """
    _refuse_chosen()
    second = cfg[KEY].configuration
    first = _first_stage(cfg, second)
    folder = Path(os.path.abspath(cfg.run_dir))
    places = {first: folder / first, second: folder / second}
    extra = {
        first: [f"~augmentation.{name}" for name in _of_a_cascade(cfg)],
        second: [f"{PREVIOUS}={quoted(str(places[first]))}"],
    }
    made = folder
    for number, (stage, place) in enumerate(places.items(), start=1):
        log.info("Stage %d of the cascade, %s: %s", number, stage, place)
        stage_cfg = cfg.copy()
        stage_cfg.run_dir = str(place)
        made = cross_validate(stage_cfg, script, [f"~{KEY}", f"data.configuration={quoted(stage)}", *extra[stage]])
    return made


def _refuse_chosen() -> None:
    chosen = {
        "data.configuration": f"{KEY}.configuration=... names the second stage",
        PREVIOUS: "it is the first stage",
    }
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        if (reason := chosen.get(override.key_or_group)) is not None:
            raise ValueError(f"{override.input_line} is given to a cascade, which trains both stages: {reason}.")


def _first_stage(cfg: DictConfig, second: str) -> str:
    """What the plan calls the first stage; the plan is made if there is none."""
    check_config(OmegaConf.to_container(cfg, resolve=True), cfg.trusted)
    datamodule = instantiate(cfg.data, configuration=second, augmentation=None)
    datamodule.make_plan()
    stage = previous_stage(datamodule.plan.configurations, second)
    if stage is None:
        raise ValueError(
            f"{KEY}.configuration={second} is no second stage: the plan gives it no previous_stage. Train it with "
            f"--config-name=cross_validation data.configuration={second}."
        )
    return stage.name


def _of_a_cascade(cfg: DictConfig) -> list[str]:
    """Entries of the augmentation that change what the previous stage segmented: the first stage has none."""
    entries: dict[str, Any] = {str(name): entry for name, entry in (cfg.augmentation or {}).items() if entry}
    return [name for name, entry in entries.items() if issubclass(get_class(entry["_target_"]), CASCADE_TRANSFORMS)]
