"""A training step's forward and backward pass as CUDA graphs.

A step launches some thousand kernels. Where patches are small the device is done with one before the host has launched
the next; a graph launches all of them at once. The kernels, and so the numbers, are the same.

Of several ranks each has graphs of its own share of the batch, in which the sums over ranks lie that its loss takes.
The gradients are exchanged after the replay. All ranks have graphs, or none.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from umamba.models.gradient_exchange import GradientExchange
from umamba.models.ranks import all_agree, alone, count_ranks

WARM_UP = 3  # passes before the capture: kernels are built and checked, cuDNN tries its algorithms
WORTH = 100  # steps: making graphs takes as long as some steps and a second or two, which as many steps gain
SPARE = 3  # times the weights: the optimizer's state, which its first step makes, and sums of gradients

log = logging.getLogger(__name__)
Loss = Callable[[Tensor, Tensor], Tensor]


class GraphedLoss:
    """``function(image, label)``, a differentiable scalar, replayed from graphs where batches look like the first.

    The first call warms up and captures; batches of other shapes or types go through `function` itself, and all do
    where the capture fails, on this rank or another, for want of memory above all: the log says so. A graph keeps the
    memory of its pass for itself. Weights that were moved, frozen or freed since are noticed, and captured anew.

    Args:
        function: of two CUDA tensors. Its work follows from their shapes alone, and nothing in it waits for the device.
        parameters: of the network; those that need a gradient get it.
        required: a capture that fails is an error.
        exchange: where there are several ranks: makes what takes the mean of their gradients, a new one for each
            capture. It is called on all ranks, as everything here is. DistributedDataParallel has nothing to do then,
            unless there are no graphs.

    Raises:
        RuntimeError: the capture failed on some rank, and it is required; the ranks have different weights; or with
            several ranks, which wait for each other in it, a pass before the capture failed.
        torch.OutOfMemoryError: likewise.
    """

    def __init__(
        self,
        function: Loss,
        parameters: Iterable[nn.Parameter],
        required: bool = False,
        exchange: Callable[[], GradientExchange] | None = None,
    ) -> None:
        self.function = function
        self.parameters = list(parameters)
        self.required = required
        self.exchange = exchange
        self._captured: _Captured | None = None
        self._given_up = False

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        seen = [(parameter.data_ptr(), parameter.requires_grad) for parameter in self.parameters]
        if self._captured is not None and self._captured.seen != seen:
            self._captured = None  # its memory first
        if self._captured is None and not self._given_up:
            self._captured = self._capture(image, label, seen)
        if self._captured is not None and self._captured.exchange is not None:
            return _RankPass.apply(self._captured.exchange.begin, self._captured, image, label)
        if self._captured is None or not self._captured.fits(image, label):
            return self.function(image, label)
        return _Replay.apply(self._captured, image, label, *self._captured.parameters)

    def _capture(self, image: Tensor, label: Tensor, seen: list[tuple[int, bool]]) -> _Captured | None:
        torch.cuda.empty_cache()
        start, held = time.perf_counter(), torch.cuda.memory_reserved(image.device)
        captured: _Captured | None = None
        warm, fault = False, "they cannot on another rank, whose log says why"
        exchange = None if self.exchange is None else self.exchange()
        if exchange is not None:
            exchange.check_ranks()
        try:
            captured = _Captured(self.function, self.parameters, seen, image, label, exchange)
            captured.warm_up()
            warm = True
            captured.record()
        except RuntimeError as error:  # also torch.OutOfMemoryError
            if count_ranks() > 1 and not warm:  # the others wait in the pass for this one, until it ends
                raise
            if self.required:
                all_agree(False, image.device)
                raise
            captured, fault = None, _first_cause(error)
        if all_agree(captured is not None, image.device) and captured is not None:
            used = (torch.cuda.memory_reserved(image.device) - held) / 2**30
            seconds = time.perf_counter() - start
            log.info("Training steps are replayed from CUDA graphs: made in %.1f s, they hold %.2f GiB.", seconds, used)
            return captured
        if self.required:
            raise RuntimeError(f"Training steps cannot be captured as CUDA graphs: {fault}.")
        # Here nothing refers to the error any more, whose frames hold the pass's tensors
        captured = exchange = None
        self._given_up = True
        gc.collect()
        torch.cuda.empty_cache()
        log.warning(
            "Training steps launch their kernels singly, since they cannot be captured as CUDA graphs: %s. The attempt "
            "took %.1f s and holds no memory; cuda_graph=false goes without it.",
            fault, time.perf_counter() - start,
        )  # fmt: skip
        return None


def _first_cause(error: BaseException) -> str:
    """What went wrong first, in one line: ending a capture in which something failed may fail too."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class _Captured:
    """Both graphs of a step, and the tensors that they read and write."""

    def __init__(
        self,
        function: Loss,
        parameters: list[nn.Parameter],
        seen: list[tuple[int, bool]],
        image: Tensor,
        label: Tensor,
        exchange: GradientExchange | None = None,
    ) -> None:
        self.function, self.seen, self.exchange = function, seen, exchange
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.image, self.label = image.clone(), label.clone()
        self.grad_loss = torch.ones((), device=image.device)

    def warm_up(self) -> None:
        """Passes as they will be captured."""
        self.stream = torch.cuda.Stream(self.image.device)
        current = torch.cuda.current_stream(self.image.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self._backward(self._forward())
        current.wait_stream(self.stream)

    def record(self) -> None:
        """Capture both passes, and see that a training finds room beside what they hold."""
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        with _capture(self.forward, pool, self.stream):  # which first frees what the warm-up has left
            loss = self._forward()
        with _capture(self.backward, pool, self.stream):
            self.grads = self._backward(loss)
        self.loss = loss.detach()
        # The graphs' memory is theirs alone, so there has to be enough beside it for the rest of a training
        with torch.no_grad(), alone():  # another rank may have failed above
            spare = [torch.empty_like(parameter) for parameter in self.parameters for _ in range(SPARE)]
            self._forward()  # as in a validation
        del spare
        torch.cuda.empty_cache()

    def _forward(self) -> Tensor:
        # A cast that is kept from the warm-up would be missing in the graph
        with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), False):
            return self.singly(self.image, self.label)

    def _backward(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast("cuda", enabled=False):  # as outside of the step, where backward passes usually are
            return self.gradients(loss, self.grad_loss)

    def singly(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss without a graph, of any batch."""
        with contextlib.nullcontext() if self.exchange is None else self.exchange.standing_in():
            return self.function(image, label)

    def gradients(self, loss: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of such a loss; of several ranks none, they are where the exchange takes them."""
        if self.exchange is None:
            return torch.autograd.grad(loss, self.parameters, grad, allow_unused=True)
        self.exchange.take(torch.autograd.grad(loss, self.exchange.stand_ins, grad, allow_unused=True))
        return ()

    def replayed(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch that fits."""
        self.image.copy_(image)
        self.label.copy_(label)
        self.forward.replay()
        return self.loss.clone()  # the next step writes over the graph's own

    def replay_back(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `replayed`, as `gradients` gives them."""
        self.grad_loss.copy_(grad)
        self.backward.replay()
        return self.grads

    def fits(self, image: Tensor, label: Tensor) -> bool:
        return all(
            t.shape == own.shape and t.dtype == own.dtype and t.device == own.device
            for t, own in ((image, self.image), (label, self.label))
        )


@contextlib.contextmanager
def _capture(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> Iterator[None]:
    """Capture; where that fails, stream and allocator are left as they were, which torch's own does not always do."""
    current = torch.cuda.current_stream(stream.device)
    try:
        # Thread-local, because the data loader's thread goes on pinning memory meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            yield
    except BaseException:
        torch.cuda.set_stream(current)
        with contextlib.suppress(RuntimeError, AttributeError):  # refused if the capture has been ended: all is well
            torch._C._cuda_endAllocateToPool(stream.device_index, pool)
            torch._C._cuda_releasePool(stream.device_index, pool)
        raise


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, captured: _Captured, image: Tensor, label: Tensor, *parameters: Tensor) -> Tensor:
        ctx.captured = captured
        for parameter, own in zip(captured.parameters, captured.grads, strict=True):
            # A sum over several batches lies where the last replay left it, and the next one writes over it
            if parameter.grad is not None and own is not None and parameter.grad.data_ptr() == own.data_ptr():
                parameter.grad = parameter.grad.clone()
        return captured.replayed(image, label)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(None if own is None else own.detach() for own in ctx.captured.replay_back(grad))


class _RankPass(torch.autograd.Function):
    """A step of which autograd sees no parameters, as a graph or singly.

    Both exchange gradients in the same way, so that a rank whose share of a batch has another size meets the others.
    """

    @staticmethod
    def forward(ctx: Any, _begin: Tensor, captured: _Captured, image: Tensor, label: Tensor) -> Tensor:
        assert captured.exchange is not None
        ctx.captured, ctx.loss = captured, None
        captured.exchange.keep_earlier()
        if captured.fits(image, label):
            return captured.replayed(image, label)
        with torch.enable_grad():
            ctx.loss = captured.singly(image, label)
        return ctx.loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        captured = ctx.captured
        if ctx.loss is None:
            captured.replay_back(grad)
        else:
            captured.gradients(ctx.loss, grad)
            ctx.loss = None  # and its maps
        captured.exchange.finish()
        return None, None, None, None
