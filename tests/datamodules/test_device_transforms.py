"""The device's version of each transform gives, with the same draws, the patches of the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import ndimage as ndi

from umamba.datamodules.augmentation.device import spatial, stage
from umamba.datamodules.augmentation.device.chain import DeviceChain
from umamba.datamodules.augmentation.intensity import RandomBrightness, RandomContrast, RandomGammaWithStatistics
from umamba.datamodules.augmentation.resolution import RandomChannelBlur, RandomLowResolution
from umamba.datamodules.augmentation.spatial import RandomMirror, RandomRotationScaling

CPU = torch.device("cpu")
SAMPLES = 6
SHAPES = {  # patch, channels
    "3D": ((12, 14, 10), 1),
    "3D, three channels": ((9, 12, 11), 3),
    "anisotropic": ((4, 18, 16), 1),
    "one slice, four channels": ((1, 12, 10), 4),
    "2D": ((22, 20), 1),
    "2D, three channels": ((17, 33), 3),
}
Transforms = list[tio.Transform]
MAKERS: dict[str, Callable[[Sequence[int]], Transforms]] = {
    "rotation": lambda patch: [RandomRotationScaling(patch, rotation_p=1, scaling_p=0)],
    "scaling": lambda patch: [RandomRotationScaling(patch, rotation_p=0, scaling_p=1, scales=(0.6, 1.6))],
    "rotation and scaling, of some": lambda patch: [RandomRotationScaling(patch, rotation_p=0.4, scaling_p=0.4)],
    "linear rotation and scaling": lambda patch: [
        RandomRotationScaling(patch, rotation_p=1, scaling_p=1, order=1, image_padding=1.5)
    ],
    "blur 2.1": lambda patch: [RandomChannelBlur(p=0.8)],
    "blur 2.8": lambda patch: [RandomChannelBlur(p=0.8, rule="2.8")],
    "wide blur": lambda patch: [RandomChannelBlur((0, 4), channel_p=1, rule="2.8")],
    "brightness": lambda patch: [RandomBrightness(p=0.6)],
    "contrast": lambda patch: [RandomContrast(p=0.6)],
    "low resolution, cubic": lambda patch: [RandomLowResolution(patch, p=0.8)],
    "low resolution, linear": lambda patch: [RandomLowResolution(patch, p=0.8, order=1)],
    "very low resolution": lambda patch: [RandomLowResolution(patch, zooms=(0.01, 0.5))],
    "very low resolution, linear": lambda patch: [RandomLowResolution(patch, zooms=(0.01, 0.5), order=1)],
    "gamma": lambda patch: [RandomGammaWithStatistics(p=0.6)],
    "inverted gamma": lambda patch: [RandomGammaWithStatistics(p=0.6, invert=True)],
    "mirror": lambda patch: [RandomMirror()],
    "mirror of one axis": lambda patch: [RandomMirror(axes=[1])],
    "nothing drawn": lambda patch: [RandomRotationScaling(patch, rotation_p=0, scaling_p=0), RandomMirror(axis_p=0)],
}


def make_blocks(size: Sequence[int], channels: int, classes: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth images and labels, with a border that lies outside, a class absent here and there."""
    blocks = []
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        image = ndi.gaussian_filter(rng.normal(size=(channels, *size)), (0, *(0.8,) * len(size))).astype(np.float32)
        field = ndi.gaussian_filter(rng.normal(size=size), 2)
        label = np.digitize(field, np.quantile(field, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.int16)
        label[label == seed % classes] = 0
        label[..., :2] = -1
        blocks.append((torch.from_numpy(2 * image), torch.from_numpy(label)))
    return blocks


def on_cpu(transforms: Transforms, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What torchio makes of a block, before the rules for the mask."""
    flat = label.ndim == 2
    if flat:
        image, label = image[..., None], label[..., None]
    subject = tio.Subject(image=tio.ScalarImage(tensor=image.clone()), label=tio.LabelMap(tensor=label[None].clone()))
    for transform in transforms:
        subject = transform(subject)
    image, label = subject.image.data, subject.label.data[0]
    return (image[..., 0], label[..., 0]) if flat else (image, label)


def on_device(
    transforms: Transforms, blocks: list[tuple[torch.Tensor, torch.Tensor]], patch: Sequence[int], device: torch.device
) -> dict[str, torch.Tensor]:
    """The batch that the device's chain makes of the blocks; sample i drawn from seed i."""
    chain = DeviceChain(transforms, patch)
    samples = []
    for seed, (image, label) in enumerate(blocks):
        torch.manual_seed(seed)
        draws = chain.draw(len(image))
        if chain.turns and not chain.is_turned(draws):
            image, label = chain.cropped(image, label)
        samples.append({"image": image, "label": label, "draws": draws, "case": str(seed)})
    batch = chain.collate(samples)
    assert batch["case"] == [str(seed) for seed in range(len(blocks))]
    return chain.apply(batch["pending"].to(device))


def compare(transforms: Transforms, patch: Sequence[int], channels: int, device: torch.device = CPU) -> None:
    size = next((t.input_size for t in transforms if isinstance(t, RandomRotationScaling)), tuple(patch))
    blocks = make_blocks(size, channels)
    batch = on_device(transforms, blocks, patch, device)
    assert all(tensor.device.type == device.type for tensor in batch.values())
    assert batch["image"].dtype == torch.float32 and batch["label"].dtype == torch.int16
    assert batch["image"].is_contiguous() and batch["image"].shape == (SAMPLES, channels, *patch)
    for seed, (image, label) in enumerate(blocks):
        torch.manual_seed(seed)
        expected, expected_label = on_cpu(transforms, image, label)
        torch.testing.assert_close(batch["image"][seed].cpu(), expected, atol=1e-4, rtol=0)
        assert torch.equal(batch["label"][seed].cpu(), expected_label.clamp(min=0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAKERS)
def test_equals_the_transform(name: str, shape: str) -> None:
    patch, channels = SHAPES[shape]
    compare(MAKERS[name](patch), patch, channels)


@pytest.mark.parametrize("order", [1, 3])
def test_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    for module in (stage, spatial):
        monkeypatch.setattr(module, "MOST_ELEMENTS", 5000)
    for patch, channels in SHAPES.values():
        compare([RandomRotationScaling(patch, rotation_p=1, order=order), RandomChannelBlur(),
                 RandomLowResolution(patch, order=order)], patch, channels)  # fmt: skip
