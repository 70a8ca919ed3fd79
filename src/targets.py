"""What a checkpoint may make others build: an exact list, for a checkpoint may come from anybody.

Predicting and scoring build two things of the configuration inside a checkpoint, ``model.network`` and ``data``; all
else in it (optimiser, schedule, augmentation, callbacks, logger, trainer) is only read. train.py asks the same question
before it begins, so that no run ends with a checkpoint that cannot be loaded. What it builds of the configuration in a
run's folder has lists of its own: `umamba.run.stored`.

Code of the user's own is not in the list. Whoever runs it names it on the command line, ``trusted=[mymix]``: a package
or module, or one class or function by its full name. Nothing in a file can add to that.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from umamba.target_check import Check, Exports, shown, trusted_names

NETWORKS = (
    "umamba.models.umamba.UMamba",
    "umamba.models.unet.PlainConvUNet",
    "umamba.models.unet.ResidualEncoderUNet",
    "umamba.models.baselines.segresnet",
    "umamba.models.baselines.unetr",
    "umamba.models.baselines.swinunetr",
)
PARTS = (  # inside a network
    Exports(package="torch.nn", base="torch.nn.Module"),
    "umamba.models.mamba.block.Mamba",
    "umamba.models.mamba.ssd.SSD",
    "umamba.models.mamba.gated_conv.GatedConv",
    "umamba.models.mamba.orders.raster",
    "umamba.models.mamba.orders.bidirectional",
    "umamba.models.mamba.orders.tri_oriented",
)
DATA_MODULES = (
    "umamba.datamodules.abdomen_ct.AbdomenCTDataModule",
    "umamba.datamodules.abdomen_mr.AbdomenMRDataModule",
    "umamba.datamodules.cells.CellDataModule",
    "umamba.datamodules.custom.CustomDataModule",
    "umamba.datamodules.decathlon.DecathlonDataModule",
    "umamba.datamodules.endoscopy.EndoscopyDataModule",
    "umamba.datamodules.joint.JointDataModule",
    "umamba.datamodules.nuclei.NucleiDataModule",
    "umamba.datamodules.phantom.PhantomDataModule",
    "umamba.datamodules.phantom.PhantomCellsDataModule",
)
MIRROR = "umamba.datamodules.augmentation.spatial.RandomMirror"  # only read: which axes a training mirrored
# Keys of `data` that only training needs; scoring leaves them out.
TRAINING_ONLY = (
    "planning", "augmentation", "num_workers", "iterations_per_epoch", "val_iterations", "oversample", "seed",
    "patch_size", "patch_multiple", "batch_size", "augment_on", "sources", "classes", "missing", "rename", "images",
)  # fmt: skip

_MOVED = {"umamba.run.wandb_logger": "umamba.run.wandb_log.wandb_logger"}
# More than any published network asks for; it keeps a crafted configuration from exhausting time or memory.
_MAX_NUMBER = 16_384  # of a network's arguments: channels, blocks, heads, edges
_MAX_STORED, _MAX_STORED_DEPTH = 100_000, 64  # of a whole stored configuration


def check_config(config: object, trusted: str | Sequence[str] | None = ()) -> None:
    """Refuse a resolved training configuration of which predicting or scoring would build other code than is allowed.

    Args:
        config: plain data; its ``model.network`` and, if there is one, ``data`` are looked at.
        trusted: what the user vouches for.

    Raises:
        ValueError: a target that is not allowed, a value of a wrong type or out of bounds; the message has the key.
    """
    trusted = trusted_names(trusted)
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(model, dict):
        raise ValueError(f"model must be an object, it is {shown(model)}.")
    network, deep_supervision = model.get("network"), model.get("deep_supervision")
    if not isinstance(network, dict) or "_target_" not in network or network.get("_partial_") is not True:
        raise ValueError(f"model.network must be an object with _target_ and _partial_: true; it is {shown(network)}.")
    if not isinstance(deep_supervision, bool):
        raise ValueError(f"model.deep_supervision must be true or false, it is {shown(deep_supervision)}.")
    check = Check(
        trusted,
        source="a checkpoint",
        advice="say {} on the command line: of train.py, and again of predict.py and eval.py, for everybody who uses "
        "the checkpoint runs that code.",
    )
    check.node(network, "model.network", NETWORKS, PARTS, largest=_MAX_NUMBER)
    if config.get("data") is not None:
        check.node(scoring_data(config), "data", DATA_MODULES, ())


def scoring_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``data`` that scoring needs (else ValueError)."""
    data = config.get("data")
    if not isinstance(data, dict):
        raise ValueError(f"data must be an object, it is {shown(data)}.")
    return {key: value for key, value in data.items() if key not in TRAINING_ONLY}


def present_names(node: Any) -> Any:
    """A stored configuration with its targets under their present names.

    The package was called src before it could be installed; checkpoints, run folders and records of that time go on
    working.

    Args:
        node: plain data, not changed.

    Raises:
        ValueError: it is larger than any configuration, or endless.
    """
    left = itertools.count(_MAX_STORED, -1)

    def renamed(node: Any, depth: int) -> Any:
        if depth > _MAX_STORED_DEPTH or next(left) < 0:
            raise ValueError(
                f"The configuration has more than {_MAX_STORED} entries or is nested over {_MAX_STORED_DEPTH} deep."
            )
        if isinstance(node, dict):
            return {
                key: _present_name(value) if key == "_target_" else renamed(value, depth + 1)
                for key, value in node.items()
            }
        if isinstance(node, (list, tuple)):
            values = [renamed(value, depth + 1) for value in node]
            return tuple(values) if isinstance(node, tuple) else values  # a tuple is refused by name
        return node

    return renamed(node, 0)


def _present_name(target: Any) -> Any:
    if not isinstance(target, str) or not target.startswith("src."):
        return target
    present = f"umamba.{target.removeprefix('src.')}"
    return _MOVED.get(present, present)
