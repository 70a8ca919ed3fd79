"""A plan as nnU-Net's two files, plans.json and dataset.json: the way back from `umamba.planning.nnunet_plans`.

Of the two schemas of plans the newer one names any features per stage; U-Mamba's code knows the older one alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from umamba.planning.configuration import Configuration, PlanError
from umamba.planning.nnunet_plans import RESAMPLING, SHARED_KWARGS
from umamba.planning.plan import Plan
from umamba.raw.description import PICTURE_ENDINGS

PLANS_NAME = "nnUNetPlans"
_CLASSES = {False: "PlainConvUNet", True: "ResidualEncoderUNet"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """What a network has, which the plan need not say.

    Attributes:
        residual: Whether its encoder is nnU-Net's residual one.
        encoder: Convolutions or residual blocks per encoder stage.
        decoder: Convolutions per decoder stage, lowest resolution first.
        older: Whether the older schema is wanted.
    """

    residual: bool
    encoder: Sequence[int]
    decoder: Sequence[int]
    older: bool = False


def plans_of(plan: Plan, name: str, built: Built) -> dict[str, Any]:
    """The content of a plans.json with one configuration.

    Raises:
        PlanError: The older schema cannot say the features per stage.
    """
    forward = plan.transpose_forward
    return {
        "dataset_name": plan.dataset_name,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": [plan.original_median_spacing[axis] for axis in forward],
        "original_median_shape_after_transp": [plan.original_median_shape[axis] for axis in forward],
        "image_reader_writer": _reader(plan),
        "transpose_forward": list(forward),
        "transpose_backward": list(plan.transpose_backward),
        "configurations": {name: _configuration(plan.configuration(name), built)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): dataclasses.asdict(statistics) for channel, statistics in enumerate(plan.intensities)
        },
    }


def dataset_json_of(plan: Plan, licence: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The content of a dataset.json."""
    labels: dict[str, Any] = dict(plan.labels)
    labels |= {region.name: list(region.labels) for region in plan.regions}
    if plan.ignore_label is not None:
        labels["ignore"] = plan.ignore_label
    order = {"regions_class_order": [region.written for region in plan.regions]} if plan.regions else {}
    named = {} if licence is None else {"licence": licence.get("identifier") or licence["text"]}
    return {
        "name": plan.dataset_name,
        "channel_names": {str(channel): name for channel, name in enumerate(plan.channel_names)},
        "labels": labels,
        **order,
        "numTraining": plan.num_training,
        "file_ending": plan.file_ending,
        **named,
    }


def _configuration(c: Configuration, built: Built) -> dict[str, Any]:
    resampling: dict[str, Any] = {}
    for key, (function, arguments) in RESAMPLING.items():
        resampling |= {key: function, f"{key}_kwargs": {**arguments, **SHARED_KWARGS}}
    return {
        "data_identifier": c.data_identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": c.batch_size,
        "patch_size": list(c.patch_size),
        "median_image_size_in_voxels": list(c.median_shape),
        "spacing": list(c.spacing),
        "normalization_schemes": list(c.normalization),
        "use_mask_for_norm": list(c.use_mask_for_norm),
        **resampling,
        "batch_dice": c.batch_dice,
        **(_older(c, built) if built.older else _newer(c, built)),
    }


def _newer(c: Configuration, built: Built) -> dict[str, Any]:
    dims = c.spatial_dims
    blocks = "n_blocks_per_stage" if built.residual else "n_conv_per_stage"
    return {
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{_CLASSES[built.residual]}",
            "arch_kwargs": {
                "n_stages": len(c.strides),
                "features_per_stage": list(c.features_per_stage),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [list(size) for size in c.kernel_sizes],
                "strides": [list(stride) for stride in c.strides],
                blocks: list(built.encoder),
                "n_conv_per_stage_decoder": list(built.decoder),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }


def _older(c: Configuration, built: Built) -> dict[str, Any]:
    base, largest = c.features_per_stage[0], max(c.features_per_stage)
    doubled = tuple(min(largest, base * 2**stage) for stage in range(len(c.strides)))
    if c.features_per_stage != doubled:
        raise PlanError(
            f"configurations.{c.name}.features_per_stage is {c.features_per_stage}; U-Mamba's code doubles them from "
            f"stage to stage up to the largest, which are {doubled}, and reads no others from a plan."
        )
    return {
        "UNet_class_name": _CLASSES[built.residual],
        "UNet_base_num_features": base,
        "n_conv_per_stage_encoder": list(built.encoder),
        "n_conv_per_stage_decoder": list(built.decoder),
        "num_pool_per_axis": [sum(step > 1 for step in axis) for axis in zip(*c.strides, strict=True)],
        "pool_op_kernel_sizes": [list(stride) for stride in c.strides],
        "conv_kernel_sizes": [list(size) for size in c.kernel_sizes],
        "unet_max_num_features": largest,
    }


def _reader(plan: Plan) -> str:
    """nnU-Net's reader; of TIFF files those of several pages are volumes."""
    if plan.file_ending not in PICTURE_ENDINGS:
        return "SimpleITKIO"
    volumes = plan.original_median_shape[0] > 1
    return "Tiff3DIO" if volumes or plan.file_ending == ".tiff" else "NaturalImage2DIO"
