"""What may be built of the configuration in a run's folder, which may have come with the folder from somebody else.

Whatever the present call would build itself, with the same arguments, is the user's own code. All else is taken from
the folder: its targets must be in the lists below or be ``trusted`` in this call, and what it writes stays in the
folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from umamba.target_check import HYDRA, Allowed, Check, Exports, trusted_names
from umamba.targets import DATA_MODULES, NETWORKS, PARTS

_OPTIMIZERS = (Exports(package="torch.optim", base="torch.optim.Optimizer"),)
_SCHEDULES = (
    "umamba.models.schedules.poly",
    "umamba.models.schedules.cosine",
    Exports(package="torch.optim.lr_scheduler", base="torch.optim.lr_scheduler.LRScheduler"),
)
_LOSSES = (
    "umamba.models.build_loss.segmentation_loss",
    Exports(package="torch.nn", base="torch.nn.modules.loss._Loss"),
)
_TRANSFORMS = (
    "umamba.datamodules.augmentation.intensity.RandomBrightness",
    "umamba.datamodules.augmentation.intensity.RandomContrast",
    "umamba.datamodules.augmentation.intensity.RandomGammaWithStatistics",
    "umamba.datamodules.augmentation.previous_stage.RandomBinaryOperator",
    "umamba.datamodules.augmentation.previous_stage.RandomComponentRemoval",
    "umamba.datamodules.augmentation.resolution.RandomChannelBlur",
    "umamba.datamodules.augmentation.resolution.RandomLowResolution",
    "umamba.datamodules.augmentation.spatial.RandomRotationScaling",
    "umamba.datamodules.augmentation.spatial.RandomMirror",
    Exports(package="torchio", base="torchio.Transform"),
)
_CALLBACKS = (
    "umamba.callbacks.last_checkpoint.LastCheckpoint",
    "umamba.callbacks.finite_watch.FiniteWatch",
    "umamba.callbacks.cost.Cost",
    "umamba.callbacks.epoch_bar.EpochBar",
    "umamba.callbacks.epoch_line.EpochLine",
    "umamba.callbacks.pace.Pace",
    "umamba.callbacks.preview.Preview",
    "umamba.callbacks.progress_picture.ProgressPicture",
    Exports(package="lightning.pytorch.callbacks", base="lightning.pytorch.callbacks.Callback"),
)
_LOGGERS = (
    "umamba.callbacks.csv_log.ResumableCSVLogger",
    "umamba.run.wandb_log.wandb_logger",
    Exports(package="lightning.pytorch.loggers", base="lightning.pytorch.loggers.Logger"),
)
_OF_THE_TRAINER = (
    Exports(package="lightning.pytorch.strategies", base="lightning.pytorch.strategies.Strategy"),
    Exports(package="lightning.pytorch.profilers", base="lightning.pytorch.profilers.Profiler"),
)
# Key -> targets it may name itself, and what it holds may name; `*` is each entry. Inner keys come before outer ones.
SECTIONS: dict[str, tuple[Allowed, Allowed]] = {
    "model.network": (NETWORKS, PARTS),
    "model.optimizer": (_OPTIMIZERS, ()),
    "model.scheduler": (_SCHEDULES, ()),
    "optimizer": (_OPTIMIZERS, ()),
    "loss": (_LOSSES, ()),
    "augmentation.*": (_TRANSFORMS, _TRANSFORMS),
    "data.augmentation.*": (_TRANSFORMS, _TRANSFORMS),
    "data": (DATA_MODULES, ()),
    "callbacks.*": (_CALLBACKS, ()),
    "logger.*": (_LOGGERS, ()),
    "trainer": (("lightning.Trainer", "lightning.pytorch.Trainer"), _OF_THE_TRAINER),
}
_WRITERS = ("callbacks", "logger", "trainer")
_FOLDERS = ("dirpath", "save_dir", "folder", "root_dir", "default_root_dir", "log_dir", "dir", "path")
_ABSENT = object()


def refuse_interpolations(node: Any, where: str = "") -> None:
    """Raises ValueError if stored plain data hold ``${...}``, which would be resolved: runs are stored resolved."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{where}.{key}" if where else str(key)
            refuse_interpolations(str(key), place)
            refuse_interpolations(value, place)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            refuse_interpolations(value, f"{where}[{index}]")
    elif isinstance(node, str) and "${" in node:
        raise ValueError(f"{where} must be text without ${{...}}, it is {node!r:.80}.")


def check_stored(
    config: Mapping[str, Any], own: Mapping[str, Any], trusted: str | Sequence[str] | None, folder: Path
) -> None:
    """Refuse a run's configuration if other code than is allowed would be built of what comes from its folder.

    Args:
        config: what is to be built, as plain data.
        own: what this call alone, without the folder, would build.
        trusted: what the user vouches for in this call.
        folder: of the run, absolute.

    Raises:
        ValueError: a target that is not allowed, or a path out of the folder; the message has the key.
    """
    foreign = _foreign(config, own)
    if foreign is _ABSENT:
        return
    check = Check(
        trusted_names(trusted),
        source="the configuration in a run's folder",
        advice="repeat {}: it holds for one call, and is never taken from the folder.",
    )
    for pattern, (allowed, inside) in SECTIONS.items():
        for key, node in list(_taken(foreign, pattern)):
            check.node(node, key, allowed, inside)
            if key.split(".")[0] in _WRITERS:
                _check_paths(node, key, folder)
    for key, node in foreign.items():
        check.node(node, str(key), (), ())


def _foreign(node: Any, own: Any) -> Any:
    """What of `node` is not also in `own`; a target stays with what differs in its arguments."""
    if node == own:
        return _ABSENT
    if not isinstance(node, dict) or not isinstance(own, dict):
        return node
    parts = {key: value if key in HYDRA else _foreign(value, own.get(key, _ABSENT)) for key, value in node.items()}
    return {key: value for key, value in parts.items() if value is not _ABSENT}


def _taken(config: dict[str, Any], pattern: str) -> Iterator[tuple[str, Any]]:
    """Take the nodes at a key out of `config`."""
    *parents, last = pattern.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if last == "*" and isinstance(node, list):
        yield from ((f"{'.'.join(parents)}[{index}]", entry) for index, entry in enumerate(node))
        node.clear()
    if not isinstance(node, dict):
        return
    names = [name for name in node if not str(name).startswith("_")] if last == "*" else [last]
    for name in names:
        if isinstance(node.get(name), (dict, list)):
            yield ".".join([*parents, str(name)]), node.pop(name)


def _check_paths(node: Any, where: str, folder: Path) -> None:
    """Refuse text that leads out of the run's folder."""
    if isinstance(node, dict):
        for key, value in node.items():
            _check_paths(value, f"{where}.{key}", folder)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_paths(value, f"{where}[{index}]", folder)
    elif isinstance(node, str):
        is_folder = where.rpartition(".")[2] in _FOLDERS
        leads_away = os.path.isabs(node) or re.search(r"^~|://|\\|^[A-Za-z]:/|(^|/)\.\.(/|$)", node)
        if (is_folder or leads_away) and not _is_below(node, folder):
            raise ValueError(
                f"{where} is {node!r:.200}, which is not in the run's folder {folder}. Where else a run writes is said "
                "by each call anew, as in the run's first command."
            )


def _is_below(path: str, folder: Path) -> bool:
    plain = os.path.normpath(path)
    return "://" not in path and os.path.isabs(path) and Path(plain).is_relative_to(os.path.normpath(folder))
