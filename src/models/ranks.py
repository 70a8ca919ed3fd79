"""Sums and means over the processes of a distributed training, each of which has some samples of a batch.

Ranks weigh what they have such that the mean of their losses is the whole batch's loss: then the mean of their
gradients, which DistributedDataParallel takes, is its gradient. They do not always have as many samples as the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_alone = False  # not a ContextVar, which torch.compile cannot read: losses are compiled with what asks here


def count_ranks() -> int:
    """How many processes have a part of the batch."""
    if _alone:
        return 1
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


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile this process sums over nobody, so that it waits for nobody: for passes of which no number is kept."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def all_agree(answer: bool, device: torch.device) -> bool:
    """Whether every rank says yes; `answer` itself where there is one. The host waits for it."""
    if count_ranks() == 1:
        return answer
    answers = torch.tensor(float(answer), device=device)
    torch.distributed.all_reduce(answers, op=torch.distributed.ReduceOp.MIN)
    return bool(answers)


def equal_on_all(numbers: Tensor) -> bool:
    """Whether every rank has the same whole numbers, which are as many on each. The host waits for it."""
    if count_ranks() == 1:
        return True
    extremes = torch.cat([numbers, -numbers])
    torch.distributed.all_reduce(extremes, op=torch.distributed.ReduceOp.MIN)
    lowest, highest = extremes.chunk(2)
    return bool((lowest == -highest).all())
