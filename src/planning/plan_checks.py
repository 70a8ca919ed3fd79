"""What makes a plan contradict itself: the checks behind every edit of plan.json."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from src.names import name_fault
from src.planning.description import PICTURE_ENDINGS, VOLUME_ENDINGS
from src.planning.normalization import SCHEMES

if TYPE_CHECKING:
    from src.planning.plan import Configuration, Plan


# Beyond any published network; a plan may come from anybody, and these numbers decide what memory is asked for.
_MAX_PATCH, _MAX_BATCH = 2**28, 2**32  # voxels of a patch, and of a batch
_MAX_CHANNELS, _MAX_CLASSES = 1_024, 4_096
_MAX = {"strides": 64, "kernel_sizes": 63, "features_per_stage": 8_192, "n_conv_per_stage": 64}
_MAX |= {"n_conv_per_stage_decoder": 64}
_MAX_STAGES = 16


class PlanError(ValueError):
    """A plan that contradicts itself or cannot be read; says which field, what came and what would fit."""


def check_configuration(c: Configuration) -> None:
    where = f"configurations.{c.name}"
    dims, stages = len(c.patch_size), len(c.strides)

    def fail(key: str, reason: str) -> None:
        raise PlanError(f"{where}.{key} = {getattr(c, key)}: {reason}")

    if dims not in (2, 3) or not all(_positive_int(size) for size in c.patch_size):
        fail("patch_size", "expected 2 or 3 whole numbers > 0.")
    if not _positive_int(c.batch_size):
        fail("batch_size", "expected a whole number > 0.")
    for key in ("spacing", "median_shape"):
        value = getattr(c, key)
        if len(value) != dims or not all(math.isfinite(entry) and entry > 0 for entry in value):
            fail(key, f"expected {dims} numbers > 0, one per axis of patch_size {c.patch_size}.")
    if stages < 1:
        fail("strides", "expected at least one stage.")
    for key in ("strides", "kernel_sizes"):
        value = getattr(c, key)
        if len(value) != stages or any(len(e) != dims or not all(map(_positive_int, e)) for e in value):
            fail(key, f"expected {stages} stages (as in strides) of {dims} whole numbers > 0 each.")
    if any(size % 2 == 0 for kernel in c.kernel_sizes for size in kernel):
        fail("kernel_sizes", "expected odd sizes.")
    for key, length in (
        ("features_per_stage", stages),
        ("n_conv_per_stage", stages),
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        value = getattr(c, key)
        if len(value) != length or not all(map(_positive_int, value)):
            fail(key, f"expected {length} whole numbers > 0 for {stages} stages.")
    if any(size % total for size, total in zip(c.patch_size, c.total_stride, strict=True)):
        fits = tuple(
            max(1, round(size / total)) * total for size, total in zip(c.patch_size, c.total_stride, strict=True)
        )
        fail("patch_size", f"expected multiples of the total strides {c.total_stride}, such as {fits}.")
    if stages > _MAX_STAGES:
        fail("strides", f"expected at most {_MAX_STAGES} stages.")
    if math.prod(c.patch_size) > _MAX_PATCH:
        fail("patch_size", f"expected at most {_MAX_PATCH} voxels.")
    if math.prod(c.patch_size) * c.batch_size > _MAX_BATCH:
        fail("batch_size", f"expected at most {_MAX_BATCH} voxels in a batch.")
    for key, most in _MAX.items():
        if _largest(getattr(c, key)) > most:
            fail(key, f"expected at most {most}.")
    if fault := name_fault(c.data_identifier):
        fail("data_identifier", f"expected the name of a folder; {fault}.")
    unknown = sorted(set(c.normalization) - SCHEMES.keys())
    if unknown:
        fail("normalization", f"unknown {unknown}; allowed are {sorted(SCHEMES)}.")
    if len(c.use_mask_for_norm) != len(c.normalization):
        fail("use_mask_for_norm", f"expected one entry per channel, as in normalization ({len(c.normalization)}).")


def check_plan(plan: Plan) -> None:
    channels = len(plan.channel_names)
    if not 1 <= channels <= _MAX_CHANNELS:
        raise PlanError(f"channel_names has {channels} entries; expected 1 to {_MAX_CHANNELS}.")
    if len(plan.labels) > _MAX_CLASSES:
        raise PlanError(f"labels has {len(plan.labels)} entries; expected at most {_MAX_CLASSES}.")
    if not plan.regions and sorted(plan.labels.values()) != list(range(len(plan.labels))):
        raise PlanError(f"labels = {plan.labels!r:.200}: expected the values 0, 1, 2, ... without a gap.")
    if plan.file_ending not in VOLUME_ENDINGS + PICTURE_ENDINGS:
        raise PlanError(
            f"file_ending = {plan.file_ending!r:.200}: expected one of {', '.join(VOLUME_ENDINGS + PICTURE_ENDINGS)}."
        )
    if len(plan.intensities) != channels:
        raise PlanError(
            f"intensities has {len(plan.intensities)} entries for {channels} channels {plan.channel_names}."
        )
    if sorted(plan.transpose_forward) != [0, 1, 2]:
        raise PlanError(f"transpose_forward = {plan.transpose_forward}: expected an order of the axes 0, 1, 2.")
    if any(plan.transpose_backward[axis] != i for i, axis in enumerate(plan.transpose_forward)):
        raise PlanError(f"transpose_backward = {plan.transpose_backward} does not undo {plan.transpose_forward}.")
    stores: dict[str, Configuration] = {}
    for name, entry in plan.configurations.items():
        if name != entry.name:
            raise PlanError(f"configurations.{name}.name is {entry.name!r}; it must be its key.")
        if len(entry.normalization) != channels:
            raise PlanError(
                f"configurations.{name}.normalization has {len(entry.normalization)} entries for {channels} channels."
            )
        if entry.previous_stage is not None and entry.previous_stage not in plan.configurations:
            raise PlanError(
                f"configurations.{name}.previous_stage = {entry.previous_stage!r} is no configuration of the plan."
            )
        other = stores.setdefault(entry.data_identifier, entry)
        for key in ("spacing", "normalization", "use_mask_for_norm"):
            if getattr(entry, key) != getattr(other, key):
                raise PlanError(
                    f"configurations.{name} and {other.name} share data_identifier {entry.data_identifier!r} but "
                    f"differ in {key} ({getattr(entry, key)} and {getattr(other, key)}). Give {name} a "
                    "data_identifier of its own."
                )


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _largest(value: object) -> int:
    """The largest number in nested tuples; 0 in an empty one."""
    return max(map(_largest, value), default=0) if isinstance(value, tuple) else value
