"""A training step's forward and backward pass as CUDA graphs.

A step launches some thousand kernels. Where patches are small the device is done with one before the host has launched
the next; a graph launches all of them at once. The kernels, and so the numbers, are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 3  # passes before the capture: kernels are built and checked, cuDNN tries its algorithms
KNOWN = ("umamba", "torch")  # packages whose layers do the same in every step, without asking the device for values


def obstacle_to_graphs(network: nn.Module) -> str | None:
    """Why the steps of a network cannot be replayed from a graph, or None.

    Layers from elsewhere may count, print or decide in Python, which a replay leaves out, and batch norms would count
    the passes before the capture.
    """
    for name, layer in network.named_modules():
        if type(layer).__module__.partition(".")[0] not in KNOWN:
            return f"layer {name or 'network'!r} is a {type(layer).__qualname__} of {type(layer).__module__}"
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            return f"layer {name!r} is a {type(layer).__qualname__}, which keeps running statistics"
    return None


class GraphedLoss:
    """``function(image, label)``, a differentiable scalar, replayed from graphs where batches look like the first.

    The first call warms up and captures; batches of other shapes or types go through `function` itself. A graph keeps
    the memory of its pass for itself.

    Args:
        function: of two CUDA tensors. Its work follows from their shapes alone, and nothing in it waits for the device.
        parameters: what it is differentiated by, apart from what needs no gradient. They stay where they are in memory.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], parameters: Iterable[nn.Parameter]) -> None:
        self.function = function
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._captured: _Captured | None = None

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        if self._captured is None:
            self._captured = _Captured(self.function, self.parameters, image, label)
        if not self._captured.fits(image, label):
            return self.function(image, label)
        return _Replay.apply(self._captured, image, label, *self.parameters)


class _Captured:
    """Both graphs of a step, and the tensors that they read and write."""

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], parameters: list[nn.Parameter], image: Tensor, label: Tensor
    ) -> None:
        self.parameters = parameters
        self.image, self.label = image.clone(), label.clone()
        self.grad_loss = torch.ones((), device=image.device)

        def forward() -> Tensor:
            # A cast that is kept from the warm-up would be missing in the graph
            with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), False):
                return function(self.image, self.label)

        def backward(loss: Tensor) -> tuple[Tensor | None, ...]:
            with torch.autocast("cuda", enabled=False):  # as outside of the step, where backward passes usually are
                return torch.autograd.grad(loss, parameters, self.grad_loss, allow_unused=True)

        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                backward(forward())
        torch.cuda.current_stream(image.device).wait_stream(stream)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        # Thread-local, because the data loader's thread goes on pinning memory meanwhile
        capture: dict[str, Any] = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self.forward, **capture):  # which first frees what the warm-up has left
            loss = forward()
        with torch.cuda.graph(self.backward, **capture):
            self.grads = backward(loss)
        self.loss = loss.detach()

    def fits(self, image: Tensor, label: Tensor) -> bool:
        return all(
            t.shape == own.shape and t.dtype == own.dtype and t.device == own.device
            for t, own in ((image, self.image), (label, self.label))
        )


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, captured: _Captured, image: Tensor, label: Tensor, *parameters: Tensor) -> Tensor:
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
