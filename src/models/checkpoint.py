"""Reading a checkpoint that carries its own plan and configuration; it may come from anybody."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from umamba.models.build import build_network
from umamba.planning.plan import Plan
from umamba.target_check import trusted_names
from umamba.targets import NETWORKS, check_config, present_names, scoring_data
from umamba.words import listed

REQUIRED_KEYS = {"state_dict": dict, "plan": dict, "configuration": str, "config": dict}
BUNDLE = "bundle"  # key of what `umamba export` adds, see `umamba.inference.bundle`
PREFIX = "network."  # of the network's weights among those of the training module
_SLACK = 1 << 20  # bytes: a zip file's own tables


def checkpoint_in(folder: Path) -> Path | None:
    """The last checkpoint of a run's folder, or of the folder of its checkpoints; None if it is neither."""
    places = (folder / "checkpoints" / "last.ckpt", folder / "last.ckpt")
    return next((place for place in places if place.is_file()), None)


def load_checkpoint(path: str | Path, trusted: str | Sequence[str] | None = ()) -> dict[str, Any]:
    """Load a checkpoint written by train.py or import_weights, on the CPU, without running any code stored in it.

    Weights, plan and what would be built of the configuration are checked, and checked against each other, before
    anything is built or memory taken that the file itself does not hold.

    Args:
        path: the file.
        trusted: packages, modules, classes or functions of the user's own that the checkpoint may name, beside the
            list in `umamba.targets`.

    Returns:
        Lightning's keys plus ``plan`` and ``config`` (plain dicts), ``configuration`` (name of the plan's
        configuration) and ``provenance``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, not one of this project, its config names code that is not allowed, or plan,
            config and weights are damaged or do not belong together.
    """
    path = Path(path)
    if not path.is_file():
        inner = checkpoint_in(path)
        if inner is not None:
            raise FileNotFoundError(f"{path} is a folder; its checkpoint is {inner}.")
        raise FileNotFoundError(
            f"No checkpoint at {path}. A run keeps its own in <run folder>/checkpoints/ (last.ckpt and best.ckpt)."
        )
    return check_checkpoint(load_plain(path), path, trusted)


def check_checkpoint(content: Any, path: Path, trusted: str | Sequence[str] | None = ()) -> dict[str, Any]:
    """What `load_checkpoint` returns, from what `load_plain` has read of the file (else ValueError)."""
    missing = [key for key in REQUIRED_KEYS if key not in content] if isinstance(content, dict) else REQUIRED_KEYS
    if missing and isinstance(content, dict) and BUNDLE in content:
        raise ValueError(
            f"{path} is a bundle of several networks, where one is asked for. predict.py takes it "
            "(checkpoint=<the bundle>); for anything else give the checkpoints that it was made of."
        )
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of train.py: it lacks {', '.join(missing)}. Checkpoints of nnU-Net or of the "
            "U-Mamba authors are converted with `python -m umamba.models.import_weights checkpoint=... plans=... "
            "dataset_json=... output=...`."
        )
    for key, kind in REQUIRED_KEYS.items():
        if not isinstance(content[key], kind):
            raise ValueError(f"{path}: {key} must be a {kind.__name__}, it is a {type(content[key]).__name__}.")
    trusted = trusted_names(trusted)  # what is wrong with these is not the file's
    try:
        content["config"] = present_names(content["config"])
        check_config(content["config"], trusted)
        _check_weights(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return content


def load_plain(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """The content of a file of torch.save, if it is tensors, numbers, text and containers.

    Raises:
        ValueError: it is damaged, holds other objects, or would grow when it is unpacked.
    """
    try:
        check_archive(path)
        with torch.serialization.safe_globals(list(allowed)) if allowed else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted pickle makes the loader raise whatever it likes
        # Not torch's own text, which advises to load the file with the code in it.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds the object {foreign[1]}" if foreign else f"{type(error).__name__}: {error!s:.200}"
        raise ValueError(
            f"{path} is not a checkpoint that can be loaded safely; it cannot be read as plain data ({reason}). Fetch "
            "or write it again."
        ) from error


def check_archive(path: Path) -> None:
    """See that a file of torch.save is undamaged, by the checksums of its records, which torch does not look at.

    A file in torch's format of before version 1.6 has none.

    Raises:
        ValueError: a record is damaged, or it would grow when it is unpacked.
        zipfile.BadZipFile: the archive itself is.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size + _SLACK:
            raise ValueError(f"it would unpack to {size} bytes, which torch.save never does")
        if damaged := archive.testzip():
            raise ValueError(f"its record {damaged} is damaged: its checksum is another one")


def network_from_checkpoint(checkpoint: Mapping[str, Any]) -> tuple[nn.Module, Plan]:
    """Rebuild the network of a checkpoint from `load_checkpoint`.

    Returns:
        the network in eval mode with deep supervision off, and the plan.
    """
    plan = Plan.from_dict(checkpoint["plan"])
    network = _build(checkpoint, plan)
    network.load_state_dict(network_weights(checkpoint))
    network.deep_supervision = False  # type: ignore[assignment]  # a switch that every network here has
    return network.eval(), plan


def datamodule_from_checkpoint(checkpoint: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """The data module that a checkpoint from `load_checkpoint` is scored with; no raw data are opened yet.

    Raises:
        ValueError: the checkpoint names no data set.
        FileNotFoundError: the raw data set is not there. It is not made: where to write is not the checkpoint's to say.
    """
    data = {**scoring_data(checkpoint["config"]), **overrides}
    if "_target_" not in data:
        raise ValueError("The checkpoint's config names no data set (data._target_), so it cannot be scored on one.")
    try:
        datamodule = instantiate(data)
    except (InstantiationException, TypeError) as error:
        raise ValueError(
            f"The data set of the checkpoint's config cannot be built ({error}): another version?"
        ) from error
    if not (datamodule.dataset_dir / "dataset.json").is_file():
        raise FileNotFoundError(
            f"There is no raw data set at {datamodule.dataset_dir}, where it was in training (no dataset.json). Say "
            "where it is with data.dataset_dir=..., or make it with python -m umamba.datamodules.prepare data=<name>."
        )
    return datamodule


def _build(checkpoint: Mapping[str, Any], plan: Plan) -> nn.Module:
    model = checkpoint["config"]["model"]
    return build_network(instantiate(model["network"]), plan, checkpoint["configuration"], model["deep_supervision"])


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The network's weights in the content of a checkpoint, under their names in the network."""
    state = checkpoint["state_dict"]
    return {key[len(PREFIX) :]: value for key, value in state.items() if str(key).startswith(PREFIX)}


def check_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """See that a training has not diverged (else ValueError)."""
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(
            f"{path} holds NaN or infinite weights ({listed(bad, 1, ' ')}): its training diverged, or the file is "
            "damaged. Take an earlier checkpoint, such as the best one."
        )


class _OnlyWeightless(TorchFunctionMode):
    """Numbers that constructors compute with (torch.linspace in SwinUNETR) stay real under the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {}), "device": "cpu"} if func is torch.linspace else kwargs or {}
        return func(*args, **kwargs)


def _check_weights(checkpoint: Mapping[str, Any]) -> None:
    """Plan, network and weights belong together; found out with a network without memory (torch's meta device)."""
    plan = Plan.from_dict(checkpoint["plan"])
    found = network_weights(checkpoint)
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"state_dict.{PREFIX}{name} is no dense tensor but a {type(tensor).__name__}.")
    own = checkpoint["config"]["model"]["network"]["_target_"] in NETWORKS
    try:
        # A network of the user's own may not know the meta device; it is built as it is, for the user vouches for it.
        with torch.device("meta" if own else "cpu"), _OnlyWeightless():
            network = _build(checkpoint, plan)
    except (InstantiationException, TypeError, RuntimeError, IndexError, KeyError) as error:
        raise ValueError(f"the network of its config and plan cannot be built: {error}") from error
    expected = network.state_dict()
    problems = [f"{name} {tuple(expected[name].shape)} is missing" for name in expected if name not in found]
    problems += [f"{name} is left over" for name in found if name not in expected]
    problems += [
        f"{name} is {_describe(tensor)} instead of {_describe(expected[name])}"
        for name, tensor in found.items()
        if name in expected
        and (tensor.shape != expected[name].shape or tensor.is_floating_point() != expected[name].is_floating_point())
    ]
    if problems:
        raise ValueError(f"its weights are not those of its network: {listed(problems, 5, '; ')}.")
    needed = sum(weight.numel() for weight in network.parameters())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found.values()}
    held = sum(storages.values())
    if needed > held:  # a weight takes a byte at least; but a view can make one number look like many
        raise ValueError(f"its weights are {needed} numbers, but the file holds {held} bytes of them.")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
