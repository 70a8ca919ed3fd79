"""Time the selective scan against mamba-ssm on a GPU and against the plain recurrence and mambapy on the CPU.

    python benchmarks/selective_scan.py gpu     # needs a CUDA device; mamba-ssm and causal-conv1d if installed
    python benchmarks/selective_scan.py cpu     # mambapy if installed

Each part adds to docs/benchmarks/selective_scan.json and draws the table (.md) and chart (.png) anew from all of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.selective_scan_report import write_report  # noqa: E402
from src.models.mamba import block, scan  # noqa: E402

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
STATES = 16
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def make_inputs(shape: tuple[int, int, int], device: str, kind: str = "random", seed: int = 0) -> dict[str, Tensor]:
    """Random inputs; "trained": A = -1 ... -16 and step sizes from 1e-5 (memory of 1e5 tokens) to 10 (none)."""
    batch, channels, length = shape
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    inputs = dict(
        u=normal(batch, length, channels),
        delta=0.5 * normal(batch, length, channels),
        A=-torch.arange(1.0, STATES + 1, device=device).repeat(channels, 1),
        B=normal(batch, length, STATES),
        C=normal(batch, length, STATES),
        D=normal(channels),
        z=normal(batch, length, channels),
        delta_bias=normal(channels) - 4,
    )
    if kind == "random":
        inputs["A"] = -torch.exp(normal(channels, STATES))
    else:
        inputs["delta_bias"] = torch.linspace(-11.5, 10, channels, device=device)
    return inputs


def median_ms(function: Callable[[], object], seconds: float = 0.15) -> float:
    """Median time of `function` by CUDA events, after warming up, over at least 5 runs."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < seconds and len(times) < 50):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def graph_ms(function: Callable[[], object], repeats: int = 20) -> float:
    """Time of `function` inside a CUDA graph: the device's work without the host's launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            function()
    return median_ms(graph.replay) / repeats


def forward_and_backward(scan_function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> dict[str, Callable]:
    """Closures that run the forward pass without gradients, and both passes."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    weight = torch.randn_like(inputs["u"])

    def forward() -> Tensor:
        with torch.no_grad():
            return scan_function(**inputs)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(scan_function(**leaves), list(leaves.values()), weight)

    return {"forward": forward, "both": both}


def ours(backend: str) -> Callable[..., Tensor]:
    return lambda **inputs: scan.selective_scan(**inputs, delta_softplus=True, backend=backend)


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
    for name, (function, given) in parties.items():
        runs = forward_and_backward(function, given)
        row[name] = {what: median_ms(run) for what, run in runs.items()}
        if small:
            row[name] |= {f"{what}_graph": graph_ms(run) for what, run in runs.items()}
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

        def both(layer=layer, x=x, weight=weight) -> None:
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
    row = {"shape": shape, "kind": kind, "dtype": str(dtype).removeprefix("torch."), "backend": backend}
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


def versions(*packages: str) -> dict[str, str]:
    revision = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    found = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(_module(name))}
    commit = os.environ.get("BENCHMARK_COMMIT") or revision.strip() or "unknown"
    return {"python": platform.python_version(), "torch": torch.__version__, **found, "commit": commit}


def _module(package: str) -> str:
    return package.replace("-", "_")


def gpu_part() -> dict:
    with_official = importlib.util.find_spec("mamba_ssm") is not None
    if not with_official:
        log.warning("mamba-ssm is not installed: its columns stay empty.")
    device = torch.cuda.get_device_properties(0)
    result = {
        "machine": f"{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
        "versions": versions("triton", "mamba-ssm", "causal-conv1d"),
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


def mambapy_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The selective scan as mambapy's block composes it around its parallel scan."""
    from mambapy.pscan import pscan

    delta = torch.nn.functional.softplus(delta + delta_bias)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    states = pscan(decay, (delta * u).unsqueeze(-1) * B.unsqueeze(2))
    return ((states @ C.unsqueeze(-1)).squeeze(3) + D * u) * torch.nn.functional.silu(z)


def cpu_run(party: str, length: int, channels: int) -> None:
    """Time one party in this process, on one thread, and print the growth of its peak memory and its seconds as JSON.

    Processor time, not time on the wall: other work on the machine does not enter it.
    """
    torch.set_num_threads(1)
    functions = {"torch": ours("torch"), "reference": ours("reference"), "mambapy": mambapy_scan}
    inputs = make_inputs((1, channels, length), "cpu", "trained")
    run = forward_and_backward(functions[party], inputs)["both"]
    forward_and_backward(functions[party], make_inputs((1, channels, 64), "cpu"))[
        "both"
    ]()  # load what is loaded lazily
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(1 if party == "reference" else 3):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    json.dump({"seconds": statistics.median(times), "peak_gib": grown}, sys.stdout)


def cpu_part() -> dict:
    channels, length = 64, 32768
    result = {
        "machine": f"{platform.machine()} CPU, one thread, processor time",
        "versions": versions("mambapy"),
        "shape": (1, channels, length),
    }
    for party in ("torch", "reference", "mambapy"):
        if party == "mambapy" and importlib.util.find_spec("mambapy") is None:
            log.warning("mambapy is not installed: its row stays empty.")
            continue
        command = [sys.executable, __file__, "cpu-run", "--party", party]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result[party] = json.loads(done.stdout)
        log.info("%s %s", party, result[party])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("gpu", "cpu", "cpu-run", "report"))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the results")
    parser.add_argument("--party", choices=("torch", "reference", "mambapy"), default="torch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.part == "cpu-run":
        cpu_run(arguments.party, 32768, 64)
        return
    path = arguments.output / "selective_scan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    if arguments.part != "report":
        results[arguments.part] = {"gpu": gpu_part, "cpu": cpu_part}[arguments.part]()
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, path)
    write_report(results, arguments.output)


if __name__ == "__main__":
    main()
