"""Random draws from torch's generator, the one torchio's transforms use and data loading seeds per sample."""

from __future__ import annotations

import torch


def coin(probability: float) -> bool:
    """True with the given probability."""
    return torch.rand(()).item() < probability


def uniform(low: float, high: float) -> float:
    """A number drawn uniformly from [low, high)."""
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def around_one(low: float, high: float) -> float:
    """A factor from [low, 1) or [1, high), each half of the time; of a range on one side of 1, uniform."""
    if low < 1 and coin(0.5):
        return uniform(low, min(high, 1.0))
    return uniform(max(low, 1.0), high) if high > 1 else uniform(low, high)
