"""What a call of train.py asks for, looked at before anything is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from umamba.files import check_takes_files
from umamba.plain import check_option_types, to_plain
from umamba.planning.options import PlannerOptions
from umamba.run.compare import ResumeError
from umamba.run.idle import check_trainer

TYPES = {  # of train.yaml; what is not here is looked at where it is used
    "run_dir": Path, "ckpt_path": Path | None, "init_from": Path | None,
    "previous_stage": Path | list[Path] | None, "freeze": str | list[str] | None, "tags": str | list[str | int] | None,
    "compile": bool, "optimizer": dict | None, "loss": dict, "trusted": str | list[str] | None,
    "trainer.max_time": str | dict | None, "trainer.gradient_clip_val": float | None,
}  # fmt: skip


GROUPS = ("trainer", "model", "data", "loss", "paths")
OPTIONAL = ("augmentation", "callbacks", "logger")  # may be null, as may what stands in them
_HYDRA: dict[str, tuple[type, str]] = {
    "_partial_": (bool, "true or false"), "_recursive_": (bool, "true or false"), "_args_": (list, "a list"),
}  # fmt: skip
_CONVERT = ("none", "partial", "object", "all")


def check_groups(cfg: DictConfig) -> None:
    """See that all that is built has named values: an experiment may say `model: nnunet`, or _partial_ with a text.

    Raises:
        ValueError: something has not; names it.
    """
    content = to_plain(cfg, resolve=False)
    for group in (*GROUPS, *OPTIONAL):
        value = content.get(group)
        if not _is_named(value, optional=group in OPTIONAL):
            raise ValueError(
                f"{group} is {value!r}; expected named values, as the files of configs/{group} have them. One of these "
                f"files is chosen by {group}=<name> on the command line, and in an experiment among its defaults, by "
                f"`- override /{group}: <name>`."
            )
    held = [group for group in OPTIONAL if isinstance(content.get(group), dict)]
    entries = {f"{group}.{name}": entry for group in held for name, entry in content[group].items()}
    if isinstance(content["data"], dict):
        entries["data.planning"] = content["data"].get("planning")
    for name, entry in entries.items():
        if not _is_named(entry, optional=True):
            raise ValueError(f"{name} is {entry!r}; expected named values, or null.")
    _check_building(content, "")
    _check_when(content, entries)


def _is_named(value: object, *, optional: bool) -> bool:
    return isinstance(value, dict) or (optional and value is None) or str(value).startswith("${")


def _check_building(node: Any, where: str) -> None:
    """See that Hydra's own keys, by which something is built, have values that Hydra knows."""
    for name, (kind, expected) in _HYDRA.items() if isinstance(node, dict) else ():
        if not isinstance(node.get(name, kind()), kind):
            raise ValueError(f"{where}.{name} is {node[name]!r}; expected {expected}.")
    if isinstance(node, dict) and node.get("_convert_", "none") not in _CONVERT:
        raise ValueError(f"{where}._convert_ is {node['_convert_']!r}; expected one of {', '.join(_CONVERT)}.")
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        _check_building(value, f"{where}.{key}".lstrip("."))


def _check_when(content: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """See what is built at once, and what only when the network is there."""
    model, own = content["model"], content.get("optimizer")
    later = {f"model.{name}": model.get(name) for name in ("optimizer", "scheduler") if isinstance(model, dict)}
    if own is not None:
        later = {**later, "model.optimizer": own}
    for name, entry in later.items():
        if isinstance(entry, str):  # refused by its type, or the value of another key
            continue
        if not (isinstance(entry, dict) and isinstance(entry.get("_target_"), str) and entry.get("_partial_") is True):
            name = "optimizer" if entry is own and own is not None else name
            told = "null" if entry is None else entry
            raise ValueError(
                f"{name} is {told}; expected named values, among them a _target_ and _partial_: true, for it is called "
                "when the network is there."
            )
    now = {name: entry for name, entry in entries.items() if name.startswith(("callbacks.", "logger."))}
    for name, entry in {**now, "trainer": content["trainer"], "data": content["data"]}.items():
        if isinstance(entry, dict) and entry.get("_partial_"):
            raise ValueError(f"{name}._partial_ is true, with which it would never be built. Leave it out.")


def check_options(cfg: DictConfig) -> None:
    """See that what a training is given is of the right type, and that its folder can be one; nothing is written.

    Raises:
        ResumeError, ValueError, OSError: something is not.
    """
    for key in ("train", "test", "resume"):
        if not isinstance(cfg[key], bool):
            advice = " run_dir=<folder> goes on with the run in that folder." if key == "resume" else ""
            raise ResumeError(f"{key}={cfg[key]!r}: expected true or false.{advice}")
    if type(cfg.seed) is not int or not 0 <= cfg.seed < 2**32:
        raise ResumeError(f"seed={cfg.seed!r}: expected a whole number, 0 or more and below 2 to the 32nd.")
    if cfg.fold != "all" and (type(cfg.fold) is not int or cfg.fold < 0):
        raise ResumeError(f'fold={cfg.fold!r}: expected the number of a fold, 0 to 4 of the usual five, or "all".')
    for key in ("fold", "seed"):
        if cfg.data.get(key, cfg[key]) != cfg[key]:
            raise ResumeError(
                f"data.{key}={cfg.data[key]} and {key}={cfg[key]}: say {key}={cfg.data[key]}, which data.{key} "
                f"follows. Folder, records and tables of the run are named by {key}."
            )
    check_option_types(cfg, TYPES)
    check_trainer(cfg)
    _check_optimizer(cfg)
    _check_preset()
    if isinstance(planning := cfg.data.get("planning"), DictConfig):  # or each fold of many would say it by itself
        PlannerOptions.of(to_plain(planning))
    check_takes_files(cfg.run_dir, "run_dir")


def _check_preset() -> None:
    """Refuse two budgets of planning in one call, of which Hydra takes the last."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    presets = [one for one in given if one.partition("=")[0].lstrip("+") == "data.planning.preset"]
    if len({*presets}) > 1:
        raise ResumeError(f"{' and '.join(presets)} are given at once. Say one; a plan has one budget.")


def _check_optimizer(cfg: DictConfig) -> None:
    """Refuse values for the model's optimiser where another one takes its place, as in experiment=demo."""
    if cfg.get("optimizer") is None or not HydraConfig.initialized():
        return
    for override in HydraConfig.get().overrides.task:
        if override.lstrip("+~").startswith("model.optimizer"):
            raise ResumeError(
                f"{override} would do nothing: {cfg.optimizer.get('_target_')}, which optimizer says, takes the place "
                f"of model.optimizer. Set {override.replace('model.', '', 1)}, or take the model's by optimizer=null."
            )
