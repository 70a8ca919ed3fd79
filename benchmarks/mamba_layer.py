"""U-Mamba_Enc's six Mamba layers on the CT plan, forward and backward: a table, a chart and a JSON file. Needs CUDA.

    python benchmarks/mamba_layer.py          # half a minute

A layer is layer norm, in-projection, causal convolution, selective scan and out-projection on (2, C, Z, Y, X) in half
precision, channels-last as between the network's convolutions; its input and all its weights get gradients. `device ms`
is a CUDA graph's replay, `clock ms` the same launched singly, and `peak gib` what is needed beside the layer's input.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch

from common import draw_bars, versions
from settings import PAPER
from timing import PeakMemory, clock_ms, replay_ms
from training_step import DTYPES
from umamba.files import write_json, write_text
from umamba.models.device_memory import use_expandable_segments
from umamba.models.mamba.layer import MambaLayer

ROOT = Path(__file__).resolve().parents[1]
PLAN = PAPER["ct_3d"]
REPEATS = 10
COLUMNS = ("precision", "stage", "shape", "device_ms", "clock_ms", "peak_gib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device, and nothing else to time.")
    use_expandable_segments(torch.device("cuda"))
    rows = [
        {"precision": precision, "stage": stage, "shape": list(shape), **measure(shape, precision)}
        for precision in args.precision
        for stage, shape in enumerate(shapes())
    ]
    about = {"device": torch.cuda.get_device_name(), **versions("torch", "triton"), "date": time.strftime("%Y-%m-%d")}
    args.output.mkdir(parents=True, exist_ok=True)
    write_json({**about, "layers": rows}, args.output / "mamba_layer.json")
    write_text(report(about, rows), args.output / "mamba_layer.md")
    draw(rows, args.output / "mamba_layer.png")


def shapes() -> list[tuple[int, ...]]:
    """(B, C, *S) of each encoder stage's map."""
    spatial, found = list(PLAN.patch), []
    for strides, channels in zip(PLAN.stage_strides(), PLAN.topology["features_per_stage"], strict=True):
        spatial = [size // step for size, step in zip(spatial, strides, strict=True)]
        found.append((PLAN.batch, channels, *spatial))
    return found


def measure(shape: tuple[int, ...], precision: str) -> dict[str, float]:
    """Medians of forward and backward pass in ms, and the memory in GiB."""
    torch.manual_seed(0)
    batch, channels, *spatial = shape
    layer = MambaLayer(channels, spatial_dims=len(spatial)).cuda()
    maps = [torch.randn(batch, *spatial, channels, device="cuda", dtype=DTYPES[precision]) for _ in range(2)]
    x, grad = (t.movedim(-1, 1) for t in maps)
    leaves = [x.requires_grad_(), *layer.parameters()]

    def step() -> None:
        torch.autograd.grad(layer(x), leaves, grad)

    for _ in range(3):
        step()
    memory = PeakMemory()
    clock = clock_ms(step, REPEATS, torch.device("cuda"))
    peak = memory.grown_gib()
    return {
        "device_ms": round(replay_ms(step, REPEATS), 3),
        "clock_ms": round(clock, 3),
        "peak_gib": round(peak, 2),
    }


def report(about: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """All layers as Markdown, and their sum for each precision."""
    made = ", ".join(f"{name} {about[name]}" for name in ("torch", "triton", "commit") if name in about)
    lines = [
        "# The Mamba layers", "",
        f"`python benchmarks/mamba_layer.py` on one {about['device']}, {made}, {about['date']}: forward and backward.",
        "",
        "| " + " | ".join(column.replace("_", " ") for column in COLUMNS) + " |", "|" + "---|" * len(COLUMNS),
    ]  # fmt: skip
    for precision in dict.fromkeys(row["precision"] for row in rows):
        layers = [row for row in rows if row["precision"] == precision]
        whole = {key: round(math.fsum(row[key] for row in layers), 2) for key in ("device_ms", "clock_ms")}
        lines += ["| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in layers]
        lines.append(f"| {precision} | all | | {whole['device_ms']} | {whole['clock_ms']} | |")
    return "\n".join([*lines, ""])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    charts: dict[str, dict[str, list[float | None]]] = {
        quantity: {
            p: [next(row[key] for row in rows if (row["stage"], row["precision"]) == (s, p)) for s in stages]
            for p in precisions
        }
        for quantity, key in (
            ("time of the kernels on the GPU, ms", "device_ms"),
            ("time by the clock, ms", "clock_ms"),
        )
    }
    draw_bars(path, [f"stage {stage}" for stage in stages], charts)


if __name__ == "__main__":
    main()
