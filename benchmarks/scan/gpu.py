"""The GPU part: the Triton scan and block beside mamba-ssm's, errors, and a profile."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common import versions
from scan.inputs import NAMES, STATES, forward_and_backward, make_inputs, ours
from timing import captured, event_ms
from umamba.models.mamba import block

log = logging.getLogger("selective_scan")

# batch, d_inner, L of the Mamba layers of U-Mamba_Enc on the CT 3D plan (batch 2) and the MR 2D plan (batch 30)
SHAPES = [
    (2, 64, 1720320),
    (2, 128, 430080),
    (2, 256, 53760),
    (2, 512, 6720),
    (2, 640, 840),
    (30, 64, 102400),
    (30, 1024, 100),
]
BLOCKS = [(32, 1720320), (64, 430080), (128, 53760), (256, 6720), (320, 840), (320, 210)]  # d_model, L; batch 2
ROUNDS = 3  # in each of which the parties take turns, since the host's speed drifts


def median_ms(function: Callable[[], object], seconds: float = 0.15) -> float:
    """Median time of `function` by CUDA events, after warming up, over at least 5 runs."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < seconds and len(times) < 200):
        times.append(event_ms(function))
    return statistics.median(times)


def streamed_ms(function: Callable[[], object], repeats: int = 100) -> float:
    """Time of `function` when it is called again and again without waiting for the device."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / repeats * 1e3


def graph_ms(function: Callable[[], object], repeats: int = 20) -> float:
    """Time of `function` inside a CUDA graph: the device's work without the host's launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    return median_ms(captured(function, repeats).replay) / repeats


def official(**inputs: Tensor) -> Tensor:
    """mamba-ssm's scan on tensors that already have its layout (batch, channels, L)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(**inputs, delta_softplus=True)


def copy_bandwidth() -> float:
    """Bytes per second read plus written by a large device-to-device copy."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (median_ms(lambda: target.copy_(source)) * 1e-3)


def time_scans(shape: tuple[int, int, int], with_official: bool) -> dict:
    row: dict = {"shape": shape}
    inputs = make_inputs(shape, "cuda", kind="trained")
    small = shape[0] * shape[1] * shape[2] < 1 << 24
    parties = {"triton": (ours("triton"), inputs)}
    if with_official:
        turned = {n: (t.transpose(1, 2).contiguous() if t.dim() == 3 else t) for n, t in inputs.items()}
        parties["mamba_ssm"] = (official, turned)
    runs = {name: forward_and_backward(function, given) for name, (function, given) in parties.items()}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, passes in runs.items():
            for what, run in passes.items():
                times[name, what].append(median_ms(run))
                if small:
                    times[name, f"{what}_streamed"].append(streamed_ms(run))
    for name, passes in runs.items():
        row[name] = {what: statistics.median(values) for (party, what), values in times.items() if party == name}
        if small:
            row[name] |= {f"{what}_graph": graph_ms(run) for what, run in passes.items()}
    batch, channels, length = shape
    row["floor_bytes"] = 4 * batch * length * (4 * channels + 2 * STATES)  # u, delta, z, out; B, C
    log.info("%s", row)
    return row


def time_block(d_model: int, length: int, with_official: bool) -> dict:
    row: dict = {"d_model": d_model, "length": length}
    parties: dict[str, Callable[[], torch.nn.Module]] = {"triton": lambda: block.Mamba(d_model, backend="triton")}
    if with_official:
        from mamba_ssm import Mamba

        parties["mamba_ssm"] = lambda: Mamba(d_model)
    for name, build in parties.items():
        layer = build().cuda()
        x = torch.randn(2, length, d_model, device="cuda", requires_grad=True)
        weight = torch.randn_like(x)

        def both(layer: nn.Module = layer, x: Tensor = x, weight: Tensor = weight) -> None:
            layer(x).backward(weight)
            x.grad = None
            layer.zero_grad()

        both()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        both()
        peak = torch.cuda.max_memory_allocated() / 2**30
        row[name] = {"both": median_ms(both), "peak_gib": peak}
        del layer, x, weight, both
    log.info("%s", row)
    return row


def errors(shape: tuple[int, int, int], kind: str, dtype: torch.dtype, backend: str, device: str) -> dict:
    """Relative errors of the output and all gradients against the float64 torch backend (itself tested against the
    plain recurrence) on the same, already rounded inputs; beside mamba-ssm's if it is asked for."""
    inputs = make_inputs(shape, device, kind)
    wide = ("u", "delta", "B", "C", "z")
    inputs = {n: t.to(dtype) if n in wide else t for n, t in inputs.items()}
    weight = torch.randn(inputs["u"].shape, device=device, dtype=dtype)

    def results(function: Callable[..., Tensor], given: dict[str, Tensor], turn: bool = False) -> list[Tensor]:
        leaves = {n: t.detach().clone().requires_grad_() for n, t in given.items()}
        out = function(**({n: t.transpose(1, 2) if turn and t.dim() == 3 else t for n, t in leaves.items()}))
        out = out.transpose(1, 2) if turn else out
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), weight.to(out.dtype))]

    exact = results(ours("torch"), {n: t.double() for n, t in inputs.items()})
    got = results(official, inputs, turn=True) if backend == "mamba_ssm" else results(ours(backend), inputs)
    relative = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exact, strict=True)]
    row: dict[str, Any] = {"shape": shape, "kind": kind, "dtype": str(dtype).removeprefix("torch."), "backend": backend}
    row["relative"] = dict(zip(("output", *NAMES), relative, strict=True))
    log.info("%s", row)
    return row


def profile(shape: tuple[int, int, int]) -> dict[str, float]:
    """Milliseconds of each kernel of one forward and backward pass."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    run = forward_and_backward(ours("triton"), make_inputs(shape, "cuda", "trained"))["both"]
    run()
    with record(activities=[ProfilerActivity.CUDA]) as trace:
        run()
        torch.cuda.synchronize()
    table = {event.key: event.self_device_time_total / 1000 for event in trace.key_averages()}
    return {name: ms for name, ms in sorted(table.items(), key=lambda item: -item[1]) if ms > 0.02}


def gpu_part() -> dict:
    with_official = importlib.util.find_spec("mamba_ssm") is not None
    if not with_official:
        log.warning("mamba-ssm is not installed: its columns stay empty.")
    device = torch.cuda.get_device_properties(0)
    result: dict[str, Any] = {
        "machine": f"{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
        "versions": versions("torch", "triton", "mamba-ssm", "causal-conv1d"),
        "copy_bandwidth": copy_bandwidth(),
        "errors": [],
    }
    result["scan"] = [time_scans(shape, with_official) for shape in SHAPES]
    result["profile"] = profile(SHAPES[0])
    torch.cuda.empty_cache()
    result["block"] = [time_block(*sizes, with_official) for sizes in BLOCKS]
    for kind in ("random", "trained"):
        for dtype, backend in ((torch.float32, "triton"), (torch.float32, "mamba_ssm"), (torch.bfloat16, "triton")):
            if backend == "triton" or with_official:
                result["errors"].append(errors((2, 64, 20000), kind, dtype, backend, "cuda"))
    return result
