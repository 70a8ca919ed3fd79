"""The loss of a training that names none, as those before there was a choice."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import yaml

from umamba.locations import CONFIGS

KEY = "loss"  # of a training's configuration


@functools.cache
def usual_loss() -> dict[str, Any]:
    """nnU-Net's, as its configuration names it; not to be changed."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "loss" / "dice_ce.yaml").read_text(encoding="utf-8"))
    return content


def with_loss(config: Any) -> Any:
    """A training's configuration, or what is kept of one, with the settings of the loss that it does not name."""
    if not isinstance(config, Mapping):
        return config
    loss, usual = config.get(KEY), usual_loss()
    if loss is None:
        return {**config, KEY: dict(usual)}
    same = isinstance(loss, Mapping) and loss.get("_target_") == usual["_target_"]
    return {**config, KEY: {**usual, **loss}} if same else config


def name_of_loss(settings: Mapping[str, Any]) -> str:
    """What a loss of this project is called beside others: a file of `configs/loss/`, or the usual one and what is set.

    Args:
        settings: Of a training's loss, without its `_target_`; a setting that is None may be left out.
    """
    for path in sorted((CONFIGS / "loss").glob("*.yaml")):
        named = {**usual_loss(), **yaml.safe_load(path.read_text(encoding="utf-8"))}
        if named["_target_"] == usual_loss()["_target_"] and not _apart(settings, named):
            return path.stem
    return " ".join(["dice_ce", *(f"{key}={value}" for key, value in _apart(settings, usual_loss()).items())])


def _apart(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted({*settings, *others} - {"_target_", "_partial_", "defaults"})
    return {key: settings.get(key) for key in keys if settings.get(key) != others.get(key)}


def without_usual_loss(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a training, as before there was a choice if its loss is the usual one."""
    usual = with_loss(config)[KEY] == usual_loss()
    return {key: value for key, value in config.items() if key != KEY or not usual}
