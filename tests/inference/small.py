"""A small plan, checkpoint and images for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from umamba.models.unet import PlainConvUNet
from umamba.planning.configuration import Configuration
from umamba.planning.intensities import Intensities
from umamba.planning.plan import Plan

MIRROR = {"_target_": "umamba.datamodules.augmentation.spatial.RandomMirror"}


def make_plan(
    channels: tuple[str, ...] = ("MR",),
    classes: int = 2,
    patch: tuple[int, ...] = (8, 8, 8),
    ending: str = ".nii.gz",
    forward: tuple[int, int, int] = (0, 1, 2),
) -> Plan:
    """Of 1 mm voxels, for a network of two stages."""
    dims = len(patch)
    name = "2d" if dims == 2 else "3d_fullres"
    configuration = Configuration(
        name=name,
        patch_size=patch,
        batch_size=2,
        spacing=(1.0,) * dims,
        median_shape=tuple(float(size) for size in patch),
        strides=((1,) * dims, (2,) * dims),
        kernel_sizes=((3,) * dims,) * 2,
        features_per_stage=(4, 8),
        n_conv_per_stage=(2, 2),
        n_conv_per_stage_decoder=(2,),
        normalization=("ZScoreNormalization",) * len(channels),
        use_mask_for_norm=(False,) * len(channels),
        batch_dice=False,
        data_identifier=name,
    )
    statistics = Intensities(
        mean=0.0, median=0.0, std=1.0, min=-1.0, max=1.0, percentile_00_5=-1.0, percentile_99_5=1.0
    )
    return Plan(
        dataset_name="Small",
        rule="2.1",
        preset="default",
        memory_gb=8.0,
        base_features=4,
        channel_names=channels,
        labels={"background": 0} | {f"class_{k}": k for k in range(1, classes)},
        file_ending=ending,
        num_training=1,
        transpose_forward=forward,
        transpose_backward=(forward.index(0), forward.index(1), forward.index(2)),
        intensities=(statistics,) * len(channels),
        original_median_spacing=(1.0, 1.0, 1.0),
        original_median_shape=(8.0, 8.0, 8.0),
        configurations={name: configuration},
    )


def save_checkpoint(path: Path, plan: Plan, *, config: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A checkpoint of an untrained network; ``config`` is added to what a training's config holds."""
    torch.manual_seed(seed)
    (configuration,) = plan.configurations.values()
    network = PlainConvUNet(
        spatial_dims=configuration.spatial_dims,
        in_channels=len(plan.channel_names),
        out_channels=plan.num_classes,
        features_per_stage=configuration.features_per_stage,
        kernel_sizes=configuration.kernel_sizes,
        strides=configuration.strides,
    )
    model = {
        "network": {"_target_": "umamba.models.unet.PlainConvUNet", "_partial_": True},
        "deep_supervision": True,
        "precision": None,
    }
    content = {
        "state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()},
        "plan": plan.to_dict(),
        "configuration": configuration.name,
        "config": {"model": model, "data": {"augmentation": {"mirror": MIRROR}}} | (config or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def write_image(path: Path, shape: tuple[int, ...] = (9, 10, 11), seed: int = 0, dtype: type = np.float32) -> Path:
    """Noise as a volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise: np.ndarray = np.random.default_rng(seed).uniform(1, 100, shape).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(noise), path)
    return path


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
