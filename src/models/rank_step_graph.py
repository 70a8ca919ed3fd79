"""A training step of several ranks, whose network's passes are CUDA graphs.

Each rank has graphs of its own share of the batch. The loss, which sums over ranks, is computed between them, and the
gradients are exchanged after them: a graph holds no communication. All ranks have graphs, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from umamba.models.gradient_exchange import GradientExchange
from umamba.models.step_graph import Captured, GraphedLoss, as_captured


class RankGraphedLoss(GraphedLoss):
    """``loss(network(image), label)``, a differentiable scalar, with the network's passes replayed from graphs.

    It is called on all ranks.

    Args:
        network: gives a tensor or a sequence of them. Its work follows from the image's shape alone, and nothing in it
            waits for the device.
        loss: of what the network gives and the label.
        exchange: makes what takes the mean of the ranks' gradients, a new one for each capture. With graphs
            DistributedDataParallel has nothing to do.
        required: a capture that fails is an error.

    Raises:
        RuntimeError: the capture failed on some rank, and it is required; or the ranks have different weights.
        torch.OutOfMemoryError: likewise.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Any, Tensor], Tensor],
        exchange: Callable[[], GradientExchange],
        required: bool = False,
    ) -> None:
        super().__init__(lambda image, label: loss(network(image), label), network.parameters(), required)
        self.network, self.loss, self.exchange = network, loss, exchange
        self._prepared: list[GradientExchange] = []

    def prepare(self) -> None:
        """Compare the ranks (RuntimeError)."""
        self._prepared = [self.exchange()]
        self._prepared[0].check_ranks()

    def make(self, image: Tensor, label: Tensor) -> Captured:
        """What is captured of a step with such a batch, not yet captured."""
        return RankCaptured(self, self._prepared.pop(), image, label)


class RankCaptured(Captured):
    """Both graphs of the network's passes, of one rank."""

    def __init__(self, step: RankGraphedLoss, exchange: GradientExchange, image: Tensor, label: Tensor) -> None:
        super().__init__(step.function, step.parameters, image, label)
        self.network, self.loss_of, self.exchange = step.network, step.loss, exchange
        self.grad_outputs: list[Tensor] = []

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch. Ranks with and without a batch that fits exchange gradients in the same way."""
        return _RankPass.apply(self.exchange.begin, self, image, label)

    def run(self) -> Any:
        """What the forward graph captures."""
        with as_captured(), self.exchange.standing_in():
            return self.network(self.image)

    def run_back(self, outputs: Any) -> tuple[Tensor | None, ...]:
        """What the backward graph captures; the gradients are put where the exchange takes them."""
        outputs = _listed(outputs)
        if not self.grad_outputs:  # in the warm-up, so that they do not lie in the graphs' memory
            self.grad_outputs = [torch.zeros_like(output) for output in outputs]
        self.gradients(outputs, self.grad_outputs)
        return ()

    def keep(self, outputs: Any) -> None:
        """Keep the places where a replay of `run` puts what it gives."""
        self.single = isinstance(outputs, Tensor)
        self.outputs = [output.detach() for output in _listed(outputs)]

    def loss_of_replay(self, label: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the last replay gave, as leaves, and its loss."""
        leaves = [output.detach().requires_grad_() for output in self.outputs]
        return leaves, self.loss_of(leaves[0] if self.single else leaves, label)

    def gradients(self, outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Put the gradients of such a pass where the exchange takes them."""
        with torch.autocast(outputs[0].device.type, enabled=False):
            self.exchange.take(torch.autograd.grad(outputs, self.exchange.stand_ins, grads, allow_unused=True))


class _RankPass(torch.autograd.Function):
    """A step of which autograd sees no parameters, as graphs or singly."""

    @staticmethod
    def forward(ctx: Any, _begin: Tensor, captured: RankCaptured, image: Tensor, label: Tensor) -> Tensor:
        ctx.captured, ctx.leaves = captured, None
        captured.exchange.keep_earlier()
        if captured.fits(image, label):
            captured.image.copy_(image)
            captured.forward.replay()
            with torch.enable_grad():
                ctx.leaves, ctx.loss = captured.loss_of_replay(label)
        else:
            with torch.enable_grad(), captured.exchange.standing_in():
                ctx.loss = captured.function(image, label)
        loss: Tensor = ctx.loss.detach()
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        captured: RankCaptured = ctx.captured
        if ctx.leaves is None:
            captured.gradients([ctx.loss], [grad])
        else:
            torch._foreach_copy_(captured.grad_outputs, torch.autograd.grad(ctx.loss, ctx.leaves, grad))
            captured.backward.replay()
        ctx.loss = ctx.leaves = None  # and their maps
        captured.exchange.finish()
        return None, None, None, None


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
