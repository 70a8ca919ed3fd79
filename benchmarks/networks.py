"""Cost of every network at the plans of the paper's five settings (Table 2): a table, a chart and a JSON file.

    python benchmarks/networks.py                       # on a GPU with times, about eight seconds a row
    python benchmarks/networks.py --settings ct_3d mr_2d --precision fp16 --compile
    python benchmarks/networks.py --device cpu          # parameters, operations and kept activations; no times

Each run adds its rows to networks.json, in place of those of the same network, setting, precision and device, and draws
the tables (.md) and the chart (.png) anew from all of it.

GFLOP is one forward pass of one patch, a multiply-add counted as two. On a GPU a training step is forward, loss,
backward, clipping and optimiser; activations are its peak memory less what lay on the GPU before it; forward is one
patch, without gradients. On a CPU activations are those kept for the backward pass, computed without running
anything, at the precision of the row.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track
from rich.table import Table

from common import versions
from networks_report import COLUMNS, write_report
from networks_sets import FULL_PRECISION, NETWORKS, REFERENCE
from settings import PAPER
from timing import PeakMemory, clock_ms, descend
from umamba.files import write_json
from umamba.models.cost import activation_bytes, count_flops, count_parameters
from umamba.models.fused_optimizer import fuse
from umamba.models.losses import DeepSupervision, DiceCELoss

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "32": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--settings", nargs="+", default=list(PAPER), choices=list(PAPER))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--steps", type=int, help="timed per row, after two to warm up; default 5 on a GPU, 0 on a CPU")
    parser.add_argument("--precision", default="bf16", choices=list(DTYPES), help="SwinUNETR always runs in 32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args()
    if args.steps is None:
        args.steps = 5 if args.device == "cuda" else 0
    torch.backends.cudnn.benchmark = True
    pairs = [(setting, network) for setting in args.settings for network in args.networks]
    console = Console(width=170)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU ({platform.machine()})"
    about = {
        "device": name,
        "torch": torch.__version__,
        "commit": versions()["commit"],
        "compiled": args.compile,
        "date": time.strftime("%Y-%m-%d"),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "networks.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    measured = []
    for pair in track(pairs, "Measuring", console=console):
        measured.append(about | measure(*pair, args))
        rows = [row for row in rows if identity(row) != identity(measured[-1])] + measured[-1:]
        write_json(rows, path)  # after every row: a benchmark cut short keeps what it has
    console.print(rich_table(measured))
    write_report(rows, args.output)
    console.print(f"Wrote networks.json, networks.md and networks.png to {args.output}")


def identity(row: dict[str, Any]) -> tuple:
    """What a row measures: a second measurement of it replaces the first."""
    kind = "cpu" if row["device"].startswith("CPU") else row["device"]
    return kind, row["compiled"], row["precision"], row["setting"], row["network"]


def measure(setting: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: static cost always, times where steps are asked for."""
    precision = "32" if name in FULL_PRECISION else args.precision
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        model = compose(overrides=NETWORKS[name]).model
    plan = topology(setting, model.patch_multiple)
    with torch.device(args.device):
        network = instantiate(model.network)(**plan, deep_supervision=model.deep_supervision)
    shape = (PAPER[setting].batch, plan["in_channels"], *plan["patch_size"])
    row = {
        "setting": setting,
        "network": name,
        "patch": "x".join(map(str, plan["patch_size"])),
        "batch": shape[0],
        "precision": precision,
        "million_parameters": round(count_parameters(network) / 1e6, 3),
        "gflop": round(count_flops(network, (1, *shape[1:])) / 1e9, 1),
        "reference": "",
    }
    if (setting, name) in REFERENCE:
        row["reference"] = "{:g} ms, {:g} GiB, {}".format(*REFERENCE[setting, name])
    if args.device == "cpu":
        row["activations_gib"] = round(activation_bytes(network, shape, DTYPES[precision]) / 2**30, 2)
    try:
        if args.steps:
            row |= measure_times(network, model, shape, plan["out_channels"], precision, args)
    except torch.cuda.OutOfMemoryError:
        row["step_ms"] = "out of memory"
    finally:
        del network
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return row


def topology(setting: str, patch_multiple: int) -> dict[str, Any]:
    """The plan's part of a network's arguments; the patch rounded up as the network asks."""
    plan = PAPER[setting]
    patch_size = tuple(-(-size // patch_multiple) * patch_multiple for size in plan.patch)
    interface = {"spatial_dims": len(plan.patch), "in_channels": plan.channels, "out_channels": plan.labels}
    return interface | {"patch_size": patch_size} | plan.topology


def measure_times(
    network: torch.nn.Module, model: Any, shape: tuple[int, ...], labels: int, precision: str, args: argparse.Namespace
) -> dict[str, float]:
    """Median times in ms of a training step and of a forward pass of one patch; on a GPU the peak memory in GiB."""
    device = torch.device(args.device)
    run = torch.compile(network) if args.compile else network
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = instantiate(model.optimizer)(parameters)
    fuse(optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    loss_function = DeepSupervision(DiceCELoss(len(shape) == 4, None))
    image = torch.randn(shape, device=device)
    label = torch.randint(labels, (shape[0], *shape[2:]), device=device, dtype=torch.int16)
    autocast = torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "32")

    def step() -> None:
        with autocast:
            loss = loss_function(run(image), label)
        descend(loss, parameters, optimizer, scaler)

    def forward() -> None:
        with torch.no_grad(), autocast:
            run(image[:1])

    clock_ms(step, 2, device)  # optimiser state exists, algorithms are chosen
    measured = {}
    memory = PeakMemory() if device.type == "cuda" else None
    measured["step_ms"] = round(clock_ms(step, args.steps, device), 1)
    if memory is not None:
        measured |= {"peak_gib": round(memory.peak_gib(), 2), "activations_gib": round(memory.grown_gib(), 2)}
    network.deep_supervision = False  # type: ignore[assignment]  # a switch that every network here has
    network.eval()
    clock_ms(forward, 2, device)
    return measured | {"forward_ms": round(clock_ms(forward, args.steps, device), 1)}


def rich_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS.values())
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in COLUMNS))
    return table


if __name__ == "__main__":
    main()
