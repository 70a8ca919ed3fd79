"""The tables and the chart of benchmarks/networks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from networks_sets import NETWORKS, REFERENCE
from settings import PAPER
from umamba.files import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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


def write_report(rows: list[dict[str, Any]], folder: Path) -> None:
    """Tables in networks.md, one for each machine, commit and precision, and the chart networks.png."""
    order = {name: index for index, name in enumerate((*PAPER, *NETWORKS))}
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
    write_text(folder / "networks.md", "\n".join([*lines, ""]))
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
    settings = [name for name in PAPER if any(row["setting"] == name for row in rows)]
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
