"""Weights to begin a training with, from a checkpoint of another one (ours, nnU-Net's, U-Mamba's); and weights to keep.

All weights are taken that are called the same and have the same shape. A head for other classes and a first convolution
for other channels are of another shape, so these begin anew, as every training's do. The file may come from anybody: it
is read as plain data, and nothing is built of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from umamba.files import file_hash
from umamba.models.checkpoint import BUNDLE, PREFIX, check_finite, load_plain
from umamba.models.nnunet_checkpoint import ALLOWED, cases_of
from umamba.models.nnunet_names import rename_weights
from umamba.planning.configuration import PlanError
from umamba.planning.plan import Plan
from umamba.planning.transfer import exchanged
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.image_marks import of_cases
from umamba.words import listed

log = logging.getLogger(__name__)

LEAST_SHARE = 0.1  # of the network's weights that must fit: two networks have small vectors in common by chance
_HEADS = "heads."  # of the networks on the U-shaped frame; others say with what the names of theirs begin
_Described = Plan | DatasetDescription  # both say what channels and labels mean


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """What a checkpoint has for a network.

    Attributes:
        path: Of the checkpoint.
        hash: `umamba.files.file_hash` of it.
        taken: Name of a weight -> value.
        left_out: Name of a weight of the network that is not taken -> why.
        unused: Names of weights of the checkpoint that the network does not have.
        share: Of the network's weights that are taken, in [0, 1], by number of values.
        trained_on: Case -> mark by which it is known, where the checkpoint says it; none of these is unseen any more.
    """

    path: Path
    hash: str
    taken: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    unused: tuple[str, ...]
    share: float
    trained_on: Mapping[str, str]

    def load_into(self, network: nn.Module) -> None:
        """Put the weights into the network that they were read for."""
        network.load_state_dict({**network.state_dict(), **self.taken})

    def refuse_frozen(self, network: nn.Module) -> None:
        """See that no frozen weight is one that begins anew: it would stay as it was drawn at random.

        Raises:
            ValueError: There is one.
        """
        frozen = [name for name, weight in network.named_parameters() if not weight.requires_grad]
        random = [f"{name}: {self.left_out[name]}" for name in frozen if name in self.left_out]
        if random:
            raise ValueError(
                f"freeze keeps {len(random)} weight(s) that init_from={self.path} does not have, so that they would "
                f"stay as they were drawn at random: {listed(random, 5, '; ')}. Freeze the others only, stage by "
                "stage where it must be: freeze=[encoder_stages.1*,encoder_stages.2*]."
            )

    def facts(self) -> dict[str, Any]:
        """For checkpoints and records, as plain data."""
        return {
            "path": str(self.path), "hash": self.hash, "share": self.share, "taken": sorted(self.taken),
            "left_out": dict(self.left_out), "unused": list(self.unused),
        }  # fmt: skip

    def say(self) -> None:
        """Log what was taken and what was not."""
        parts: dict[str, int] = {}
        for name in self.taken:
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + 1
        total = len(self.taken) + len(self.left_out)
        log.info(
            "init_from=%s: %d of %d weights are used, %.1f %% of their values (%s).", self.path, len(self.taken),
            total, 100 * self.share, ", ".join(f"{count} of {part}" for part, count in parts.items()),
        )  # fmt: skip
        if self.left_out:
            reasons = [f"{name}: {why}" for name, why in self.left_out.items()]
            log.info("%d start with random values: %s.", len(reasons), listed(reasons, 20, "; "))
        if self.unused:
            log.info("%d of the checkpoint are not used: %s.", len(self.unused), listed(self.unused, 20, "; "))


def read_initial_weights(path: Path | str, network: nn.Module, plan: Plan | None = None) -> InitialWeights:
    """Read what a checkpoint has for a network; the network is not changed.

    Args:
        path: Checkpoint of train.py, of `import_weights`, or of nnU-Net or U-Mamba (a .pth with ``network_weights``).
        network: What is to be trained.
        plan: Its plan. The heads of a checkpoint that says that it has other classes, be they as many, are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, or cannot be read as plain data; what would be taken is not finite; it is of a
            network with another number of spatial axes, with the same channels in another order, or with as many inputs
            of another kind (of a cascade); or next to nothing of it fits.
    """
    path = Path(path)
    if not path.is_file():
        within = sorted(path.glob("**/*.ckpt")) + sorted(path.glob("**/*.pth")) if path.is_dir() else []
        told = f": it is a folder. Name the checkpoint, such as {within[0]}" if within else ""
        raise FileNotFoundError(f"There is no checkpoint at init_from={path}{told}.")
    content = load_plain(path, ALLOWED)
    found = _weights(content, network, path)
    expected = network.state_dict()
    _check_axes(found, expected, path)
    there = _described(content)
    _check_channels(there, plan, path)
    _check_previous(content, there, plan, network, path)
    classes, heads = _other_classes(there, plan), getattr(network, "heads_begin", _HEADS)
    taken = {
        name: found[name]
        for name, own in expected.items()
        if name in found and _fits(found[name], own) and not (classes and name.startswith(heads))
    }
    left_out = {name: _why_not(found.get(name), own, classes) for name, own in expected.items() if name not in taken}
    total = sum(own.numel() for own in expected.values())
    share = sum(tensor.numel() for tensor in taken.values()) / max(total, 1)
    if share < LEAST_SHARE:
        reasons = listed([f"{name}: {why}" for name, why in left_out.items()], 5, "; ")
        raise ValueError(
            f"init_from={path}: {100 * share:.1f} % of the network's weights fit, less than {100 * LEAST_SHARE:.0f} %; "
            f"it would be no start. {reasons}. Train the same network with the source's plan "
            "(data.planning.plans=<plan.json or nnUNetPlans.json of the source>), or leave init_from out."
        )
    check_finite(taken, f"init_from={path}")
    cases = content.get("cases") or cases_of(content)
    trained_on = cases.get("trained_on") if isinstance(cases, dict) else None
    known = of_cases(trained_on, cases.get("files")) if isinstance(trained_on, dict) else {}
    return InitialWeights(
        path=path, hash=file_hash(path), taken=taken, left_out=left_out,
        unused=tuple(name for name in found if name not in expected), share=share, trained_on=known,
    )  # fmt: skip


def freeze(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep weights as they are: no gradient, and so no step, momentum or weight decay.

    Args:
        network: Whose weights.
        patterns: Of their names, as of file names: ``encoder*``, ``*.norm.weight``.

    Returns:
        The names of the frozen weights.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left to train.
    """
    weights = dict(network.named_parameters())
    frozen: list[str] = []
    for pattern in patterns:
        matching = [name for name in weights if fnmatchcase(name, str(pattern))]
        if not matching:
            parts = sorted({name.split(".")[0] for name in weights})
            raise ValueError(
                f"freeze: {pattern!r} matches no weight of {type(network).__name__}. Its parts are "
                f"{', '.join(parts)}; a whole part is such as {parts[0]}*."
            )
        frozen += [name for name in matching if name not in frozen]
    if frozen and not any(w.requires_grad for name, w in weights.items() if name not in frozen):
        raise ValueError(f"freeze={list(patterns)} leaves nothing to train.")
    for name in frozen:
        weights[name].requires_grad_(False)
    return frozen


def _weights(content: Any, network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under this network's names."""
    if isinstance(content, dict) and isinstance(content.get("network_weights"), dict):
        state = _tensors(content["network_weights"], path)
        return rename_weights(state, len(getattr(network, "encoder_stages", ())))[0]
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        state = {key: value for key, value in content["state_dict"].items() if str(key).startswith(PREFIX)}
        return {key.removeprefix(PREFIX): tensor for key, tensor in _tensors(state, path).items()}
    if isinstance(content, dict) and BUNDLE in content:
        raise ValueError(
            f"init_from={path} is a bundle of several networks, and a training begins with one. Give one of the "
            "checkpoints that it was made of."
        )
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
    raise ValueError(
        f"init_from={path} is no checkpoint: expected one of train.py (with state_dict), of nnU-Net or U-Mamba (with "
        f"network_weights), got {keys}."
    )


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"init_from={path}: its weight {name!r:.100} is no dense tensor.")
    return dict(state)


def _fits(found: Tensor, own: Tensor) -> bool:
    return found.shape == own.shape and found.is_floating_point() == own.is_floating_point()


def _why_not(found: Tensor | None, own: Tensor, classes: str) -> str:
    if found is None:
        return f"{tuple(own.shape)}, not there"
    return f"{tuple(own.shape)}, there " + (f"of {classes}" if _fits(found, own) else f"{tuple(found.shape)}")


def _described(content: Mapping[str, Any]) -> _Described | None:
    """A checkpoint's own plan, or the dataset.json in one of nnU-Net's; None if it has none that can be read."""
    trained_with = content.get("init_args")
    try:
        if isinstance(content.get("plan"), dict):
            return Plan.from_dict(content["plan"])
        if isinstance(trained_with, dict) and "dataset_json" in trained_with:
            return DatasetDescription.of(trained_with["dataset_json"], "init_args.dataset_json")
    except (PlanError, DatasetError):
        pass
    return None


def _check_previous(
    content: Mapping[str, Any], there: _Described | None, plan: Plan | None, network: nn.Module, path: Path
) -> None:
    """Of a cascade some inputs are what the previous stage segmented: as many of another kind are others."""
    if not isinstance(there, Plan) or plan is None or content.get("configuration") not in there.configurations:
        return
    inputs, own = there.num_inputs(content["configuration"]), getattr(network, "in_channels", None)
    if inputs == own and len(there.channel_names) != len(plan.channel_names):
        told = [
            f"{len(one.channel_names)} channel(s) of the image, {inputs - len(one.channel_names)} of a previous stage"
            for one in (there, plan)
        ]
        raise ValueError(
            f"init_from={path} has as many inputs as this network, and they are others: {told[0]} there, {told[1]} "
            "here. Its first convolution would take one for the other. Begin with a checkpoint of the same kind."
        )


def _other_classes(there: _Described | None, plan: Plan | None) -> str:
    """The classes, or regions, of a checkpoint, if its outputs are not those of `plan`; else ""."""
    if there is None or plan is None:
        return ""
    # Outputs stand by label value, of regions in the file's order.
    same = there.foreground == plan.foreground and there.regions == plan.regions
    return "" if same else ", ".join(there.foreground)


def _check_channels(there: _Described | None, plan: Plan | None, path: Path) -> None:
    """The first convolution knows channels by their place alone."""
    turned = [] if there is None or plan is None else exchanged(there.channel_names, plan.channel_names)
    if there is not None and plan is not None and turned and len(there.channel_names) == len(plan.channel_names):
        raise ValueError(
            f"init_from={path} was trained with the channels {', '.join(there.channel_names)}, in this order; here "
            f"they are {', '.join(plan.channel_names)}. Its first convolution would take one channel for another. Give "
            "the channels of this data set (channel_names in dataset.json, and the files' _0000, _0001, ...) their "
            "places there."
        )


def _check_axes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """A 2D network's convolutions have an axis less than a 3D one's."""
    for name, own in expected.items():
        if name in found and name.endswith(".weight") and {found[name].dim(), own.dim()} == {4, 5}:
            raise ValueError(
                f"init_from={path} is of a {found[name].dim() - 2}D network, this one is {own.dim() - 2}D "
                f"({name}: {tuple(found[name].shape)} there, {tuple(own.shape)} here). Take a checkpoint of the same "
                "data.configuration."
            )
