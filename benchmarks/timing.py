"""What a step is, and how long it takes: by the clock, by the device's events, and as a CUDA graph's replay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch

Step = Callable[[], object]


def descend(
    loss: torch.Tensor,
    parameters: Iterable[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """All that follows the loss in a training step: backward, clipping and optimiser."""
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, 12)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def clock_ms(step: Step, repeats: int, device: torch.device) -> float:
    """Median by the clock in ms, each time until the device is done."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def event_ms(step: Step) -> float:
    """One run in ms, by the device's events around it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def captured(step: Step, times: int = 1) -> torch.cuda.CUDAGraph:
    """A CUDA graph of a step that has run before, or of so many one after the other."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            step()
    return graph


def replay_ms(step: Step, repeats: int) -> float:
    """Median of a step as a CUDA graph in ms: the device's work without the host's launches."""
    graph = captured(step)
    return statistics.median(event_ms(graph.replay) for _ in range(repeats))


class PeakMemory:
    """Most memory of tensors on the GPU since this was made, in GiB."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        self.before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """All of them."""
        return torch.cuda.max_memory_allocated() / 2**30

    def grown_gib(self) -> float:
        """Without those that were there before."""
        return (torch.cuda.max_memory_allocated() - self.before) / 2**30
