"""Training steps with and without the fused kernels: a table and a JSON file. Needs a CUDA device.

    python benchmarks/training_step.py                          # all settings, about three minutes
    python benchmarks/training_step.py --settings ct_3d --networks U-Mamba_Enc --profile

A step is forward under autocast, deep-supervision loss, backward, gradient clipping and SGD, as `networks.py` times it;
`device ms` is the sum of its kernels, less than the step where the device waits for the host; `graph ms` is the step
replayed from CUDA graphs. `peak gib` is that of tensors, `held gib` all that torch holds then, `graph gib` all that it
holds with the graphs, which keep their memory. "Before" is the same network with torch's own instance norm,
channels-first maps and Mamba layers in float32. Each run adds its rows to training_step.json, in place of those of the
same setting, network, precision and device.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from common import draw_bars
from fast_path import SWITCHES
from settings import HIPPOCAMPUS, PAPER
from timing import PeakMemory, clock_ms, descend
from umamba.files import write_json, write_text
from umamba.models.device_memory import use_expandable_segments
from umamba.models.fused_optimizer import fuse
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.step_graph import GraphedLoss
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {name: PAPER[name] for name in ("ct_3d", "mr_2d", "endoscopy", "cells")} | {"hippocampus": HIPPOCAMPUS}
NETWORKS = {
    "nnU-Net CNN": (PlainConvUNet, {}),
    "No-Mamba control": (UMamba, {"mamba": "none"}),
    "U-Mamba_Bot": (UMamba, {"mamba": "bottleneck"}),
    "U-Mamba_Enc": (UMamba, {"mamba": "encoder"}),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
REPEATS, WARM_UP = 7, 3
COLUMNS = (
    "setting", "network", "precision", "step_ms", "device_ms", "peak_gib", "held_gib", "graph_ms", "graph_gib",
    "before_ms", "before_gib",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--precision", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--before", action="store_true", help="also without the kernels")
    parser.add_argument("--no-graph", action="store_true", help="without the step as CUDA graphs")
    parser.add_argument("--fixed-segments", action="store_true", help="torch's memory as torch itself keeps it")
    parser.add_argument("--profile", action="store_true", help="also write the kernels of a step, by their time")
    parser.add_argument("--commit", default="", help="of the code, for the table")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device, and nothing else to time.")
    torch.backends.cudnn.benchmark = True
    if not args.fixed_segments:
        use_expandable_segments(torch.device("cuda"))
    about = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": args.commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "training_step.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for setting in args.settings:
        for network in args.networks:
            for precision in args.precision:
                row = about | {"setting": setting, "network": network, "precision": precision}
                row |= measure(setting, network, precision, args.output if args.profile else None, not args.no_graph)
                if args.before:
                    with without_kernels():
                        plain = measure(setting, network, precision, None, graph=False)
                    row |= {"before_ms": plain["step_ms"], "before_gib": plain["peak_gib"]}
                rows = [r for r in rows if identity(r) != identity(row)] + [row]
                write_json(rows, path)  # after every row: a benchmark cut short keeps what it has
                write_text(report(rows), args.output / "training_step.md")
                draw(rows, args.output / "training_step.png")
                torch.cuda.empty_cache()


def identity(row: dict[str, Any]) -> tuple:
    return tuple(row[key] for key in ("device", "setting", "network", "precision"))


def without_kernels() -> ExitStack:
    """Torch's own operations, as on a device where the kernels fail their check; the scan stays."""
    stack = ExitStack()
    for switch in SWITCHES:
        stack.enter_context(mock.patch(switch, lambda *device: False))
    return stack


def measure(setting: str, name: str, precision: str, folder: Path | None, graph: bool) -> dict[str, float]:
    """Median of a step in ms, the sum of its kernels, and the peak memory; kernels to a file in `folder`."""
    plan = SETTINGS[setting]
    make, arguments = NETWORKS[name]
    torch.manual_seed(0)
    spatial = plan.patch
    topology = plan.topology | {"in_channels": plan.channels, "out_channels": plan.labels}
    with torch.device("cuda"):
        network = make(spatial_dims=len(spatial), **topology, **arguments)
    network.to("cuda")  # where weights get their layout
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    fuse(optimizer)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    loss_function = DeepSupervision(DiceCELoss(len(spatial) == 2, None))
    image = torch.randn(plan.batch, plan.channels, *spatial, device="cuda")
    label = torch.randint(plan.labels, (plan.batch, *spatial), device="cuda", dtype=torch.int16)

    def loss_of(image: Tensor, label: Tensor) -> Tensor:
        return loss_function(network(image), label)

    def step(loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
        with torch.autocast("cuda", dtype=DTYPES[precision]):
            loss = loss_of(image, label)
        descend(loss, parameters, optimizer, scaler)

    step_ms, peak, held = timed(lambda: step(loss_of))
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step(loss_of)
        torch.cuda.synchronize()
    kernels = [(e.self_device_time_total / 1e3, e.count, e.key) for e in profiler.key_averages()]
    device_ms = round(sum(ms for ms, *_ in kernels), 1)
    found = {"step_ms": step_ms, "device_ms": device_ms, "peak_gib": peak, "held_gib": held}
    if graph:
        graphed = GraphedLoss(loss_of, parameters)
        found["graph_ms"], _, found["graph_gib"] = timed(lambda: step(graphed))
    if folder is not None:
        lines = [f"{ms:8.2f} ms {count:5d} {key[:120]}" for ms, count, key in sorted(kernels, reverse=True)[:60]]
        file = f"training_step_{setting}_{name}_{precision}.txt".replace(" ", "_")
        write_text("\n".join([*lines, ""]), folder / file)
    return found


def timed(step: Callable[[], None]) -> tuple[float, float, float]:
    """Median of a step in ms, and the peak memory in GiB after the warm-up: of tensors, and of what torch holds."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    memory = PeakMemory()
    step_ms = clock_ms(step, REPEATS, torch.device("cuda"))
    return round(step_ms, 1), round(memory.peak_gib(), 2), round(torch.cuda.max_memory_reserved() / 2**30, 2)


def report(rows: list[dict[str, Any]]) -> str:
    """All rows as Markdown, a table for each machine and commit."""
    lines = ["# Training steps", "", "`python benchmarks/training_step.py`, whose head says what is measured."]
    tables: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(tuple(row[key] for key in ("device", "torch", "commit", "date")), []).append(row)
    for (device, version, commit, date), table in tables.items():
        lines += ["", f"## {device}, torch {version}, eager, commit {commit}, {date}", ""]
        lines += ["| " + " | ".join(key.replace("_", " ") for key in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in COLUMNS) + " |" for row in table]
    return "\n".join([*lines, ""])


AXES = {  # what a chart's axis says -> key of a row
    "time of a step, kernels launched singly, ms": "step_ms",
    "time of a step, replayed from a CUDA graph, ms": "graph_ms",
    "peak GPU memory, kernels launched singly, GiB": "peak_gib",
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Step and memory of each setting and network, by precision."""
    groups = list(dict.fromkeys((row["setting"], row["network"]) for row in rows))
    found = {(row["setting"], row["network"], row["precision"]): row for row in rows}  # of several the last
    charts = {
        axis: {p: [found.get((*group, p), {}).get(key) for group in groups] for p in DTYPES}
        for axis, key in (AXES.items())
    }
    draw_bars(path, [", ".join(group) for group in groups], charts)


if __name__ == "__main__":
    main()
