"""The loss of a training that names none, as those before there was a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from umamba.locations import CONFIGS

KEY = "loss"  # of a training's configuration
# nnU-Net's. Not read from configs/loss/dice_ce.yaml: somebody may edit that, and what was trained before stays the same
USUAL: Mapping[str, Any] = {
    "_target_": "umamba.models.build_loss.segmentation_loss", "_partial_": True,
    "dice": 1.0, "cross_entropy": 1.0, "hardest_percent": 100.0, "gamma": 0.0, "class_weights": None,
    "false_positives": 0.5, "false_negatives": 0.5,
}  # fmt: skip
_USUAL_NAME = "dice_ce"


def with_loss(config: Any) -> Any:
    """A training's configuration, or what is kept of one, with the settings of the loss that it does not name."""
    if not isinstance(config, Mapping):
        return config
    loss = config.get(KEY)
    if loss is None:
        return {**config, KEY: dict(USUAL)}
    same = isinstance(loss, Mapping) and loss.get("_target_") == USUAL["_target_"]
    return {**config, KEY: {**USUAL, **loss}} if same else config


def name_of_loss(settings: Mapping[str, Any]) -> str:
    """What a loss of this project is called beside others: a file of `configs/loss/`, or the usual one and what is set.

    Args:
        settings: Of a training's loss, without its `_target_`; a setting that is None may be left out.
    """
    set_apart = _apart(settings, USUAL)
    for path in sorted((CONFIGS / "loss").glob("*.yaml")) if set_apart else ():
        named = {**USUAL, **yaml.safe_load(path.read_text(encoding="utf-8"))}
        if path.stem != _USUAL_NAME and named["_target_"] == USUAL["_target_"] and not _apart(settings, named):
            return path.stem
    return " ".join([_USUAL_NAME, *(f"{key}={value}" for key, value in set_apart.items())])


def _apart(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted({*settings, *others} - {"_target_", "_partial_", "defaults"})
    return {key: settings.get(key) for key in keys if settings.get(key) != others.get(key)}


def without_usual_loss(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a training, as before there was a choice if its loss is the usual one."""
    usual = with_loss(config)[KEY] == USUAL
    return {key: value for key, value in config.items() if key != KEY or not usual}
