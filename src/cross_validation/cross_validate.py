"""Train the folds of a cross-validation, then score and combine them: what ``--config-name=cross_validation`` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig

from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.cross_validation.folds import SCORING, PoolOptions
from umamba.cross_validation.pooled import pool
from umamba.datamodules.splits import check_folds, number_of_folds
from umamba.evaluation.held_out import cases_of_training
from umamba.inference.ensemble import FILE
from umamba.plain import check_option_types, plain
from umamba.planning.plan import Plan
from umamba.raw.dataset import RawDataset
from umamba.run.asked import check_options
from umamba.run.devices import Slot, find_devices, slots_of, workers_per_run
from umamba.run.folder import Run, check_goes_on, last_checkpoint
from umamba.run.habits import name_dataset, with_essentials
from umamba.run.jobs import Job, run_jobs
from umamba.run.lock import locked_run, refuse_links
from umamba.run.parts import build_parts
from umamba.run.quiet import said_once
from umamba.run.resume import check_data, read_checkpoint
from umamba.run.sweep import command_of, follow_sweep, quoted
from umamba.run.unbegun import say_held
from umamba.targets import check_config
from umamba.typed import is_whole

log = logging.getLogger(__name__)

KEY = "cross_validation"  # of the configuration; a single fold's has none


def cross_validate(cfg: DictConfig, script: str | Path, extra: Sequence[str] = ()) -> Path:
    """Train all folds, go on with those that were interrupted, and combine them.

    Args:
        cfg: A training's configuration with `KEY`.
        script: train.py.
        extra: Overrides of the folds beside those of this call.

    Raises:
        ValueError: The options are wrong, or the folds do not belong together, see `pool`.
        ResumeError: A fold that is there has other settings than are asked for; none was trained.
        RuntimeError: Folds failed; the others have been trained.
        RunInUseError: Another process is at work in the folder.
        Stopped: A signal ended it; the folds have ended too, with their checkpoints.
    """
    options, folder = cfg[KEY], Path(os.path.abspath(cfg.run_dir))
    folds = folds_of(options.folds)
    check_options(cfg)
    check_option_types(options, {"mirror": bool})
    places = [Path(cfg.data[key]) for key in ("prepared_dir", "dataset_dir")]
    count = number_of_folds(places)
    if max(folds) >= count:  # or the others would be trained before this one is refused
        raise ValueError(f"cross_validation.folds={options.folds}: the data set has {count} folds, 0 to {count - 1}.")
    raw = places[1]
    cases = RawDataset.open(raw).training_cases if (raw / "dataset.json").is_file() else ()
    check_folds(places, folds, [case.identifier for case in cases])
    if cfg.trainer.fast_dev_run or not cfg.train:
        raise ValueError(
            "A cross-validation trains: trainer.fast_dev_run and train=false are for single folds (train.py fold=0)."
        )
    slots = _slots(options, cfg.trainer.devices)
    follow_sweep()
    refuse_links(folder)
    with locked_run(folder):
        check_settings(folder, folds, extra)
        check_folds_go_on(folder, extra)
        say_held()
        runs = {fold: folder / f"fold_{fold}" for fold in folds}
        failed = run_jobs([_job(script, fold, run, len(slots), extra) for fold, run in runs.items()], slots)
        if failed:
            others = "none is trained" if len(failed) == len(folds) else "the others are trained"
            raise RuntimeError(
                f"Of {len(folds)} folds, {' and '.join(failed).lower()} failed, as is said above; {others}. "
                f"Mend what is said there and give the same command again: it goes on with what is left. Nothing was "
                f"combined in {folder}."
            )
        checkpoints = {fold: last_checkpoint(run) for fold, run in runs.items()}
        asked = {key: plain(cfg.data[key]) for key in SCORING if key in cfg.data}
        pool(checkpoints, folder, PoolOptions(mirror=options.mirror, trusted=plain(cfg.trusted), scoring=asked))
    return folder / FILE


def check_folds_go_on(folder: Path, extra: Sequence[str] = ()) -> None:
    """See that every fold in a folder, asked for or not, was trained with the settings of this call.

    A fold that is trained would otherwise lie, with other settings, beside those that are refused.

    Args:
        folder: Of the cross-validation, absolute; it need not be there.
        extra: Overrides of the folds beside those of this call.

    Raises:
        ResumeError: One was not, has other data or another plan, or cannot be gone on with; says what differs.
    """
    with said_once():
        for run in sorted(folder.glob("fold_*")):
            number = run.name.removeprefix("fold_")
            if run.is_dir() and number.isdecimal():
                check_data_goes_on(check_goes_on(_composed(int(number), run, extra)))


def check_data_goes_on(run: Run) -> None:
    """See that a fold that was trained has the data and the plan of this call.

    Raises:
        ResumeError: It has others, such as another data set; says what differs.
    """
    if run.resume_from is None:
        return
    stored = read_checkpoint(run.resume_from)
    check_config(plain(run.config), run.config.trusted)
    datamodule = instantiate(run.config.data)
    datamodule.open_raw()
    cases = cases_of_training(datamodule)
    check_data(run.resume_from, stored, Plan.from_dict(stored["plan"]), stored["configuration"], cases)
    datamodule.make_plan()  # only now: another data set would be planned first
    check_data(run.resume_from, stored, datamodule.plan, run.config.data.configuration, cases)


def check_settings(folder: Path, folds: Sequence[int], extra: Sequence[str] = ()) -> None:
    """Refuse what the process of each fold would refuse, but for what it says of the data, before one is started.

    Args:
        folder: Of the cross-validation, absolute; it need not be there.
        folds: To be trained, which have all the same settings.
        extra: Overrides of the folds beside those of this call.

    Raises:
        ValueError, OSError, ImportError, HydraException: See `build_parts`; or the folds would keep no checkpoint.
    """
    last = last_checkpoint(folder / f"fold_{folds[0]}")
    trainer = build_parts(_composed(folds[0], last.parent.parent, extra), last).trainer
    if not any(isinstance(one, LastCheckpoint) and one.path == last for one in trainer.checkpoint_callbacks):
        raise ValueError(
            "A cross-validation combines the last checkpoints of its folds, which callbacks.last writes and this call "
            "leaves out. Leave callbacks.last as it is."
        )


def _composed(fold: int, run: Path, extra: Sequence[str]) -> DictConfig:
    """The configuration of a fold, as its own process will compose it."""
    hydra = HydraConfig.get()
    own = [*_overrides(fold, extra), f"run_dir={quoted(str(run))}"]
    cfg = compose(hydra.job.config_name, [*hydra.overrides.hydra, *own])  # Hydra's: where configs are found
    return with_essentials(name_dataset(cfg))


def folds_of(wanted: Any) -> list[int]:
    """The numbers in ``cross_validation.folds``.

    Raises:
        ValueError: They are no two or more different folds, or a fold is given to the call as well.
    """
    folds = plain(wanted)
    folds = folds if isinstance(folds, list) else [folds]
    if not folds or not all(map(is_whole, folds)):
        raise ValueError(
            f"cross_validation.folds={wanted}: expected numbers of folds such as [0,1,2,3,4]. Fold all holds no case "
            "out and has no place in a cross-validation: train it with `python train.py fold=all`."
        )
    if len(folds) < 2 or len(set(folds)) < len(folds):
        raise ValueError(f"cross_validation.folds={wanted}: expected two or more different folds.")
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        if override.key_or_group in ("fold", "data.fold"):
            raise ValueError(
                f"{override.input_line} is given to a cross-validation, which trains the folds of "
                "cross_validation.folds, each without the cases that it holds out. Leave it out."
            )
    return folds


def _slots(options: DictConfig, devices: Any) -> list[Slot]:
    """Where folds train at the same time; one for all where a fold takes several GPUs itself."""
    if not is_whole(options.per_gpu, 1):
        raise ValueError(f"cross_validation.per_gpu is {options.per_gpu}; expected a whole number, 1 or more.")
    if devices not in (1, "1"):
        if options.gpus != "auto" or options.per_gpu != 1:
            raise ValueError(
                f"trainer.devices={devices} gives each fold several GPUs, one after another; cross_validation.gpus and "
                "per_gpu share the GPUs among folds. Leave one of the two out."
            )
        return [Slot(name="all GPUs")]
    return slots_of(find_devices(plain(options.gpus)), options.per_gpu)


def _job(script: str | Path, fold: int, run: Path, at_a_time: int, extra: Sequence[str]) -> Job:
    """train.py with the overrides of this call, for one fold; where several run, each says what it says in a file."""
    hydra = HydraConfig.get()
    workers: Sequence[str] = ()
    if at_a_time > 1 and not any(override.startswith("data.num_workers=") for override in hydra.overrides.task):
        workers = [f"data.num_workers={workers_per_run(at_a_time)}"]
    command = command_of(script, hydra, [*_overrides(fold, extra), *workers], run)
    return Job(name=f"Fold {fold}", command=command, log=run.parent / f"fold_{fold}.log" if at_a_time > 1 else None)


def _overrides(fold: int, extra: Sequence[str]) -> list[str]:
    return [*HydraConfig.get().overrides.task, f"~{KEY}", f"fold={fold}", *extra]
