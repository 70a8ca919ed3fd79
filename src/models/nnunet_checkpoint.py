"""What an nnU-Net checkpoint (.pth) holds, read without running code stored in it; it may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umamba.models.checkpoint import check_finite, load_plain
from umamba.planning.configuration import PlanError
from umamba.planning.nnunet_plans import plan_of_nnunet
from umamba.planning.plan import Plan
from umamba.raw.description import DatasetDescription
from umamba.typed import is_whole

_SCALAR = np.float64(0).__reduce__()[0]  # NumPy 1 and 2 pickle the numbers of the training log under two names
OURS = "umamba"  # key of what nnU-Net has no place for, in a checkpoint that this project has written in its form
# What an nnU-Net checkpoint holds beside tensors, numbers, text and containers; for `load_plain`
ALLOWED: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType,
]  # fmt: skip
# Strides, kernels and blocks are not among them: the weights would not fit.
_OF_PLAN = ("channel_names", "labels", "regions", "ignore_label", "transpose_forward", "intensities")
_OF_CONFIGURATION = ("spacing", "patch_size", "normalization", "use_mask_for_norm", "previous_stage")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """An nnU-Net checkpoint (.pth), read without running code stored in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an nnU-Net checkpoint, or one that asks for more than tensors, numbers and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path} (checkpoint=).")
    checkpoint = load_plain(path, ALLOWED)
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        keys = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"{path} is no checkpoint of nnU-Net or U-Mamba: expected the key 'network_weights', got {keys}."
        )
    weights = checkpoint["network_weights"]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items()
    ):
        raise ValueError(f"{path}: network_weights must be tensors by name.")
    check_finite(weights, path)
    return checkpoint


def mirrored_axes(source: Mapping[str, Any]) -> tuple[int, ...]:
    """Axes of the patch that nnU-Net's training mirrored, as its checkpoint records them; none if it does not.

    Raises:
        ValueError: they are no axes.
    """
    axes = source.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, (list, tuple)) or not all(type(axis) is int and axis in (0, 1, 2) for axis in axes):
        raise ValueError(f"inference_allowed_mirroring_axes must be among 0, 1 and 2, the checkpoint has {axes!r}.")
    return tuple(sorted(axes))


def precision_of(source: Mapping[str, Any]) -> str | None:
    """Lightning's name of the precision of the training, if this project has written the checkpoint; else None.

    Raises:
        ValueError: It is no name.
    """
    ours = source.get(OURS) or {}
    precision = ours.get("precision") if isinstance(ours, dict) else ours
    if precision is not None and not isinstance(precision, str):
        raise ValueError(f"{OURS}.precision must be a name such as bf16-mixed, the checkpoint has {precision!r:.100}.")
    return precision


def cases_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """Which cases the training saw, if this project has written the checkpoint and knew it; else nothing.

    Raises:
        ValueError: They are no dictionary.
    """
    ours = source.get(OURS) or {}
    cases = ours.get("cases") or {} if isinstance(ours, dict) else {}
    if not isinstance(cases, dict):
        raise ValueError(f"{OURS}.cases must be a dictionary, the checkpoint has {cases!r:.100}.")
    return cases


def fold_number(fold: object) -> int | str:
    """A fold as nnU-Net records it: a number, also as text, or "all" (else ValueError)."""
    if isinstance(fold, str) and (fold == "all" or (fold.isascii() and fold.isdigit())):
        return fold if fold == "all" else int(fold)
    if not is_whole(fold):
        raise ValueError(f"init_args.fold must be a whole number or 'all', the checkpoint has {fold!r:.100}.")
    return fold


def check_same_training(checkpoint: Path | str, trained_with: Mapping[str, Any], plan: Plan, name: str) -> None:
    """See that a plan is the one that a checkpoint was trained with, as far as the checkpoint says it.

    Args:
        checkpoint: Its file, for the message.
        trained_with: Its init_args.
        plan: What the files beside it say.
        name: The plan's configuration that it is to be of.

    Raises:
        ValueError: They are of another training, naming what differs and both sides; or cannot be read.
    """
    own = trained_with.get("configuration")
    if isinstance(own, str) and own != name:
        raise ValueError(
            f"{checkpoint} was trained as {own}, not as {name}: it lies in another configuration's folder, or the "
            "folder was renamed. Its weights would be given images of another spacing."
        )
    plans, dataset_json = trained_with.get("plans"), trained_with.get("dataset_json")
    if not isinstance(plans, dict) or not isinstance(dataset_json, dict):
        return
    where = Path(f"{checkpoint} (init_args)")
    other = plan_of_nnunet(plans, DatasetDescription.of(dataset_json, where), where)
    if name not in other.configurations:
        raise PlanError(f"{where} has the configurations {', '.join(other.configurations)}, not {name}.")
    sides = [(key, getattr(plan, key), getattr(other, key)) for key in _OF_PLAN]
    here, there = plan.configuration(name), other.configuration(name)
    sides += [(f"{key} of {name}", getattr(here, key), getattr(there, key)) for key in _OF_CONFIGURATION]
    apart = [
        f"{key} is {one!r:.300} there, {known!r:.300} in the training" for key, one, known in sides if one != known
    ]
    if apart:
        raise ValueError(
            f"{checkpoint} was trained with another plan or data set than the plans.json and dataset.json given with "
            f"it: {'; '.join(apart)}. nnU-Net writes both anew with each fold it trains: they are of another training, "
            "or were edited since. Give those of this one; folds of several trainings need a folder each."
        )
