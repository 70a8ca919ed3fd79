"""A list of transforms shared out between workers and device: what cannot be done on the device comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import default_collate

from umamba.datamodules.augmentation.device.intensity import Brightness, Contrast, Gamma, Noise
from umamba.datamodules.augmentation.device.kernels.choice import MOST_CHANNELS, MOST_VOXELS, kernels_usable
from umamba.datamodules.augmentation.device.packing import Packer, Parcel, Unpacker, new_memory
from umamba.datamodules.augmentation.device.resolution import Blur, LowResolution
from umamba.datamodules.augmentation.device.ring import Place, Ring
from umamba.datamodules.augmentation.device.spatial import Mirror, RotationScaling, settle
from umamba.datamodules.augmentation.device.stage import Batch, Stage
from umamba.datamodules.augmentation.intensity import RandomBrightness, RandomContrast, RandomGammaWithStatistics
from umamba.datamodules.augmentation.resampling import centre_crop
from umamba.datamodules.augmentation.resolution import RandomChannelBlur, RandomLowResolution
from umamba.datamodules.augmentation.spatial import RandomMirror, RandomRotationScaling, is_anisotropic

STAGES: dict[type[tio.Transform], Callable[[Any], Stage]] = {
    RandomRotationScaling: RotationScaling,
    tio.RandomNoise: Noise,
    RandomChannelBlur: Blur,
    RandomBrightness: Brightness,
    RandomContrast: Contrast,
    RandomLowResolution: LowResolution,
    RandomGammaWithStatistics: Gamma,
    RandomMirror: Mirror,
}


def has_stage(transform: tio.Transform, patch_size: Sequence[int]) -> bool:
    """Whether a transform can be done on the device: one of those above itself, for all images and for this patch."""
    plain = transform.include is None and not transform.exclude and transform.keep is None
    return type(transform) in STAGES and plain and getattr(transform, "patch_size", patch_size) == tuple(patch_size)


class PendingBatch:
    """A batch of patches as the workers hand it over, with the draws of what remains to be done.

    It is no dict, so that nothing on the way changes the type of a tensor in it.

    Args:
        parcel: All that goes to the device.
        memory: Where that is, uint8; or its place in memory that workers share with the GPU.
        steps: For each stage that changes something its number and what it has packed; None of a finished batch.
    """

    def __init__(self, parcel: Parcel, memory: Tensor | Place, steps: list[tuple[int, Any]] | None) -> None:
        self.parcel, self.memory, self.steps = parcel, memory, steps

    def pin_memory(self) -> PendingBatch:
        """As the loader calls it, so that the copy to the device need not be waited for."""
        return self if isinstance(self.memory, Place) else self._at(self.memory.pin_memory())

    def to(self, device: torch.device) -> PendingBatch:
        """On the device, without waiting for it."""
        if isinstance(self.memory, Place):
            return self._at(self.memory.fetch(device))
        return self._at(self.memory.to(device, non_blocking=True))

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by name.

        Raises:
            TypeError: It lies in memory that workers share with the GPU, and must be moved to a device first.
        """
        if isinstance(self.memory, Place):
            raise TypeError("This batch lies in the loader's memory; move it to a device first.")
        return self.parcel.tensors(self.memory)

    def _at(self, memory: Tensor) -> PendingBatch:
        return PendingBatch(self.parcel, memory, self.steps)


class DeviceChain:
    """Draws in workers, applies on the device.

    All up to the last transform without a version for the device, and all before the last rotation, stays in the
    workers, in its order: `in_worker`. The others follow on the device: `stages`.

    Args:
        transforms: The augmentation, in order.
        patch_size: Spatial shape of the patches that the network gets.
        masked_channels: Where data outside of the image are 0.
    """

    def __init__(
        self, transforms: Sequence[tio.Transform], patch_size: Sequence[int], masked_channels: Sequence[int] = ()
    ) -> None:
        self.patch_size = tuple(patch_size)
        self.masked_channels = tuple(masked_channels)
        self.without_stage = tuple(t for t in transforms if not has_stage(t, self.patch_size))
        last = max((i for i, transform in enumerate(transforms) if transform in self.without_stage), default=-1)
        turns = [i for i, transform in enumerate(transforms) if isinstance(transform, RandomRotationScaling)]
        first = max(last + 1, max(turns, default=0))
        self.in_worker = tuple(transforms[:first])
        self.stages = tuple(STAGES[type(transform)](transform) for transform in transforms[first:])
        self._kind = "2D" if len(patch_size) == 2 else "anisotropic" if is_anisotropic(patch_size) else "3D"
        self._variants = frozenset(stage.variant for stage in self.stages)
        self.turns = bool(self.stages) and isinstance(self.stages[0], RotationScaling)

    def draw(self, channels: int) -> list[Any]:
        """Draw for one sample what each stage does, as the transforms would: None where it does nothing."""
        drawn = []
        for stage in self.stages:
            skipped = torch.rand(1).item() > stage.transform.probability  # as torchio draws it
            drawn.append(None if skipped else stage.draw(channels, len(self.patch_size)))
        return drawn

    def is_turned(self, drawn: Sequence[Any]) -> bool:
        """Whether a sample with these draws needs more than its patch."""
        return self.turns and drawn[0] is not None

    def cropped(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C, *S) and label (*S) of a sample that is not turned, as the rotation gives them."""
        rotation = self.stages[0].transform
        label = centre_crop(label[None], self.patch_size, rotation.label_padding)[0]
        return centre_crop(image, self.patch_size, rotation.image_padding), label

    def collate(self, samples: Sequence[dict[str, Any]], ring: Ring | None = None) -> dict[str, Any]:
        """Make a batch of samples, in a worker.

        Args:
            samples: "image" (C, *patch) and "label" (*patch) of each, larger where it `is_turned`; "case"; "draws",
                of all or, if they are finished, of none.
            ring: Memory for it, where there is room.

        Returns:
            "pending": PendingBatch; "case": list of str.
        """
        finished = "draws" not in samples[0]
        drawn, steps = ({}, None) if finished else self._packed([sample["draws"] for sample in samples])
        turned = [not finished and self.is_turned(sample["draws"]) for sample in samples]
        shapes = {kind: (tuple(tensor.shape), tensor.dtype) for kind, tensor in drawn.items()}
        for name in ("image", "label"):
            given = [sample[name] for sample in samples]
            lead = given[0].shape[: given[0].ndim - len(self.patch_size)]
            # The places of samples that are turned are filled on the device
            shapes[name] = ((len(samples), *lead, *self.patch_size), given[0].dtype)
            if any(turned):
                largest = next(tensor for tensor, t in zip(given, turned, strict=True) if t)
                shapes[f"large_{name}"] = ((sum(turned), *largest.shape), largest.dtype)
        parcel = Parcel(shapes)
        place, memory = (ring and ring.take(parcel.size)) or (None, new_memory(parcel.size))
        places = parcel.tensors(memory)
        for kind, tensor in drawn.items():
            places[kind].copy_(tensor)
        for name in ("image", "label"):
            larger = iter(places.get(f"large_{name}", ()))
            for target, sample, t in zip(places[name], samples, turned, strict=True):
                _fill(next(larger) if t else target, sample[name])
        pending = PendingBatch(parcel, memory if place is None else place, steps)
        return {"pending": pending, "case": [sample["case"] for sample in samples]}

    def _packed(self, draws: Sequence[Sequence[Any]]) -> tuple[dict[str, Tensor], list[tuple[int, Any]]]:
        """The draws of a batch as tensors, and what is to be done with them."""
        packer, steps = Packer(), []
        for number, stage in enumerate(self.stages):
            packed = stage.pack([drawn[number] for drawn in draws], self.patch_size, packer)
            if packed is not None:
                steps.append((number, packed))
        return packer.tensors(), steps

    def apply(self, pending: PendingBatch) -> dict[str, Tensor]:
        """Augment a batch where its tensors are. Nothing waits for the device.

        Returns:
            "image" (B, C, *patch) float32 and "label" (B, *patch) int16, as the dataset makes them on the CPU.
        """
        tensors = pending.tensors()
        if pending.steps is None:
            return {"image": tensors["image"], "label": tensors["label"]}
        batch = Batch(tensors["image"], tensors["label"], tensors.get("large_image"), tensors.get("large_label"))
        unpack = Unpacker({kind: tensors[kind] for kind in ("numbers", "indices")})
        if self._in_kernels(batch):
            for number, packed in pending.steps:
                self.stages[number].launch(batch, packed, unpack)
            settle(batch, self.masked_channels)
        else:
            self._in_torch(batch, pending.steps, unpack)
        return {"image": batch.image, "label": batch.label}

    def _in_kernels(self, batch: Batch) -> bool:
        largest = max(t.numel() for t in (batch.image, batch.large_image) if t is not None)
        fits = largest <= MOST_VOXELS and all(channel < MOST_CHANNELS for channel in self.masked_channels)
        return fits and kernels_usable(batch.image.device, self._kind, self._variants)

    def _in_torch(self, batch: Batch, steps: Sequence[tuple[int, Any]], unpack: Unpacker) -> None:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TensorFloat-32 would round an image to three digits
        try:
            for number, packed in steps:
                self.stages[number].apply(batch, packed, unpack)
        finally:
            torch.set_float32_matmul_precision(precision)
        outside = batch.label < 0
        if len(self.masked_channels) == batch.image.shape[1]:
            batch.image.masked_fill_(outside[:, None], 0)
        else:
            for channel in self.masked_channels:
                batch.image[:, channel].masked_fill_(outside, 0)
        batch.label.clamp_(min=0)


def _fill(place: Tensor, tensor: Tensor) -> None:
    if place.shape != tensor.shape:
        raise ValueError(f"samples of one batch must have the same shape, they have {place.shape} and {tensor.shape}")
    place.copy_(tensor)


class Collate:
    """The loader's way from samples to a batch, finished or pending; an object, which a process can be sent.

    Args:
        chain: What is pending.
        ring: Memory in which all batches travel, finished ones too; None for torch's own way.
    """

    def __init__(self, chain: DeviceChain, ring: Ring | None = None) -> None:
        self.chain, self.ring = chain, ring

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        if self.ring is None and "draws" not in samples[0]:
            return default_collate(samples)
        return self.chain.collate(samples, self.ring)
