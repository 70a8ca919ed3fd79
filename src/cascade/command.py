"""Both stages one after the other, each a cross-validation: what ``--config-name=cascade`` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from umamba.cascade.previous_folds import folds_holding_out, split_of
from umamba.cross_validation.cross_validate import KEY as FOLDS
from umamba.cross_validation.cross_validate import check_folds_go_on, check_settings, cross_validate, folds_of
from umamba.datamodules.augmentation.previous_stage import CASCADE_TRANSFORMS
from umamba.datamodules.base import SegmentationDataModule
from umamba.inference.previous_facts import KEY as PREVIOUS
from umamba.models.build_loss import check_loss
from umamba.planning.cascade import previous_stage
from umamba.run.asked import check_options
from umamba.run.lock import locked_run, refuse_links
from umamba.run.quiet import said_once
from umamba.run.sweep import follow_sweep, quoted
from umamba.run.unbegun import said_at_once
from umamba.targets import check_config

log = logging.getLogger(__name__)

KEY = "cascade"  # of the configuration; a single fold's has none


def run_cascade(cfg: DictConfig, script: str | Path) -> Path:
    """Train both stages of a cascade, or go on with them where they were interrupted.

    Args:
        cfg: A training's configuration with `KEY` and that of a cross-validation.
        script: train.py.

    Raises:
        ValueError: The plan has no such cascade, the folds asked for are none of one, or an option is the command's
            to choose; see `cross_validate`.
        ResumeError: A fold of either stage has other settings than are asked for; none was trained.
        RuntimeError, RunInUseError, Stopped: See `cross_validate`.
    """
    _refuse_chosen()
    check_options(cfg)
    folder = Path(os.path.abspath(cfg.run_dir))
    follow_sweep()
    refuse_links(folder)
    with locked_run(folder):
        with said_at_once(folder), said_once():  # planning may take an hour
            extra = _overrides_of_stages(cfg, folder)
        made = folder
        for number, stage in enumerate(extra, start=1):
            place = folder / stage
            log.info("Stage %d of the cascade, %s: %s", number, stage, place)
            stage_cfg = cfg.copy()
            stage_cfg.run_dir = str(place)
            made = cross_validate(stage_cfg, script, extra[stage])
    return made


def _overrides_of_stages(cfg: DictConfig, folder: Path) -> dict[str, list[str]]:
    """What the folds of each stage, the first one first, are given beside this call's options; all are checked."""
    second = cfg[KEY].configuration
    # Before planning, which may take an hour
    check_settings(folder / second, folds_of(cfg[FOLDS].folds), [f"~{KEY}", f"data.configuration={quoted(second)}"])
    first = _first_stage(cfg, second)
    places = {first: folder / first, second: folder / second}
    own = {
        first: [f"~augmentation.{name}" for name in _of_a_cascade(cfg)],
        second: [f"{PREVIOUS}={quoted(str(places[first]))}"],
    }
    extra = {stage: [f"~{KEY}", f"data.configuration={quoted(stage)}", *own[stage]] for stage in places}
    for stage, place in places.items():
        check_settings(place, folds_of(cfg[FOLDS].folds), extra[stage])
        check_folds_go_on(place, extra[stage])
    return extra


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
    folds = folds_of(cfg[FOLDS].folds)
    check_config(OmegaConf.to_container(cfg, resolve=True), cfg.trusted)
    datamodule = instantiate(cfg.data, configuration=second, augmentation=None)
    datamodule.open_raw()  # made here if it is not there yet: only now can the loss be held against it
    check_loss(instantiate(cfg.loss), datamodule.raw, spatial_dims=3)
    datamodule.make_plan()
    stage = previous_stage(datamodule.plan.configurations, second)
    if stage is None:
        raise ValueError(
            f"{KEY}.configuration={second} is no second stage: the plan gives it no previous_stage. Train it with "
            f"--config-name=cross_validation data.configuration={second}."
        )
    _check_folds(datamodule, folds, stage.name, second)
    return stage.name


def _check_folds(datamodule: SegmentationDataModule, folds: Sequence[int], first: str, second: str) -> None:
    """Refuse folds that leave cases of the second stage without a network of the first that did not see them."""
    splits = [split_of(datamodule, fold) for fold in folds]
    missing = {case for split in splits for case in split.train} - {case for split in splits for case in split.val}
    if not missing:
        return
    lacking = folds_holding_out(datamodule, missing, besides=folds)
    cause = "" if lacking else " (in splits_final.json no fold holds them out: correct that)"
    whole = f"{FOLDS}.folds=[{','.join(map(str, sorted({*folds, *lacking})))}]"
    raise ValueError(
        f"{FOLDS}.folds=[{','.join(map(str, folds))}] is given to a cascade, and {len(missing)} case(s) that its "
        f"second stage trains on are held out by none of these folds, such as {min(missing)}: no network of {first} "
        f"would segment them without having seen them. Give all folds, {whole}{cause}. For fewer folds of {second} "
        f"train all of {first} first, --config-name=cross_validation data.configuration={first} run_dir=<folder>, "
        f"then data.configuration={second} previous_stage=<folder> with the folds you want."
    )


def _of_a_cascade(cfg: DictConfig) -> list[str]:
    """Entries of the augmentation that change what the previous stage segmented: the first stage has none."""
    entries: dict[str, Any] = {str(name): entry for name, entry in (cfg.augmentation or {}).items() if entry}
    return [name for name, entry in entries.items() if issubclass(get_class(entry["_target_"]), CASCADE_TRANSFORMS)]
