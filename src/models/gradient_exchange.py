"""The mean over ranks of a network's gradients, taken at once when a backward pass has ended.

DistributedDataParallel exchanges gradients as autograd hands them over, parameter by parameter. A pass that is replayed
from a graph hands over none, and leaves all of them in one place. The mean is the same, bit for bit with two ranks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed, nn

from umamba.models.ranks import count_ranks, equal_on_all

ALIGNMENT = 32  # values, 128 bytes in float32: kernels over several tensors read and write whole lines

_at_the_end = ContextVar("_at_the_end", default=False)


def exchanged_as_they_come() -> bool:
    """Whether there are other processes that wait for gradients while the backward pass goes on."""
    running = distributed.is_available() and distributed.is_initialized()
    return running and not _at_the_end.get()


class GradientExchange:
    """Gradients of a network's parameters, one behind the other in memory, and their mean over ranks.

    Passes are taken with stand-ins for the parameters, the same values in memory. Autograd does not know the parameters
    that way, whose nodes DistributedDataParallel holds, and which belong to another stream than a capture's.

    Args:
        network: it is on its device, and of all ranks the same.
        due: whether the gradients are exchanged after this backward pass, or another batch's are to be added first.
    """

    def __init__(self, network: nn.Module, due: Callable[[], bool]) -> None:
        self.network, self.due = network, due
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.stand_ins = [parameter.detach().requires_grad_() for parameter in self.parameters]
        self.begin = torch.zeros((), device=self.parameters[0].device, requires_grad=True)  # what a loss depends on
        self._flat: dict[torch.dtype, Tensor] = {}
        self._gradients = self._places()

    def check_ranks(self) -> None:
        """See that all ranks hold the same parameters, in the same order and layout, with the same values.

        Raises:
            RuntimeError: they do not; on every rank.
        """
        layout = [(p.dtype, tuple(p.shape), g.stride()) for p, g in zip(self.parameters, self._gradients, strict=True)]
        sums = torch.stack([_sum_of_bits(parameter) for parameter in self.stand_ins])
        places = torch.arange(1, len(sums) + 1, device=sums.device)  # so that two that changed places are noticed
        if not equal_on_all(torch.stack([sums.new_tensor(zlib.crc32(repr(layout).encode())), (sums * places).sum()])):
            raise RuntimeError(
                "The ranks of this training have different weights, or train different ones: the mean of their "
                "gradients would be that of no network. What changes weights after the start, such as a callback, has "
                "to do it on every rank alike."
            )

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Lets the network's layers have the stand-ins meanwhile."""
        stand_ins = dict(zip(map(id, self.parameters), self.stand_ins, strict=True))
        places = [
            (layer._parameters, name, parameter)
            for layer in self.network.modules()
            for name, parameter in layer._parameters.items()
            if id(parameter) in stand_ins
        ]
        before = _at_the_end.set(True)
        try:
            for held, name, parameter in places:
                held[name] = stand_ins[id(parameter)]  # type: ignore[assignment]  # a tensor does for a pass
            yield
        finally:
            for held, name, parameter in places:
                held[name] = parameter
            _at_the_end.reset(before)

    def keep_earlier(self) -> None:
        """To be called before a pass: what earlier batches have left is where the pass will put its own."""
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is not None and parameter.grad.data_ptr() == gradient.data_ptr():
                parameter.grad = parameter.grad.clone()

    @torch.no_grad()
    def take(self, gradients: Sequence[Tensor | None]) -> None:
        """Put a pass's gradients, of the stand-ins, in their place (else RuntimeError)."""
        if any(gradient is None for gradient in gradients):
            raise RuntimeError("the loss does not depend on some parameter that is trained")
        alike: tuple[list[Tensor], list[Tensor]] = ([], [])  # torch copies at once what has equal strides
        for own, gradient in zip(self._gradients, gradients, strict=True):
            assert gradient is not None
            if own.stride() == gradient.stride() and own.dtype == gradient.dtype:
                alike[0].append(_flat(own))
                alike[1].append(_flat(gradient))
            else:
                own.copy_(gradient)
        if alike[0]:
            torch._foreach_copy_(*alike)

    @torch.no_grad()
    def finish(self) -> None:
        """Add what earlier batches have left, exchange if that is due, and give the parameters their gradients."""
        earlier = [(g, p.grad) for g, p in zip(self._gradients, self.parameters, strict=True) if p.grad is not None]
        for gradient, before in earlier:
            gradient.add_(before)
        if self.due() and count_ranks() > 1:
            for flat in self._flat.values():
                flat.mul_(1 / count_ranks())  # first, as DistributedDataParallel does
                distributed.all_reduce(flat)
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _places(self) -> list[Tensor]:
        """A gradient for each parameter, laid out as it is, in one piece of memory for each dtype."""
        sizes: dict[torch.dtype, int] = {}
        starts = []
        for parameter in self.parameters:
            start = sizes.get(parameter.dtype, 0)
            starts.append(start)
            sizes[parameter.dtype] = start + -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = self.begin.device
        self._flat = {dtype: torch.zeros(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        return [
            self._flat[p.dtype].as_strided(p.shape, torch.empty_like(p, device="meta").stride(), start)
            for p, start in zip(self.parameters, starts, strict=True)
        ]


def _flat(t: Tensor) -> Tensor:
    return t.as_strided((t.numel(),), (1,))


def _sum_of_bits(t: Tensor) -> Tensor:
    """Tells two tensors apart that differ anywhere, as good as surely."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()]
    return t.detach().view(whole).sum(dtype=torch.int64)
