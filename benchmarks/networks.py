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
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track
from rich.table import Table

from common import versions
from umamba.files import write_json
from umamba.models.cost import activation_bytes, count_flops, count_parameters
from umamba.models.fused_optimizer import fuse
from umamba.models.losses import DeepSupervision, DiceCELoss

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
FLAT_3D = {
    "kernel_sizes": ((1, 3, 3),) + ((3, 3, 3),) * 5,
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
}
SETTINGS: dict[str, dict[str, Any]] = {  # channels, labels with background, patch, batch
    "ct_3d": {"in_channels": 1, "out_channels": 14, "patch_size": (40, 224, 192), "batch": 2},
    "mr_3d": {"in_channels": 1, "out_channels": 14, "patch_size": (48, 160, 224), "batch": 2},
    "mr_2d": {"in_channels": 1, "out_channels": 14, "patch_size": (320, 320), "batch": 30},
    "endoscopy": {"in_channels": 3, "out_channels": 8, "patch_size": (384, 640), "batch": 13},
    "cells": {"in_channels": 3, "out_channels": 3, "patch_size": (512, 512), "batch": 12},
}
STAGES_2D = {"mr_2d": 7, "endoscopy": 7, "cells": 8}
NETWORKS = {
    "nnU-Net CNN": ["+model=nnunet"],
    "ResEnc": ["+model=resenc"],
    "U-Mamba_Bot": ["+model=umamba_bot"],
    "U-Mamba_Enc": ["+model=umamba_enc"],
    "No-Mamba control": ["+model=umamba_none"],
    "U-Mamba_Bot repo": ["+model=umamba_bot", "model.network.variant=repo"],
    "U-Mamba_Enc repo": ["+model=umamba_enc", "model.network.variant=repo"],
    "No-Mamba control repo": ["+model=umamba_none", "model.network.variant=repo"],
    "SegResNet": ["+model=segresnet"],
    "UNETR": ["+model=unetr"],
    "SwinUNETR": ["+model=swinunetr"],
}
FULL_PRECISION = ("SwinUNETR",)  # as it was measured for REFERENCE
# Step of the original implementations on one H100 80 GB, eager: ms, peak GiB, precision
REFERENCE: dict[tuple[str, str], tuple[float, float, str]] = {
    ("ct_3d", "nnU-Net CNN"): (66, 4.9, "fp16"),
    ("ct_3d", "U-Mamba_Bot"): (147, 8.7, "fp16"),
    ("ct_3d", "U-Mamba_Enc"): (305, 17.1, "fp16"),
    ("ct_3d", "U-Mamba_Bot repo"): (150, 9.5, "fp16"),
    ("ct_3d", "U-Mamba_Enc repo"): (309, 17.4, "fp16"),
    ("ct_3d", "No-Mamba control repo"): (149, 9.3, "fp16"),
    ("ct_3d", "SegResNet"): (108, 8.5, "bf16"),
    ("ct_3d", "UNETR"): (106, 4.7, "bf16"),
    ("ct_3d", "SwinUNETR"): (389, 33.9, "32"),
    ("mr_2d", "nnU-Net CNN"): (50, 4.9, "fp16"),
    ("mr_2d", "U-Mamba_Enc"): (233, 17.7, "fp16"),
    ("mr_2d", "U-Mamba_Enc repo"): (184, 14.6, "fp16"),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "32": None}
ABOUT = ("device", "torch", "commit", "compiled", "date")  # keys of a row that head its table
COLUMNS = {  # key of a row -> heading
    "setting": "setting",
    "network": "network",
    "patch": "patch",
    "batch": "batch",
    "precision": "precision",
    "million_parameters": "M parameters",
    "gflop": "GFLOP",
    "activations_gib": "activations GiB",
    "forward_ms": "forward ms",
    "step_ms": "step ms",
    "peak_gib": "peak GiB",
    "reference": "reference step",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
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
    shape = (SETTINGS[setting]["batch"], plan["in_channels"], *plan["patch_size"])
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
    arguments = {key: value for key, value in SETTINGS[setting].items() if key != "batch"}
    arguments["patch_size"] = tuple(-(-size // patch_multiple) * patch_multiple for size in arguments["patch_size"])
    arguments["spatial_dims"] = len(arguments["patch_size"])
    stages = STAGES_2D.get(setting, 6)
    largest = 512 if setting in STAGES_2D else 320
    arguments["features_per_stage"] = tuple(min(32 * 2**stage, largest) for stage in range(stages))
    if setting in STAGES_2D:
        return arguments | {"kernel_sizes": ((3, 3),) * stages, "strides": ((1, 1),) + ((2, 2),) * (stages - 1)}
    return arguments | FLAT_3D


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
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 12)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def forward() -> None:
        with torch.no_grad(), autocast:
            run(image[:1])

    median_ms(step, 2, device)  # optimiser state exists, algorithms are chosen
    measured = {}
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    measured["step_ms"] = round(median_ms(step, args.steps, device), 1)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        measured |= {"peak_gib": round(peak / 2**30, 2), "activations_gib": round((peak - before) / 2**30, 2)}
    network.deep_supervision = False  # type: ignore[assignment]  # a switch that every network here has
    network.eval()
    median_ms(forward, 2, device)
    return measured | {"forward_ms": round(median_ms(forward, args.steps, device), 1)}


def median_ms(function: Callable[[], None], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def rich_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS.values())
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in COLUMNS))
    return table


def write_report(rows: list[dict[str, Any]], folder: Path) -> None:
    """Tables in networks.md, one for each machine, commit and precision, and the chart networks.png."""
    order = {name: index for index, name in enumerate((*SETTINGS, *NETWORKS))}
    rows = sorted(rows, key=lambda row: (order[row["setting"]], order[row["network"]]))
    lines = [
        "# Cost of the networks",
        "",
        "`python benchmarks/networks.py`, whose head says what is measured. Reference: the original implementations on "
        "one H100 80 GB, eager.",
        "",
        "![Cost of the networks](networks.png)",
    ]
    tables: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(tuple(row[key] for key in ABOUT), []).append(row)
    for (device, torch_version, commit, compiled, date), table in sorted(
        tables.items(), key=lambda item: item[0][0].startswith("CPU")
    ):
        mode = "torch.compile" if compiled else "eager"
        lines += ["", f"## {device}, torch {torch_version}, {mode}, commit {commit}, {date}", ""]
        columns = {key: heading for key, heading in COLUMNS.items() if any(key in row for row in table)}
        if "step_ms" not in columns:
            del columns["reference"]
        lines += ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in table]
    (folder / "networks.md").write_text("\n".join([*lines, ""]))
    draw(rows, folder / "networks.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars per network and setting: parameters, operations, activations, and the step where it was timed.

    One row each: a timed one before one from a CPU, whose activations are then left out, and bf16 before fp16.
    """
    chosen: dict[tuple, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: ("step_ms" not in row, row["precision"] == "fp16")):
        chosen.setdefault((row["setting"], row["network"]), row)
    if any("step_ms" in row for row in rows):
        chosen = {k: r if "step_ms" in r else {**r, "activations_gib": None} for k, r in chosen.items()}
    rows = list(chosen.values())
    keys = [key for key in ("million_parameters", "gflop", "activations_gib", "step_ms") if any(key in r for r in rows)]
    networks = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    settings = [name for name in SETTINGS if any(row["setting"] == name for row in rows)]
    figure, axes = plt.subplots(
        1, len(keys), figsize=(4 * len(keys), 1 + 0.5 * len(networks)), sharey=True, layout="constrained"
    )
    height = 0.8 / len(settings)
    for axis, key in zip(axes, keys, strict=True):
        for index, setting in enumerate(settings):
            values = {r["network"]: r.get(key) for r in rows if r["setting"] == setting}
            places = [networks.index(n) + index * height for n, v in values.items() if isinstance(v, (int, float))]
            numbers = [v for v in values.values() if isinstance(v, (int, float))]
            axis.barh(places, numbers, height, label=setting)
            if key == "step_ms":
                known = [(networks.index(n), REFERENCE[setting, n][0]) for n in values if (setting, n) in REFERENCE]
                axis.plot([ms for _, ms in known], [y + index * height for y, _ in known], "k|", markersize=8)
        axis.set_xlabel(COLUMNS[key] + (" (| reference)" if key == "step_ms" else ""))
    axes[0].set_yticks([i + 0.4 - height / 2 for i in range(len(networks))], networks)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
