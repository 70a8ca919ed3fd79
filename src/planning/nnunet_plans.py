"""Reading an nnUNetPlans.json as a plan, so that a data set planned by nnU-Net trains here with the same configuration.

Two schemas: up to nnunetv2 2.3 a configuration holds pool_op_kernel_sizes and conv_kernel_sizes itself, from 2.4 on
they are arguments under "architecture".
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from umamba.files import load_json
from umamba.planning.configuration import Configuration, PlanError, inherit
from umamba.planning.intensities import Intensities
from umamba.planning.plan import Plan, said_by
from umamba.raw.description import READERS, DatasetDescription

log = logging.getLogger(__name__)

RESAMPLING = {
    "resampling_fn_data": ("resample_data_or_seg_to_shape", {"is_seg": False, "order": 3}),
    "resampling_fn_seg": ("resample_data_or_seg_to_shape", {"is_seg": True, "order": 1}),
    "resampling_fn_probabilities": ("resample_data_or_seg_to_shape", {"is_seg": False, "order": 1}),
}
SHARED_KWARGS = {"order_z": 0, "force_separate_z": None}

_INTENSITIES = (  # today's name, and the first one, which nnunetv2 reads too
    "foreground_intensity_properties_per_channel",
    "foreground_intensity_properties_by_modality",
)

# What is not read but has to be so: other label managers do what is not done here.
_TOP = {"label_manager": ("LabelManager",)}
_TOP_KEYS = {
    "dataset_name", "plans_name", "original_median_spacing_after_transp", "original_median_shape_after_transp",
    "image_reader_writer", "transpose_forward", "transpose_backward", "configurations", "experiment_planner_used",
    "label_manager", *_INTENSITIES,
}  # fmt: skip
_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
_KNOWN = {
    "inherits_from", "name", "data_identifier", "preprocessor_name", "batch_size", "patch_size", "spacing",
    "median_image_size_in_voxels", "normalization_schemes", "use_mask_for_norm", "batch_dice", "architecture",
    "previous_stage", "next_stage", "UNet_class_name", "UNet_base_num_features", "unet_max_num_features",
    "n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "num_pool_per_axis", "pool_op_kernel_sizes",
    "conv_kernel_sizes", *RESAMPLING, *(f"{key}_kwargs" for key in RESAMPLING),
}  # fmt: skip
_OLDER = {
    "UNet_class_name", "UNet_base_num_features", "unet_max_num_features", "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder", "num_pool_per_axis", "pool_op_kernel_sizes", "conv_kernel_sizes",
}  # fmt: skip
# Arguments of the network: the values that are built here, or None where the plan's is followed.
_ARGUMENTS: dict[str, tuple[Any, ...] | None] = {
    "n_stages": None, "features_per_stage": None, "kernel_sizes": None, "strides": None, "n_conv_per_stage": None,
    "n_blocks_per_stage": None, "n_conv_per_stage_decoder": None,
    "conv_op": ("torch.nn.modules.conv.Conv2d", "torch.nn.modules.conv.Conv3d"), "conv_bias": (True,),
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm2d", "torch.nn.modules.instancenorm.InstanceNorm3d"),
    "norm_op_kwargs": ({"eps": 1e-05, "affine": True},), "dropout_op": (None,), "dropout_op_kwargs": (None, {}),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "nonlin_kwargs": ({"inplace": True}, {"inplace": True, "negative_slope": 0.01}),
}  # fmt: skip


def load_plan(path: Path | str, description: DatasetDescription) -> Plan:
    """Read a plan file of either kind: a plan.json of ours or an nnUNetPlans.json.

    Args:
        path: The file.
        description: What dataset.json says; nnU-Net's plans do not hold channels and labels.

    Raises:
        FileNotFoundError: There is no such file.
        PlanError: The file is neither, contradicts itself, or asks for what this project does not do.
    """
    path = Path(path)
    return plan_of(read_plan_file(path), description, path)


def plan_of(content: Any, description: DatasetDescription, path: Path) -> Plan:
    """As `load_plan`, of the content of a file, which messages name (else PlanError)."""
    return plan_of_nnunet(content, description, path) if is_of_nnunet(content) else Plan.of(content, path)


def plan_of_nnunet(content: dict[str, Any], description: DatasetDescription, path: Path) -> Plan:
    """As `plan_from_nnunet`, of a content that may be of any form; `path` is named in the message (else PlanError)."""
    try:
        return plan_from_nnunet(content, description)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{path} is no nnUNetPlans.json that can be read: {type(error).__name__} {error}.") from error


def read_plan_file(path: Path) -> Any:
    """The content of a plan file of either kind, as plain data.

    Raises:
        FileNotFoundError: There is no such file.
        PlanError: It is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no plan at {path}.")
    return load_json(path, PlanError)


def is_of_nnunet(content: Any) -> bool:
    """Whether the content of a plan file is an nnUNetPlans.json."""
    return isinstance(content, dict) and "plans_name" in content


def intensities_in(content: dict[str, Any]) -> Any:
    """The channels' intensities of an nnUNetPlans.json, under the name that nnunetv2 would read; None without any."""
    return next((content[key] for key in _INTENSITIES if key in content), None)


def plan_from_nnunet(content: dict[str, Any], description: DatasetDescription) -> Plan:
    """Turn the content of an nnUNetPlans.json into a plan.

    Raises:
        PlanError: It asks for a resampling or a preprocessor other than nnU-Net's default.
    """
    unknown = sorted(content.keys() - _TOP_KEYS)
    if unknown:
        raise PlanError(f"It has the keys {unknown}, which are not known here and would do nothing.")
    for key, allowed in {**_TOP, "image_reader_writer": READERS}.items():
        if key in content and content[key] not in allowed:
            raise PlanError(f"{key} is {content[key]!r:.200}; only {', '.join(allowed)} can be followed.")
    forward = _axes(content["transpose_forward"])
    entries = content["configurations"]
    configurations = {name: _configuration(name, inherit(name, entries)) for name in entries}
    newer = any("architecture" in entry for entry in entries.values())
    return Plan(
        dataset_name=str(content["dataset_name"]),
        **said_by(description),
        rule="2.8" if newer else "2.1",
        preset="nnunet",
        memory_gb=None,
        base_features=next(iter(configurations.values())).features_per_stage[0],
        num_training=description.num_training,
        transpose_forward=forward,
        transpose_backward=_axes(content["transpose_backward"]),
        intensities=Intensities.per_channel(intensities_in(content) or content[_INTENSITIES[0]]),
        original_median_spacing=_back(content["original_median_spacing_after_transp"], forward),
        original_median_shape=_back(content["original_median_shape_after_transp"], forward),
        configurations=configurations,
    )


def _configuration(name: str, entry: dict[str, Any]) -> Configuration:
    _check_defaults(name, entry)
    if "architecture" in entry:
        arguments = entry["architecture"]["arch_kwargs"]
        strides, kernels = arguments["strides"], arguments["kernel_sizes"]
        features = arguments["features_per_stage"]
        residual = "n_blocks_per_stage" in arguments
        encoder = arguments["n_blocks_per_stage" if residual else "n_conv_per_stage"]
        decoder = arguments["n_conv_per_stage_decoder"]
        _check_architecture(name, entry)
    else:
        strides, kernels = entry["pool_op_kernel_sizes"], entry["conv_kernel_sizes"]
        base, largest = entry["UNet_base_num_features"], entry["unet_max_num_features"]
        features = [min(largest, base * 2**stage) for stage in range(len(strides))]
        residual = entry["UNet_class_name"] == "ResidualEncoderUNet"
        encoder, decoder = entry["n_conv_per_stage_encoder"], entry["n_conv_per_stage_decoder"]
        halved = [sum(int(step) > 1 for step in axis) for axis in zip(*strides, strict=True)]
        if entry.get("num_pool_per_axis", halved) != halved:
            raise PlanError(
                f"configurations.{name}.num_pool_per_axis is {entry['num_pool_per_axis']!r:.100}; pool_op_kernel_sizes "
                f"halve the axes {halved} times."
            )
    return Configuration(
        name=name,
        patch_size=tuple(int(size) for size in entry["patch_size"]),
        batch_size=int(entry["batch_size"]),
        spacing=tuple(float(value) for value in entry["spacing"]),
        median_shape=tuple(float(value) for value in entry["median_image_size_in_voxels"]),
        strides=tuple(tuple(int(step) for step in stage) for stage in strides),
        kernel_sizes=tuple(tuple(int(size) for size in stage) for stage in kernels),
        features_per_stage=tuple(int(count) for count in features),
        n_conv_per_stage=tuple(int(count) for count in encoder),
        n_conv_per_stage_decoder=tuple(int(count) for count in decoder),
        residual_encoder=residual,
        normalization=tuple(entry["normalization_schemes"]),
        use_mask_for_norm=tuple(bool(flag) for flag in entry["use_mask_for_norm"]),
        batch_dice=bool(entry["batch_dice"]),
        data_identifier=str(entry["data_identifier"]),
        previous_stage=entry.get("previous_stage"),
        patch_reason="as planned by nnU-Net",
        batch_reason="as planned by nnU-Net",
    )


def _check_defaults(name: str, entry: dict[str, Any]) -> None:
    """Refuse what would be preprocessed or built differently here than in nnU-Net."""
    unknown = sorted(entry.keys() - _KNOWN)
    if unknown:
        raise PlanError(f"configurations.{name} has the keys {unknown}, which are not known here and would do nothing.")
    architecture = entry.get("architecture", {"network_class_name": entry.get("UNet_class_name", _NETWORKS[0])})
    unknown = sorted(architecture.keys() - {"network_class_name", "arch_kwargs", "_kw_requires_import"})
    if unknown:
        raise PlanError(f"configurations.{name}.architecture has the keys {unknown}, which are not known here.")
    network = str(architecture["network_class_name"]).rpartition(".")[2]
    if network not in _NETWORKS:
        raise PlanError(f"configurations.{name} was planned for {network}; only {', '.join(_NETWORKS)} are built here.")
    for key, value in architecture.get("arch_kwargs", {}).items():
        allowed = _ARGUMENTS.get(key, ())
        if allowed is not None and value not in allowed:
            raise PlanError(
                f"configurations.{name}.architecture.arch_kwargs.{key} is {value!r:.200}; "
                f"{f'only {allowed[0]!r} is built here' if allowed else 'it is not known here'}."
            )
    preprocessor = entry.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise PlanError(
            f"configurations.{name}.preprocessor_name is {preprocessor!r}; only DefaultPreprocessor is supported."
        )
    for key, (function, kwargs) in RESAMPLING.items():
        found = entry.get(f"{key}_kwargs", {})
        expected = {**kwargs, **SHARED_KWARGS}
        other = {k: v for k, v in found.items() if k not in expected or expected[k] != v}
        if entry.get(key, function) != function or other:
            raise PlanError(
                f"configurations.{name}.{key} is {entry.get(key)!r} with {found}; only nnU-Net's default, "
                f"{function!r} with {expected}, is supported."
            )


def _check_architecture(name: str, entry: dict[str, Any]) -> None:
    """Refuse what contradicts itself in the newer schema."""
    where, arguments = f"configurations.{name}", entry["architecture"]["arch_kwargs"]
    dims, stages = len(entry["patch_size"]), len(arguments["strides"])
    if older := sorted(entry.keys() & _OLDER):
        raise PlanError(f"{where} has {older} beside architecture, which decides instead. Remove them.")
    if arguments.get("n_stages", stages) != stages:
        raise PlanError(
            f"{where}.architecture.arch_kwargs.n_stages is {arguments['n_stages']!r:.100}; there are strides of "
            f"{stages}."
        )
    for key in ("conv_op", "norm_op"):
        if not str(arguments.get(key, f"{dims}d")).endswith(f"{dims}d"):
            raise PlanError(
                f"{where}.architecture.arch_kwargs.{key} is {arguments[key]!r:.200}, but the patch has {dims} axes."
            )


def _axes(values: list[int]) -> tuple[int, int, int]:
    z, y, x = values
    return int(z), int(y), int(x)


def _back(values: list[float], forward: tuple[int, int, int]) -> tuple[float, float, float]:
    """Undo the transpose of per-axis values."""
    z, y, x = (float(values[forward.index(axis)]) for axis in range(3))
    return z, y, x
