"""What the augmentation's kernels get wrong on a device: compared with torch's operations before their first use."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from umamba.datamodules.augmentation.device.intensity import Brightness, Contrast, Gamma
from umamba.datamodules.augmentation.device.packing import Packer, Unpacker
from umamba.datamodules.augmentation.device.resolution import Blur, LowResolution
from umamba.datamodules.augmentation.device.spatial import Mirror, RotationScaling, settle
from umamba.datamodules.augmentation.device.stage import Batch, Stage
from umamba.datamodules.augmentation.intensity import RandomBrightness, RandomContrast, RandomGammaWithStatistics
from umamba.datamodules.augmentation.resolution import RandomChannelBlur, RandomLowResolution
from umamba.datamodules.augmentation.spatial import RandomMirror, RandomRotationScaling, rotation_matrix
from umamba.models.mamba.scan.selfcheck import random_tensor, relative_error

SAMPLES, CHANNELS = 2, 2
PATCHES = {"3D": (9, 21, 18), "anisotropic": (3, 24, 20), "2D": (40, 33)}
ALL = [1.25, 0.8]  # of both channels


def _stages(patch: tuple[int, ...]) -> dict[str, tuple[Stage, list[Any]]]:
    """By name, each stage and what was drawn for the samples."""
    angles = [0.4] if len(patch) == 2 or patch[0] == PATCHES["anisotropic"][0] else [0.4, -0.3, 0.2]
    turns = [0.9 * rotation_matrix(angles), None]
    stages: dict[str, tuple[Stage, list[Any]]] = {}
    for order in (1, 3):
        stages[f"rotation of order {order}"] = RotationScaling(RandomRotationScaling(patch, order=order)), turns
        zooms = [[0.7, None], [None, 0.5]]
        stages[f"low resolution of order {order}"] = LowResolution(RandomLowResolution(patch, order=order)), zooms
    stages["blur"] = Blur(RandomChannelBlur(rule="2.8")), [[None, [0.9] * len(patch)], [[0.6] * len(patch), None]]
    stages["brightness"] = Brightness(RandomBrightness()), [ALL, None]
    stages["contrast"] = Contrast(RandomContrast()), [None, ALL]
    stages["gamma"] = Gamma(RandomGammaWithStatistics()), [ALL, None]
    stages["inverted gamma"] = Gamma(RandomGammaWithStatistics(invert=True)), [None, ALL]
    stages["mirror"] = Mirror(RandomMirror()), [[len(patch) - 1], [0, 1]]
    return stages


def _batch(patch: tuple[int, ...], block: tuple[int, ...], device: torch.device) -> Batch:
    def labels(seed: int, *shape: int) -> Tensor:
        return (2 * random_tensor(shape, seed)).round().clamp(-1, 3).to(torch.int16).to(device)

    image, large = (
        random_tensor((n, CHANNELS, *size), seed).float().to(device)
        for seed, (n, size) in enumerate(((SAMPLES, patch), (1, block)))
    )
    return Batch(image, labels(2, SAMPLES, *patch), large, labels(3, 1, *block))


def relative_errors(device: torch.device, kind: str, variants: Collection[tuple] | None = None) -> dict[str, float]:
    """Relative error of each kernel's images and labels on `device`; labels have none.

    Args:
        device: A CUDA device, or a CPU for the interpreter.
        kind: Of the patch, of `PATCHES`.
        variants: Of the stages that are checked; None for all.
    """
    errors, patch = {}, PATCHES[kind]
    for name, (stage, drawn) in _stages(patch).items():
        if variants is not None and stage.variant not in variants:
            continue
        block = stage.transform.input_size if isinstance(stage, RotationScaling) else patch
        packer = Packer()
        packed = stage.pack(drawn, patch, packer)
        draws = packer.tensors()
        expected, got = (_batch(patch, block, place) for place in (torch.device("cpu"), device))
        stage.apply(expected, packed, Unpacker(draws))
        stage.launch(got, packed, Unpacker({key: tensor.to(device) for key, tensor in draws.items()}))
        errors[f"image of {name}, {kind}"] = relative_error(got.image, expected.image.double())
        errors[f"label of {name}, {kind}"] = relative_error(got.label, expected.label.double())
    batch = _batch(patch, patch, device)
    outside = batch.label < 0
    image, label = batch.image.clone(), batch.label.clamp(min=0)
    image[:, 1].masked_fill_(outside, 0)
    settle(batch, [1])
    for part, after, before in (("image", batch.image, image), ("label", batch.label, label)):
        errors[f"{part} beside the mask, {kind}"] = relative_error(after, before.double().cpu())
    return errors
