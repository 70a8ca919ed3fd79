"""Random brightness, contrast and gamma as nnU-Net does them, each channel on its own."""

from __future__ import annotations

from typing import Any

import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform

from umamba.datamodules.augmentation.draws import around_one

SMALL = 1e-8  # keeps the ratio finite for a constant channel


class _RandomFactor(RandomTransform, tio.IntensityTransform):
    """Changes every channel by a factor of its own, half of the factors below 1 and half above.

    Args:
        factors: Range of the factor.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: The factors are no range.
    """

    def __init__(self, factors: tuple[float, float] = (0.75, 1.25), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        low, high = (float(factor) for factor in factors)
        if not 0 <= low <= high:
            raise ValueError(f"{self.name} needs a range of factors (low, high) from 0 on, it got {tuple(factors)}.")
        self.factors = (low, high)

    def draw(self, channels: int) -> list[float]:
        """Draw a factor for each channel."""
        return [around_one(*self.factors) for _ in range(channels)]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Change every image of the subject; label maps stay."""
        for image in self.get_images(subject):
            drawn = zip(image.data, self.draw(len(image.data)), strict=True)
            image.set_data(torch.stack([self.change(channel, factor) for channel, factor in drawn]))
        return subject

    def change(self, channel: torch.Tensor, factor: float) -> torch.Tensor:
        """One channel, of any shape, changed by the factor."""
        raise NotImplementedError


class RandomBrightness(_RandomFactor):
    """Multiply each channel by a factor (else ValueError)."""

    def change(self, channel: torch.Tensor, factor: float) -> torch.Tensor:
        """x * factor."""
        return channel * factor


class RandomContrast(_RandomFactor):
    """Stretch each channel about its mean and clip it to the range it had (else ValueError)."""

    def change(self, channel: torch.Tensor, factor: float) -> torch.Tensor:
        """clip((x - mean) * factor + mean)."""
        low, high = channel.aminmax()
        mean = channel.mean()
        return channel.sub(mean).mul_(factor).add_(mean).clamp_(low, high)


class RandomGammaWithStatistics(_RandomFactor):
    """Raise each channel, scaled to [0, 1], to a power, and give it back its mean and standard deviation.

    torchio's RandomGamma keeps neither and draws the logarithm of the exponent.

    Args:
        factors: Range of the exponent.
        invert: Work on -x, so that the exponent spreads the other end of the grey values.
        **kwargs: Of `torchio.Transform`.

    Raises:
        ValueError: The factors are no range.
    """

    def __init__(self, factors: tuple[float, float] = (0.7, 1.5), *, invert: bool = False, **kwargs: Any) -> None:
        super().__init__(factors, **kwargs)
        self.invert = invert

    def change(self, channel: torch.Tensor, factor: float) -> torch.Tensor:
        """((x - min) / range) ** factor, shifted and scaled to the mean and standard deviation of x."""
        sign = -1 if self.invert else 1
        low, high = (channel * sign).aminmax()
        curved = channel.mul(sign).sub_(low).div_(high - low + 1e-7).pow_(factor)
        mean = channel.mean()
        curved.sub_(curved.mean())
        ratio = _norm(channel - mean) / (_norm(curved) + SMALL)
        return curved.mul_(sign * ratio).add_(mean)


def _norm(channel: torch.Tensor) -> torch.Tensor:
    """Root of the sum of squares.

    torch.std takes ten times as long on a CPU. The norm of all voxels at once adds up so many in float32 that 2e-5 of
    it is lost in a large patch, the norm of those of its slices 1e-7.
    """
    return torch.linalg.vector_norm(torch.linalg.vector_norm(channel.flatten(1), dim=1))
