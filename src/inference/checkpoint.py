"""Reading a checkpoint that carries its own plan and configuration."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from src.models.build import build_network
from src.planning.plan import Plan

REQUIRED_KEYS = ("state_dict", "plan", "configuration", "config")
INSTANTIATED = ("model", "data")  # parts of the config that are built again from a checkpoint
TRUSTED_ROOTS = ("src", "torch", "torchio", "monai")  # a checkpoint may come from anybody: it must not name other code


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint written by train.py or import_weights, on the CPU, without running any code stored in it.

    Returns:
        Lightning's keys plus ``plan`` and ``config`` (plain dicts), ``configuration`` (name of the plan's
        configuration) and ``provenance``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, not one of this project, or its config names code outside `TRUSTED_ROOTS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint at {path}. A run keeps its own in <run folder>/checkpoints/ (last.ckpt and best.ckpt)."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint that can be loaded safely: {error}") from error
    missing = [key for key in REQUIRED_KEYS if key not in checkpoint] if isinstance(checkpoint, dict) else REQUIRED_KEYS
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of train.py: it lacks {', '.join(missing)}. Checkpoints of nnU-Net or of the "
            "U-Mamba authors are converted with `python -m src.models.import_weights checkpoint=... plans=... "
            "dataset_json=... output=...`."
        )
    used = {key: checkpoint["config"].get(key) for key in INSTANTIATED}
    for target in _targets(used):
        if target.split(".")[0] not in TRUSTED_ROOTS:
            raise ValueError(f"{path} asks to run {target!r}; only targets of {', '.join(TRUSTED_ROOTS)} are run.")
    return checkpoint


def network_from_checkpoint(checkpoint: dict[str, Any]) -> tuple[nn.Module, Plan]:
    """Rebuild the network of a loaded checkpoint.

    Returns:
        the network in eval mode with deep supervision off, and the plan.
    """
    plan = Plan.from_dict(checkpoint["plan"])
    name, model = checkpoint["configuration"], checkpoint["config"]["model"]
    network = build_network(instantiate(model["network"]), plan, name, model["deep_supervision"])
    prefix = "network."
    state = {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
    network.load_state_dict(state)
    network.deep_supervision = False
    return network.eval(), plan


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)
