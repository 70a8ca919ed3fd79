"""The configuration with which a run goes on: its own, and what this call changes where that may change."""

from __future__ import annotations

import inspect
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from umamba.models.checkpoint import check_archive
from umamba.plain import mapped, to_plain
from umamba.planning.plan import Plan
from umamba.raw.image_marks import are_alike, of_files, samples_of
from umamba.run.compare import ABSENT, Differences, ResumeError, differences, in_lines, may_differ
from umamba.targets import present_names
from umamba.usual_loss import with_loss

DEFAULT_CONFIG = "train"
# Settings that the configurations of earlier runs lack, and their default: such a run goes on without, as it began
_OF_THE_BEGINNING = ("init_from", "freeze", "warmup_epochs")
NEWER = {
    "data.augment_on": "auto",
    "data.grow": 0,
    "ckpt_path": None,
    "previous_stage": None,
    **dict.fromkeys(_OF_THE_BEGINNING),
}
OF_THE_CALL = ("train", "test", "resume", "trusted")  # what to do now and whom to trust; no later call takes them over
PLACE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")  # where to train
_WAY_OUT = "`run_dir=<folder>` alone goes on with the run's own configuration; another run_dir starts a new run."
_MARKS = ("cases.files.", "cases.trained_on.")
_OF_FILES = (
    " (The voxels of these files, or their spacing, are others. Checkpoints of earlier versions know files by their "
    "bytes alone: there it may be headers or compression too. What has been trained can be scored all the same, with "
    "eval.py.)"
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a run's checkpoint holds, its tensors mapped from the disk (ResumeError: none of train.py, or broken)."""
    try:
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ResumeError(f"{path} cannot be read ({error}). Put another checkpoint there, or remove it.") from error
    missing = [key for key in ("config", "plan", "configuration") if key not in checkpoint]
    if missing:
        raise ResumeError(f"{path} is no checkpoint of train.py: it lacks {', '.join(missing)}.")
    checkpoint["config"] = with_loss(present_names(checkpoint["config"]))
    return checkpoint


def check_last(last: Path) -> None:
    """Refuse to begin anew where a run's last checkpoint is gone and others would be overwritten.

    Of a run that was killed in its first epoch, between its two checkpoints, no more than that is lost.

    Raises:
        ResumeError: Something else is there, or nothing beside a checkpoint of more than an epoch.
    """
    if last.is_file():
        return
    if os.path.lexists(last):
        raise ResumeError(f"{last} is no file. Put the run's last checkpoint there, or give another run_dir.")
    for other in sorted(last.parent.glob("*.ckpt")):
        progress = read_checkpoint(other).get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
        if progress.get("current", {}).get("processed", 0) > 1:
            raise ResumeError(
                f"{last} is not there, from which the run would go on, but {other} is, which a new training would "
                f"overwrite. Copy it to {last.name} to go on from its epoch, or give a new training another run_dir."
            )


def resumed_config(cfg: DictConfig, stored: Mapping[str, Any], *, trained: bool) -> tuple[DictConfig, Differences]:
    """A run's own configuration with what this call asks for on top.

    A call that names an experiment, or another config than train, describes the whole run and is compared as a whole;
    any other asks for the values and groups that it names.

    Args:
        cfg: as composed from this call.
        stored: the run's configuration, resolved.
        trained: whether there is a checkpoint; without one everything may change.

    Returns:
        The configuration, interpolations resolved, and what was changed in it.

    Raises:
        ResumeError: the call asks for what may not change; each difference is named.
    """
    asked = to_plain(cfg)
    scope = _asked_keys(cfg)
    new = {k: v for k, v in asked.items() if (k not in stored and k not in NEWER) or k in OF_THE_CALL}
    own = _with_trainer_of(asked, _moved({**stored, **new}, asked["run_dir"]))
    found = differences(own, asked, scope)
    found = {key: values for key, values in found.items() if key not in NEWER or values != (ABSENT, NEWER[key])}
    whole = scope == [""]
    refused = {key: values for key, values in found.items() if not may_differ(key)}
    if whole:
        refused = {key: values for key, values in refused.items() if not key.startswith("paths.")}
    if refused and trained:
        hint = ""
        if any(key.startswith("paths.") for key in refused):
            hint = " Where the data lie now is said with data.dataset_dir and data.prepared_dir."
        raise ResumeError(
            f"{asked['run_dir']} was trained with other settings than this call asks for (stored -> asked):"
            f"{in_lines(refused)}\n{_WAY_OUT}{hint}"
        )
    return _changed(cfg, own, found), found


def check_checkpoint(path: Path, checkpoint: Mapping[str, Any], cfg: DictConfig) -> None:
    """Raises ResumeError if a checkpoint was trained with settings that the run's configuration does not have."""
    sections = ("seed", "fold", "model", "augmentation", "optimizer", "loss", "data", "trainer", *_OF_THE_BEGINNING)
    now = mapped(to_plain(cfg))
    found = differences(_with_trainer_of(now, mapped(checkpoint["config"])), now, sections)
    found = {key: values for key, values in found.items() if not may_differ(key)}
    if found:
        raise ResumeError(
            f"{path} was trained with other settings than the run's config.yaml says (checkpoint -> config.yaml):"
            f"{in_lines(found)}\nPut the run's own files back, or start a new run with another run_dir."
        )


def check_data(
    path: Path, checkpoint: Mapping[str, Any], plan: Plan, configuration: str, cases: Mapping[str, Any]
) -> None:
    """See that the data are planned and split as they were when a checkpoint was trained (else ResumeError).

    A file that was compressed anew or given another header is the same data if a preparation makes the same of it.
    """
    trained, before = checkpoint["configuration"], Plan.from_dict(checkpoint["plan"])
    then = {"configuration": trained, "plan": before.trained_part(trained)}
    now = {"configuration": configuration, "plan": plan.trained_part(trained)}
    if checkpoint.get("cases"):  # older ones did not keep all of them
        then["cases"] = of_files(checkpoint["cases"])
        newer = {"files", "orientations"} - checkpoint["cases"].keys()
        known = {key: known for key, known in cases.items() if key not in newer}
        now["cases"] = of_files(as_then(known, checkpoint["cases"]))
    found = differences(mapped(then), mapped(now))
    if found:
        raise ResumeError(
            f"{path} was trained on other data, or with another plan, than there are now (then -> now):"
            f"{in_lines(found)}\nPut plan and data back as they were, or start a new run with another run_dir."
            f"{_OF_FILES if all(key.startswith(_MARKS) for key in found) else ''}"
        )


def as_then(now: Any, then: Any) -> Any:
    """What a call keeps of the cases: the marks of files as a checkpoint has them where they are of the same voxels."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return {key: as_then(value, then.get(key)) for key, value in now.items()}
    if isinstance(now, str) and isinstance(then, str) and samples_of(now) != samples_of(then) and are_alike(then, now):
        return then
    return now


def _asked_keys(cfg: DictConfig) -> list[str]:
    """Keys that this call names, groups by the key they fill; [""] if it describes the whole run."""
    if not HydraConfig.initialized():
        return [""]
    hydra = HydraConfig.get()
    if hydra.job.config_name not in (None, DEFAULT_CONFIG):
        return [""]
    keys: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        name = override.key_or_group
        if name not in hydra.runtime.choices:
            keys.append(name)
        elif name not in cfg:  # experiment, debug: they set values anywhere
            return [""]
        elif name == "trainer":  # its choices say where to train, and differ from the default in a few keys beside
            default = GlobalHydra.instance().config_loader().load_configuration(DEFAULT_CONFIG, [], RunMode.RUN)
            usual, asked = (to_plain(each.trainer, resolve=False) for each in (default, cfg))
            keys += [*PLACE, *(f"trainer.{key}" for key in differences(usual, asked))]
        else:
            keys += [name, *({"data": ["data_name"], "model": ["model_name"]}.get(name, []))]
    return keys


def _moved(stored: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """The stored configuration with the run's folder where it is now."""
    old = str(stored["run_dir"])

    def moved(leaf: Any) -> Any:
        inside = isinstance(leaf, str) and (leaf == old or leaf.startswith(f"{old}/"))
        return run_dir + leaf[len(old) :] if inside else leaf

    begun_from = {key: stored[key] for key in ("ckpt_path",) if key in stored}  # in another run's folder, if any
    return {**mapped(stored, moved), **begun_from}


def _with_trainer_of(other: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """`config` with Lightning's default for each of the trainer's arguments that only `other` names."""
    arguments = inspect.signature(Trainer).parameters
    defaults = {key: arguments[key].default for key in other.get("trainer", {}) if key in arguments}
    return {**config, "trainer": {**defaults, **config.get("trainer", {})}}


def _changed(cfg: DictConfig, stored: dict[str, Any], found: Differences) -> DictConfig:
    """`stored` with the differing values of `cfg`, their interpolations resolved among the run's own values."""
    config = OmegaConf.create(stored)
    raw = to_plain(cfg, resolve=False)
    for key, (_, new) in found.items():
        *parents, name = key.split(".")
        if new == ABSENT:
            _remove(config, parents, name)
        else:
            value: Any = raw
            for part in (*parents, name):
                value = value[part]
            OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.resolve(config)
    return config


def _remove(config: DictConfig, parents: list[str], name: str) -> None:
    """Take a key out, and the parents that are left empty."""
    node = OmegaConf.select(config, ".".join(parents)) if parents else config
    if node is None:
        return
    node.pop(name, None)
    if parents and not node:
        _remove(config, parents[:-1], parents[-1])
