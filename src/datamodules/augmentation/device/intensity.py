"""Noise, brightness, contrast and gamma for batches on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchio as tio

from umamba.datamodules.augmentation.device.packing import Packer, Unpacker
from umamba.datamodules.augmentation.device.stage import Batch, Stage, column, rows_of
from umamba.datamodules.augmentation.intensity import SMALL, RandomBrightness, RandomContrast, RandomGammaWithStatistics

BRIGHTNESS, CONTRAST, GAMMA, INVERTED = range(4)  # kinds of factors, as the kernel knows them


class Noise(Stage[tio.RandomNoise]):
    """Each sample's noise comes of a seed of its own; the numbers are those of the device's generator."""

    def draw(self, channels: int, dims: int) -> tuple[float, float, int]:
        drawn = self.transform.get_params(self.transform.mean_range, self.transform.std_range)
        torch.rand(1)  # torchio adds the noise by a second transform, which draws whether it is applied
        return drawn

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        return [(sample, *values) for sample, values in enumerate(drawn) if values is not None] or None

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        generator = torch.Generator(batch.image.device)
        for sample, mean, std, seed in packed:
            generator.manual_seed(seed)
            image = batch.image[sample]
            noise = torch.randn(image.shape, generator=generator, device=image.device)
            image.add_(noise, alpha=std)
            if mean:
                image.add_(mean)


class _Factors(Stage):
    """Changes channels by a factor each.

    Attributes:
        kind: What the kernel does with them.
    """

    kind: int

    def draw(self, channels: int, dims: int) -> list[float]:
        return self.transform.draw(channels)

    def pack(self, drawn: Sequence[Any], patch_size: Sequence[int], packer: Packer) -> Any:
        rows, factors = rows_of(drawn)
        return (packer.indices(rows), packer.numbers(factors)) if rows else None

    def apply(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        rows, factors = (unpack(slot) for slot in packed)
        image = batch.image.view(-1, batch.image[0, 0].numel())  # (B * C, voxels)
        image.index_copy_(0, rows, self.change(image.index_select(0, rows), column(factors, image)))

    def launch(self, batch: Batch, packed: Any, unpack: Unpacker) -> None:
        from umamba.datamodules.augmentation.device.kernels import rows as kernels
        from umamba.datamodules.augmentation.device.kernels.run import run

        rows, factors = packed
        voxels = batch.image[0, 0].numel()
        tensors = batch.image, unpack.pointer(rows), unpack.pointer(factors)
        grid = (rows.shape[0], 1)
        run(kernels.factors, batch.index, grid, tensors, (voxels, SMALL), (self.kind, kernels.WHOLE), warps=16)

    def change(self, channels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Channels (R, voxels), which may be overwritten, changed by factors (R, 1)."""
        raise NotImplementedError


class Brightness(_Factors):
    """x * factor."""

    transform: RandomBrightness
    kind = BRIGHTNESS

    def change(self, channels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        return channels.mul_(factors)


class Contrast(_Factors):
    """clip((x - mean) * factor + mean)."""

    transform: RandomContrast
    kind = CONTRAST

    def change(self, channels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        low, high = torch.aminmax(channels, dim=1, keepdim=True)
        mean = channels.mean(1, keepdim=True)
        return channels.sub_(mean).mul_(factors).add_(mean).clamp_(low, high)


class Gamma(_Factors):
    """((x - min) / range) ** factor, shifted and scaled to the mean and standard deviation of x; of -x if inverted."""

    transform: RandomGammaWithStatistics

    def __init__(self, transform: RandomGammaWithStatistics) -> None:
        super().__init__(transform)
        self.kind = INVERTED if transform.invert else GAMMA

    def change(self, channels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        sign = -1 if self.transform.invert else 1
        signed = channels * sign
        low, high = torch.aminmax(signed, dim=1, keepdim=True)
        curved = signed.sub_(low).div_(high - low + 1e-7).pow_(factors)
        mean = channels.mean(1, keepdim=True)
        curved.sub_(curved.mean(1, keepdim=True))
        deviation = torch.linalg.vector_norm(channels.sub_(mean), dim=1, keepdim=True)
        ratio = deviation / (torch.linalg.vector_norm(curved, dim=1, keepdim=True) + SMALL)
        return curved.mul_(ratio.mul_(sign)).add_(mean)
