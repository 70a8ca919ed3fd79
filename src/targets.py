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
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hydra.utils import get_object


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The classes that a package itself exports, of one kind.

    Attributes:
        package: its dotted name.
        base: full name of the class that they derive from.
    """

    package: str
    base: str

    def __contains__(self, target: str) -> bool:
        """Whether a target is one of them; no further dot is followed, and nothing but the package is imported."""
        package, _, name = target.rpartition(".")
        found = getattr(import_module(package), name, None) if package == self.package else None
        return isinstance(found, type) and issubclass(found, get_object(self.base))

    def __str__(self) -> str:
        return f"{self.package}.<{self.base.rpartition('.')[2]}>"


Allowed = Sequence[str | Exports]

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

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
HYDRA = {"_target_": str, "_partial_": bool, "_args_": list, "_recursive_": bool, "_convert_": str}
# Nobody is advised to trust the whole of these
_OF_OTHERS = {*sys.stdlib_module_names, "umamba", "torch", "lightning", "torchio", "monai", "numpy", "hydra"}
_MOVED = {"umamba.run.wandb_logger": "umamba.run.wandb_log.wandb_logger"}
# More than any published network asks for; they keep a crafted configuration from exhausting time or memory.
_MAX_NUMBER = 16_384  # of a network's arguments: channels, blocks, heads, edges
_MAX_ENTRIES, _MAX_DEPTH, _MAX_TEXT = 10_000, 16, 4_096
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
        raise ValueError(f"model must be an object, it is {_shown(model)}.")
    network, deep_supervision = model.get("network"), model.get("deep_supervision")
    if not isinstance(network, dict) or "_target_" not in network or network.get("_partial_") is not True:
        raise ValueError(f"model.network must be an object with _target_ and _partial_: true; it is {_shown(network)}.")
    if not isinstance(deep_supervision, bool):
        raise ValueError(f"model.deep_supervision must be true or false, it is {_shown(deep_supervision)}.")
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
    """The part of ``data`` that scoring needs.

    Raises:
        ValueError: there is none.
    """
    data = config.get("data")
    if not isinstance(data, dict):
        raise ValueError(f"data must be an object, it is {_shown(data)}.")
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


def trusted_names(trusted: str | Sequence[str] | None) -> tuple[str, ...]:
    """What the user gave as ``trusted=``, one name or a list, as a tuple.

    Raises:
        ValueError: an entry is no dotted name.
    """
    names = (trusted,) if isinstance(trusted, str) else tuple(trusted or ())
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"trusted={name!r}: expected the name of a package, module, class or function.")
    return names


class Check:
    """Walks plain data; counts what it sees, for lists that hold each other can be endless.

    Args:
        trusted: what the user vouches for, see `trusted_names`.
        source: where the data come from, for the message of a refusal.
        advice: how that message ends, after "If it is code of yours, or of somebody you trust,"; {} stands for
            ``trusted=[...]``.
    """

    def __init__(self, trusted: Sequence[str], *, source: str, advice: str) -> None:
        self.trusted = trusted
        self.source = source
        self.advice = advice
        self.seen = 0

    def node(
        self,
        node: object,
        where: str,
        allowed: Allowed,
        inside: Allowed,
        *,
        largest: float | None = None,
        depth: int = 0,
    ) -> None:
        """Check one value and all below it.

        Args:
            node: the value.
            where: its key.
            allowed: targets that it may name itself.
            inside: targets that what it holds may name.
            largest: bound of the numbers, if any.
            depth: of `node`.
        """
        self.seen += 1
        if self.seen > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise ValueError(f"{where} has more than {_MAX_ENTRIES} entries or is nested over {_MAX_DEPTH} deep.")
        if isinstance(node, dict):
            for key, value in node.items():
                place = f"{where}.{key!s:.100}"
                if not isinstance(key, str):
                    raise ValueError(f"{place}: a key must be text, it is a {type(key).__name__}.")
                self._scalar(key, place, None)
                if key == "_target_":
                    self._target(value, place, allowed)
                elif key in HYDRA:
                    if not isinstance(value, HYDRA[key]):
                        raise ValueError(f"{place} must be a {HYDRA[key].__name__}, it is {_shown(value)}.")
                elif key.startswith("_") and key.endswith("_"):
                    raise ValueError(f"{place}: only {', '.join(HYDRA)} may stand between underscores.")
                self.node(value, place, inside, inside, largest=largest, depth=depth + 1)
        elif isinstance(node, list):
            for index, value in enumerate(node):
                self.node(value, f"{where}[{index}]", inside, inside, largest=largest, depth=depth + 1)
        else:
            self._scalar(node, where, largest)

    @staticmethod
    def _scalar(value: object, where: str, largest: float | None) -> None:
        if not isinstance(value, (str, bool, int, float, type(None))):
            raise ValueError(f"{where} must be text, a number, true, false or null; it is a {type(value).__name__}.")
        if isinstance(value, str) and ("${" in value or len(value) > _MAX_TEXT):
            raise ValueError(f"{where} must be text of at most {_MAX_TEXT} characters without ${{...}}: {value!r:.80}")
        if largest is not None and isinstance(value, (int, float)) and not abs(value) <= largest:
            raise ValueError(f"{where} is {value}; expected a number from {-largest} to {largest}.")

    def _target(self, target: object, where: str, allowed: Allowed) -> None:
        if not isinstance(target, str) or not _NAME.fullmatch(target):
            raise ValueError(f"{where} must be a dotted name, it is {_shown(target)}.")
        if target in self.trusted or any(
            target in entry if isinstance(entry, Exports) else target == entry for entry in allowed
        ):
            return
        root = next((name for name in self.trusted if target.startswith(f"{name}.")), None)
        if root is not None:
            _check_defined_below(target, root, where)
            return
        root = target.split(".")[0]
        raise ValueError(
            f"{where} is {target!r}, which is not among what {self.source} may have built "
            f"({', '.join(map(str, allowed)) or 'nothing here'}). If it is code of yours, or of somebody you trust, "
            + self.advice.format(f"trusted=[{target if root in _OF_OTHERS else root}]")
        )


def _present_name(target: Any) -> Any:
    if not isinstance(target, str) or not target.startswith("src."):
        return target
    present = f"umamba.{target.removeprefix('src.')}"
    return _MOVED.get(present, present)


def _shown(value: object) -> str:
    """A value for a message; of what holds others the type alone, for it may be endless."""
    return f"{value!r:.200}" if isinstance(value, (str, bool, int, float, type(None))) else type(value).__name__


def _check_defined_below(target: str, root: str, where: str) -> None:
    """A trusted package vouches for what it defines, not for what it imports (``mymix.os.system``)."""
    try:
        module = getattr(get_object(target), "__module__", None) or ""
    except Exception as error:  # the import runs the user's own code, which may raise anything
        raise ValueError(f"{where} is {target!r}, which cannot be imported: {error}") from error
    if module != root and not module.startswith(f"{root}."):
        raise ValueError(
            f"{where} is {target!r}, which {root} does not define itself (it comes from {module or 'elsewhere'}). To "
            f"allow it all the same, give its full name: trusted=[{target}]."
        )
