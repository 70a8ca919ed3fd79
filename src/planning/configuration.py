"""One configuration of a plan: patch, batch, spacing and topology, with the checks behind every edit of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, get_type_hints

from umamba.names import name_fault
from umamba.planning.normalization import SCHEMES
from umamba.typed import describe, has_type, is_whole

# Beyond any published network; a plan may come from anybody, and these numbers decide what memory is asked for.
_MAX_PATCH, _MAX_BATCH = 2**28, 2**32  # voxels of a patch, and of a batch
_MAX = {"strides": 64, "kernel_sizes": 63, "features_per_stage": 8_192, "n_conv_per_stage": 64}

_MAX |= {"n_conv_per_stage_decoder": 64}
_MAX_STAGES = 16
_positive = partial(is_whole, least=1)


class PlanError(ValueError):
    """A plan that contradicts itself or cannot be read; says which field, what came and what would fit."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to train on a data set: at one spacing, in 2D or 3D. Axes are the plan's transposed ones.

    Attributes:
        name: "2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres" or a name of the user's.
        patch_size: Network input in voxels, 2 or 3 axes.
        batch_size: Patches per step.
        spacing: Voxel size of the preprocessed data in mm; as many axes as the patch (2D on 3D data keeps the slices).
        median_shape: Median shape of the training cases at that spacing, in voxels (may be fractional).
        strides: Per stage and axis, from the first stage (all 1) to the bottleneck.
        kernel_sizes: Per stage and axis.
        features_per_stage: Channels per stage.
        n_conv_per_stage: Convolutions (plain encoder) or residual blocks (residual encoder) per encoder stage.
        n_conv_per_stage_decoder: Convolutions per decoder stage.
        residual_encoder: Whether the plan was made for a residual encoder.
        normalization: One scheme per channel, see `umamba.planning.normalization`.
        use_mask_for_norm: Per channel, whether z-scores are taken within the non-zero mask only.
        batch_dice: Whether the Dice loss sums over the batch first.
        data_identifier: Folder of the preprocessed data; configurations with the same data share it.
        previous_stage: Configuration whose prediction is a further input (cascade), or None.
        estimate: nnU-Net's cost estimate of the network in voxels times channels (no unit of memory), 0 if unknown.
        reference: The budget that the estimate was held against.
        patch_reason: Why the patch is not larger.
        batch_reason: What fixed the batch size.
    """

    name: str
    patch_size: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features_per_stage: tuple[int, ...]
    n_conv_per_stage: tuple[int, ...]
    n_conv_per_stage_decoder: tuple[int, ...]
    residual_encoder: bool = False
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    batch_dice: bool
    data_identifier: str
    previous_stage: str | None = None
    estimate: int = 0
    reference: int = 0
    patch_reason: str = ""
    batch_reason: str = ""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of all strides, per axis; the patch is a multiple of it."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.spatial_dims))


def _check(c: Configuration) -> None:
    """The form of each entry first, for what comes later computes with them."""
    _check_names(c)
    _check_sizes(c)
    _check_stages(c)
    _check_limits(c)
    _check_channels(c)


def _fail(c: Configuration, key: str, reason: str) -> NoReturn:
    raise PlanError(f"configurations.{c.name}.{key} = {getattr(c, key)}: {reason}")


def _check_names(c: Configuration) -> None:
    if fault := name_fault(c.name):
        _fail(c, "name", f"expected a plain name; {fault}.")
    if "${" in c.name or c.name == "???":
        _fail(c, "name", "expected a plain name; configs would take this for something to be filled in.")
    if fault := name_fault(c.data_identifier):
        _fail(c, "data_identifier", f"expected the name of a folder; {fault}.")


def _check_sizes(c: Configuration) -> None:
    dims = len(c.patch_size)
    if dims not in (2, 3) or not all(map(_positive, c.patch_size)):
        _fail(c, "patch_size", "expected 2 or 3 whole numbers > 0.")
    if not _positive(c.batch_size):
        _fail(c, "batch_size", "expected a whole number > 0.")
    for key in ("spacing", "median_shape"):
        value = getattr(c, key)
        if len(value) != dims or not all(math.isfinite(entry) and entry > 0 for entry in value):
            _fail(c, key, f"expected {dims} numbers > 0, one per axis of patch_size {c.patch_size}.")


def _check_stages(c: Configuration) -> None:
    dims, stages = len(c.patch_size), len(c.strides)
    if stages < 1:
        _fail(c, "strides", "expected at least one stage.")
    for key in ("strides", "kernel_sizes"):
        value = getattr(c, key)
        if len(value) != stages or any(len(e) != dims or not all(map(_positive, e)) for e in value):
            _fail(c, key, f"expected {stages} stages (as in strides) of {dims} whole numbers > 0 each.")
    if any(size % 2 == 0 for kernel in c.kernel_sizes for size in kernel):
        _fail(c, "kernel_sizes", "expected odd sizes.")
    lengths = {"features_per_stage": stages, "n_conv_per_stage": stages, "n_conv_per_stage_decoder": stages - 1}
    for key, length in lengths.items():
        value = getattr(c, key)
        if len(value) != length or not all(map(_positive, value)):
            _fail(c, key, f"expected {length} whole numbers > 0 for {stages} stages.")
    total = c.total_stride
    if any(size % step for size, step in zip(c.patch_size, total, strict=True)):
        fits = tuple(max(1, round(size / step)) * step for size, step in zip(c.patch_size, total, strict=True))
        _fail(c, "patch_size", f"expected multiples of the total strides {total}, such as {fits}.")


def _check_limits(c: Configuration) -> None:
    voxels = math.prod(c.patch_size)
    if len(c.strides) > _MAX_STAGES:
        _fail(c, "strides", f"expected at most {_MAX_STAGES} stages.")
    if voxels > _MAX_PATCH:
        _fail(c, "patch_size", f"expected at most {_MAX_PATCH} voxels.")
    if voxels * c.batch_size > _MAX_BATCH:
        _fail(c, "batch_size", f"expected at most {_MAX_BATCH} voxels in a batch.")
    for key, most in _MAX.items():
        if _largest(getattr(c, key)) > most:
            _fail(c, key, f"expected at most {most}.")


def _check_channels(c: Configuration) -> None:
    unknown = sorted(set(c.normalization) - SCHEMES.keys())
    if unknown:
        _fail(c, "normalization", f"unknown {unknown}; allowed are {sorted(SCHEMES)}.")
    if len(c.use_mask_for_norm) != len(c.normalization):
        _fail(c, "use_mask_for_norm", f"expected one entry per channel, as in normalization ({len(c.normalization)}).")


def _largest(value: tuple[Any, ...] | int) -> int:
    """The largest number in nested tuples; 0 in an empty one."""
    return max(map(_largest, value), default=0) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def build(kind: type, content: object, where: str) -> Any:
    """Make a dataclass from plain data; a wrong or missing key is named together with the right ones."""
    if not isinstance(content, dict):
        raise PlanError(f"{where} must be an object, it is {content!r}.")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(content.keys() - fields.keys())
    if unknown:
        raise PlanError(f"{where} has unknown keys {unknown}; allowed are {sorted(fields)}.")
    needed = {
        name
        for name, entry in fields.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - content.keys())
    if missing:
        raise PlanError(f"{where} lacks {missing}.")
    frozen = {key: value if key == "configurations" else _freeze_entry(value) for key, value in content.items()}
    for key, hint in get_type_hints(kind).items():
        if key in frozen and not has_type(frozen[key], hint):
            raise PlanError(f"{where}.{key} = {content[key]!r:.200}: expected {describe(hint)}.")
    return kind(**frozen)


def _freeze_entry(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return _frozen(value)


def inherit(name: str, entries: dict[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entry of a configuration with everything it inherits filled in.

    Raises:
        PlanError: it inherits from itself or from what is not there, or an entry is no object with its key as name.
    """
    if name in seen:
        raise PlanError(f"configurations.{seen[0]} inherits from itself: {' -> '.join((*seen, name))}.")
    if name not in entries:
        raise PlanError(f"configurations.{seen[-1]}.inherits_from is {name!r}; there are {', '.join(entries)}.")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise PlanError(f"configurations.{name} must be an object, it is {entry!r}.")
    parent = entry.get("inherits_from")
    if not isinstance(parent, (str, type(None))):
        raise PlanError(f"configurations.{name}.inherits_from is {parent!r:.200}; expected a name.")
    own = {key: value for key, value in entry.items() if key != "inherits_from"}
    if own.get("name", name) != name:
        raise PlanError(f"configurations.{name}.name is {own['name']!r:.200}; it must be its key.")
    inherited = inherit(parent, entries, (*seen, name)) if parent is not None else {}
    return {**inherited, **own, "name": name}
