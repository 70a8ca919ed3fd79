"""A training step's forward and backward pass as CUDA graphs.

A step launches some thousand kernels. Where patches are small the device is done with one before the host has launched
the next; a graph launches all of them at once. The kernels, and so the numbers, are the same. Several ranks: see
`umamba.models.rank_step_graph`.
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

from umamba.models.ranks import all_agree, alone

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

    Raises:
        RuntimeError: the capture failed on some rank, and it is required.
        torch.OutOfMemoryError: likewise.
    """

    def __init__(self, function: Loss, parameters: Iterable[nn.Parameter], required: bool = False) -> None:
        self.function = function
        self.parameters = list(parameters)
        self.required = required
        self._captured: Captured | None = None
        self._given_up = False

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        seen = [(parameter.data_ptr(), parameter.requires_grad) for parameter in self.parameters]
        if self._captured is not None and self._captured.seen != seen:
            self._captured = None  # its memory first
        if self._captured is None and not self._given_up:
            self._captured = self._capture(image, label)
            if self._captured is not None:
                self._captured.seen = seen
        return self.function(image, label) if self._captured is None else self._captured(image, label)

    def prepare(self) -> None:
        """What is to be done before a capture, and fails on all ranks or none."""

    def make(self, image: Tensor, label: Tensor) -> Captured:
        """What is captured of a step with such a batch, not yet captured."""
        return Captured(self.function, self.parameters, image, label)

    def _capture(self, image: Tensor, label: Tensor) -> Captured | None:
        torch.cuda.empty_cache()
        start, held = time.perf_counter(), torch.cuda.memory_reserved(image.device)
        captured: Captured | None = None
        fault = "they cannot on another rank, whose log says why"
        self.prepare()
        try:
            captured = self.make(image, label)
            captured.warm_up()
            captured.record()
        except RuntimeError as error:  # also torch.OutOfMemoryError
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
        captured = None
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


class Captured:
    """Both graphs of a step, and the tensors that they read and write."""

    seen: list[tuple[int, bool]]  # where the parameters were, and whether they were trained

    def __init__(self, function: Loss, parameters: list[nn.Parameter], image: Tensor, label: Tensor) -> None:
        self.function = function
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.image, self.label = image.clone(), label.clone()
        self.grad_loss = torch.ones((), device=image.device)

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch, replayed if it fits."""
        if not self.fits(image, label):
            return self.function(image, label)
        return _Replay.apply(self, image, label, *self.parameters)

    def warm_up(self) -> None:
        """Passes as they will be captured."""
        self.stream = torch.cuda.Stream(self.image.device)
        current = torch.cuda.current_stream(self.image.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self.run_back(self.run())
        current.wait_stream(self.stream)

    def record(self) -> None:
        """Capture both passes, and see that a training finds room beside what they hold."""
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        with _capture(self.forward, pool, self.stream):  # which first frees what the warm-up has left
            outputs = self.run()
        with _capture(self.backward, pool, self.stream):
            self.grads = self.run_back(outputs)
        self.keep(outputs)
        # The graphs' memory is theirs alone, so there has to be enough beside it for the rest of a training
        with torch.no_grad(), as_captured(), alone():  # another rank may have failed above
            spare = [torch.empty_like(parameter) for parameter in self.parameters for _ in range(SPARE)]
            self.function(self.image, self.label)  # as in a validation
        del spare
        torch.cuda.empty_cache()

    def run(self) -> Any:
        """What the forward graph captures."""
        with as_captured():
            return self.function(self.image, self.label)

    def run_back(self, loss: Any) -> tuple[Tensor | None, ...]:
        """What the backward graph captures: the gradients."""
        with torch.autocast("cuda", enabled=False):  # as outside of the step, where backward passes usually are
            return torch.autograd.grad(loss, self.parameters, self.grad_loss, allow_unused=True)

    def keep(self, loss: Any) -> None:
        """Keep the place where a replay of `run` puts what it gives."""
        self.loss = loss.detach()

    def fits(self, image: Tensor, label: Tensor) -> bool:
        """Whether a batch is like the captured one."""
        return all(
            t.shape == own.shape and t.dtype == own.dtype and t.device == own.device
            for t, own in ((image, self.image), (label, self.label))
        )


def as_captured() -> torch.autocast:
    """Autocast as it is, but without casts that are kept: one of the warm-up would be missing in a graph."""
    return torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), False)


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
    def forward(ctx: Any, captured: Captured, image: Tensor, label: Tensor, *parameters: Tensor) -> Tensor:
        ctx.captured = captured
        for parameter, own in zip(captured.parameters, captured.grads, strict=True):
            # A sum over several batches lies where the last replay left it, and the next one writes over it
            if parameter.grad is not None and own is not None and parameter.grad.data_ptr() == own.data_ptr():
                parameter.grad = parameter.grad.clone()
        captured.image.copy_(image)
        captured.label.copy_(label)
        captured.forward.replay()
        return captured.loss.clone()  # the next step writes over the graph's own

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        captured = ctx.captured
        captured.grad_loss.copy_(grad)
        captured.backward.replay()
        return None, None, None, *(None if own is None else own.detach() for own in captured.grads)
