"""Sums and means over the processes of a distributed training, each of which has some samples of a batch.

Ranks weigh what they have such that the mean of their losses is the whole batch's loss: then the mean of their
gradients, which DistributedDataParallel takes, is its gradient. They do not always have as many samples as the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def count_ranks() -> int:
    """How many processes have a part of the batch."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


class _SumOverRanks(torch.autograd.Function):
    """All ranks get the sum; each of them has a loss of its own that depends on it, so their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def sum_over_ranks(own: Tensor) -> Tensor:
    """The sum of what all ranks have, with its gradient; `own` itself where there is one."""
    return _SumOverRanks.apply(own) if count_ranks() > 1 else own


def rank_weight(label: Tensor, dtype: torch.dtype) -> Tensor | float:
    """What this rank's mean over its samples weighs in the mean over ranks: 1 where all have as many.

    Args:
        label: of this rank, (B, *S).
        dtype: of the mean.
    """
    if count_ranks() == 1:
        return 1.0
    samples = torch.full((), len(label), dtype=dtype, device=label.device)
    return samples * count_ranks() / sum_over_ranks(samples)
