"""The plan: everything that is decided about a data set before training, as frozen plain data with a JSON form.

The plan owns patch, batch, spacing, strides, kernels, normalisation and classes; configs and checkpoints point at it. A
configuration in the JSON file may hold ``"inherits_from": "<other configuration>"`` and only what differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from umamba.files import content_hash, load_json, write_json
from umamba.plain import mapped
from umamba.planning.cascade import why_none
from umamba.planning.configuration import Configuration, PlanError, build, inherit
from umamba.planning.intensities import Intensities
from umamba.planning.options import RULES
from umamba.raw.description import PICTURE_ENDINGS, VOLUME_ENDINGS, DatasetDescription, foreground_of
from umamba.raw.regions import Region, region_fault

# Beyond any data set; a plan may come from anybody
_MAX_CHANNELS, _MAX_CLASSES = 1_024, 4_096


def said_by(given: DatasetDescription | Plan) -> dict[str, Any]:
    """What a dataset.json, and a plan after it, says of the data set itself, by its names in both."""
    names = ("channel_names", "labels", "regions", "ignore_label", "file_ending")
    return {name: getattr(given, name) for name in names}


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
        labels: Class name -> value, background included; of a data set with regions the background alone.
        regions: In the order of the network's outputs, see `umamba.raw.regions`; empty where classes are exclusive.
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
    regions: tuple[Region, ...] = ()
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
        _check(self)

    @property
    def num_classes(self) -> int:
        """Output channels of a network: classes with the background, or regions, which have no background."""
        return len(self.regions) or len(self.labels)

    @property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """What is segmented and scored: name -> label values, in the order of the outputs."""
        return foreground_of(dict(sorted(self.labels.items(), key=lambda item: item[1])), self.regions)

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """Values above 0 that a predicted label map may have, ascending; without the ignore label."""
        return tuple(sorted({value for values in self.foreground.values() for value in values}))

    def configuration(self, name: str) -> Configuration:
        """The configuration of a name.

        Args:
            name: Such as "2d" or "3d_fullres".

        Raises:
            ValueError: The plan has none of that name; the message lists those it has.
        """
        if name not in self.configurations:
            raise ValueError(
                f"The plan of {self.dataset_name} has no configuration {name!r}; it has "
                f"{', '.join(self.configurations)}.{why_none(self.configurations, name)}"
            )
        return self.configurations[name]

    def num_inputs(self, name: str) -> int:
        """Input channels of a configuration's network: the image's, and of a cascade one for each foreground label."""
        cascaded = self.configurations[name].previous_stage is not None
        return len(self.channel_names) + (len(self.foreground_labels) if cascaded else 0)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data (dict, list, str, int, float, bool, None), as in plan.json and in checkpoints."""
        content = mapped(dataclasses.asdict(self))
        return content | {
            "regions": content["regions"] or {}
        }  # as ever without any: hashes of plans stay what they are

    def trained_part(self, name: str) -> dict[str, Any]:
        """`to_dict` with one configuration alone: what a training with it follows, whatever others a plan gets."""
        content = self.to_dict()
        return content | {"configurations": {name: content["configurations"].get(name)}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build a plan from plain data, resolving ``inherits_from``.

        Raises:
            PlanError: A key is missing or unknown, or values contradict each other.
        """
        if not isinstance(content, Mapping):
            raise PlanError(f"A plan is an object of named values, not {content!r:.200}.")
        try:
            return cls._from_dict(dict(content))
        except RecursionError as error:
            raise PlanError("A list of the plan contains itself.") from error

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> Self:
        entries = content.pop("configurations", None)
        if not isinstance(entries, dict) or not entries:
            raise PlanError("A plan needs configurations, an object with one entry per configuration.")
        configurations = {
            name: build(Configuration, inherit(name, entries), f"configurations.{name}") for name in entries
        }
        intensities = content.pop("intensities", ())
        if not isinstance(intensities, (list, tuple)):
            raise PlanError(f"plan.intensities = {intensities!r:.200}: expected a list with an entry per channel.")
        statistics = tuple(build(Intensities, entry, f"intensities[{i}]") for i, entry in enumerate(intensities))
        listed = content.pop("regions", None) or ()
        if not isinstance(listed, (list, tuple)):
            raise PlanError(
                f"plan.regions = {listed!r:.200}: expected a list with an entry per region (name, labels, written). A "
                "plan of an earlier version has none that can be trained: delete it to plan anew."
            )
        regions = tuple(build(Region, entry, f"regions[{i}]") for i, entry in enumerate(listed))
        made = {"intensities": statistics, "regions": regions, "configurations": configurations}
        return build(cls, {**content, **made}, "plan")

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
            raise FileNotFoundError(f"There is no plan at {path}. Make one with: python -m umamba.planning data=<name>")
        return cls.of(load_json(path, PlanError), path)

    @classmethod
    def of(cls, content: Any, path: Path) -> Self:
        """As `from_dict`, of the content of a file, which messages name (else PlanError)."""
        try:
            return cls.from_dict(content)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error

    def hash(self) -> str:
        """Hexadecimal SHA-256 of the plan's content (first 16 digits): equal plans have equal hashes."""
        return content_hash(self.to_dict())


def _check(plan: Plan) -> None:
    if plan.rule not in RULES:
        raise PlanError(f"rule = {plan.rule!r:.200}: expected one of {', '.join(RULES)}.")
    endings = VOLUME_ENDINGS + PICTURE_ENDINGS
    if plan.file_ending not in endings:
        raise PlanError(f"file_ending = {plan.file_ending!r:.200}: expected one of {', '.join(endings)}.")
    if sorted(plan.transpose_forward) != [0, 1, 2]:
        raise PlanError(f"transpose_forward = {plan.transpose_forward}: expected an order of the axes 0, 1, 2.")
    if any(plan.transpose_backward[axis] != i for i, axis in enumerate(plan.transpose_forward)):
        raise PlanError(f"transpose_backward = {plan.transpose_backward} does not undo {plan.transpose_forward}.")
    _check_classes(plan)
    _check_channels(plan)
    _check_configurations(plan)


def _check_classes(plan: Plan) -> None:
    if len(plan.labels) > _MAX_CLASSES:
        raise PlanError(f"labels has {len(plan.labels)} entries; expected at most {_MAX_CLASSES}.")
    if plan.labels.get("background", 0) != 0:
        raise PlanError(f"labels = {plan.labels!r:.200}: expected background to be 0.")
    if plan.regions and plan.labels != {"background": 0}:
        raise PlanError(f"labels = {plan.labels!r:.200}: expected the background alone beside regions.")
    if max(len(plan.regions), *(len(region.labels) for region in plan.regions), 0) > _MAX_CLASSES:
        raise PlanError(f"regions: expected at most {_MAX_CLASSES}, of at most as many labels each.")
    if fault := region_fault(plan.regions):
        raise PlanError(f"regions: {fault}.")
    if sorted(plan.labels.values()) != list(range(len(plan.labels))):
        raise PlanError(f"labels = {plan.labels!r:.200}: expected the values 0, 1, 2, ... without a gap.")


def _check_channels(plan: Plan) -> None:
    channels, configurations = len(plan.channel_names), plan.configurations.values()
    if not 1 <= channels <= _MAX_CHANNELS:
        raise PlanError(f"channel_names has {channels} entries; expected 1 to {_MAX_CHANNELS}.")
    if len(plan.intensities) != channels:
        raise PlanError(
            f"intensities has {len(plan.intensities)} entries for {channels} channels {plan.channel_names}."
        )
    for entry in configurations:
        if len(entry.normalization) != channels:
            raise PlanError(
                f"configurations.{entry.name}.normalization has {len(entry.normalization)} entries for {channels} "
                "channels."
            )
    for channel, statistics in enumerate(plan.intensities):
        clips = any(entry.normalization[channel] == "CTNormalization" for entry in configurations)
        if fault := statistics.fault(clips=clips):
            raise PlanError(f"intensities[{channel}]: {fault}.")


def _check_configurations(plan: Plan) -> None:
    stores: dict[str, Configuration] = {}
    for name, entry in plan.configurations.items():
        if name != entry.name:
            raise PlanError(f"configurations.{name}.name is {entry.name!r}; it must be its key.")
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
