"""The plan: everything that is decided about a data set before training, as frozen plain data with a JSON form.

The plan owns patch, batch, spacing, strides, kernels, normalisation and classes; configs and checkpoints point at it. A
configuration in the JSON file may hold ``"inherits_from": "<other configuration>"`` and only what differs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_type_hints

from src.files import content_hash, write_json
from src.planning.plan_checks import PlanError, check_configuration, check_plan
from src.planning.typed import describe, has_type


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Statistics of one channel's foreground voxels over the training set."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


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
        normalization: One scheme per channel, see `src.planning.normalization`.
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
        check_configuration(self)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of all strides, per axis; the patch is a multiple of it."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.spatial_dims))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a data set.

    Attributes:
        dataset_name: Name in dataset.json.
        rule: nnU-Net's rule for the patch size, "2.1" or "2.8".
        preset: "default", "resenc_m", "resenc_l", "resenc_xl", or "nnunet" for a plan read from nnU-Net's own file.
        memory_gb: GPU memory the patch was planned for, in GB as nnU-Net counts it; None if unknown.
        base_features: Channels of the first stage.
        channel_names: Per input channel.
        labels: Class name -> value, background included.
        regions: Region name -> label values, of region-based data sets.
        ignore_label: Value that loss and metrics leave out, or None.
        file_ending: Of images and labels.
        num_training: Training cases the plan was made from.
        transpose_forward: Order in which the image's (z, y, x) axes are stored.
        transpose_backward: The order that undoes it.
        intensities: Foreground statistics per channel.
        original_median_spacing: Of the training cases in mm, axes as in the files.
        original_median_shape: Of the training cases after cropping to non-zero.
        configurations: By name.
    """

    dataset_name: str
    rule: str
    preset: str
    memory_gb: float | None
    base_features: int
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignore_label: int | None = None
    file_ending: str
    num_training: int
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    intensities: tuple[Intensities, ...]
    original_median_spacing: tuple[float, float, float]
    original_median_shape: tuple[float, float, float]
    configurations: dict[str, Configuration]

    def __post_init__(self) -> None:
        check_plan(self)

    @property
    def num_classes(self) -> int:
        """Output channels of a network, background included.

        Raises:
            ValueError: The labels are regions, which can be planned but not trained on.
        """
        if self.regions:
            raise ValueError(
                f"{self.dataset_name} is a region-based data set (labels {sorted(self.regions)} are lists). It can "
                "be planned, but training needs exclusive classes: give every label in dataset.json one number."
            )
        return len(self.labels)

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name.

        Raises:
            ValueError: The plan has none of that name; the message lists those it has.
        """
        if name not in self.configurations:
            raise ValueError(
                f"The plan of {self.dataset_name} has no configuration {name!r}; it has "
                f"{', '.join(self.configurations)}."
            )
        return self.configurations[name]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data (dict, list, str, int, float, bool, None), as in plan.json and in checkpoints."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Build a plan from plain data, resolving ``inherits_from``.

        Raises:
            PlanError: A key is missing or unknown, or values contradict each other.
        """
        content = dict(content)
        entries = content.pop("configurations", None)
        if not isinstance(entries, dict) or not entries:
            raise PlanError("A plan needs configurations, an object with one entry per configuration.")
        configurations = {
            name: _build(Configuration, inherit(name, entries), f"configurations.{name}") for name in entries
        }
        intensities = content.pop("intensities", ())
        if not isinstance(intensities, (list, tuple)):
            raise PlanError(f"plan.intensities = {intensities!r:.200}: expected a list with an entry per channel.")
        statistics = tuple(_build(Intensities, entry, f"intensities[{i}]") for i, entry in enumerate(intensities))
        return _build(cls, {**content, "intensities": statistics, "configurations": configurations}, "plan")

    def save(self, path: Path | str) -> None:
        """Write plan.json: beside the target first, then moved into place."""
        write_json(self.to_dict(), Path(path))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a plan.json.

        Raises:
            FileNotFoundError: There is no such file.
            PlanError: The file is no plan or contradicts itself; the message names file and field.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no plan at {path}. Make one with: python -m src.planning data=<name>")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (PlanError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PlanError(f"{path}: {error}") from error

    def hash(self) -> str:
        """Hexadecimal SHA-256 of the plan's content (first 16 digits): equal plans have equal hashes."""
        return content_hash(self.to_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def _build(kind: type, content: object, where: str) -> Any:
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
    """The entry of a configuration with everything it inherits filled in."""
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
    inherited = inherit(parent, entries, (*seen, name)) if parent is not None else {}
    return {**inherited, **own, "name": name}
