"""The tables and the chart of benchmarks/networks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from common import IN_WORDS as OF_SETTINGS
from networks_sets import NETWORKS, REFERENCE
from settings import PAPER
from umamba.drawing.palette import network_colour
from umamba.files import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ABOUT = ("device", "torch", "commit", "compiled", "date")  # keys of a row that head its table
IN_WORDS = {  # what is drawn, and what its axis says
    "million_parameters": "parameters, millions",
    "gflop": "operations of one patch, GFLOP",
    "activations_gib": "memory of a training step beyond\nweights and optimiser, GiB",
    "step_ms": "time of a training step, ms\n(red: the original implementation)",
}
_OF_OURS, _OF_ORIGINAL = network_colour(0), network_colour(6)
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
        "one H100 80 GB, eager. A heading names the commit that was timed; the chart has times and memory of the last "
        "one alone. These steps are not replayed from CUDA graphs, as a training's are, so that a slow host counts; "
        "what a training's steps take is in [Training steps](training_step.md).",
        "",
        "![Cost of the networks](networks.png)",
    ]
    tables: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(tuple(row[key] for key in ABOUT), []).append(row)
    for (device, torch_version, commit, compiled, date), table in sorted(
        sorted(tables.items(), key=lambda item: item[0][4], reverse=True), key=lambda item: item[0][0].startswith("CPU")
    ):
        mode = "torch.compile" if compiled else "eager"
        lines += ["", f"## {device}, torch {torch_version}, {mode}, commit {commit}, {date}", ""]
        columns = {key: heading for key, heading in COLUMNS.items() if any(key in row for row in table)}
        if "step_ms" not in columns:
            del columns["reference"]
        lines += ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in table]
    write_text("\n".join([*lines, ""]), folder / "networks.md")
    draw(rows, folder / "networks.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A line of charts for each setting: parameters, operations, activations, and the step where it was timed.

    One row of a network and setting each: a timed one before one from a CPU, whose activations are then left out, and
    bf16 before fp16. What older code than that of the last timed row took is left out, for bars are compared.
    """
    timed = [row for row in rows if "step_ms" in row]
    last = max(timed, key=lambda row: row["date"], default={}).get("commit")
    chosen: dict[tuple, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: ("step_ms" not in row, row["precision"] == "fp16")):
        chosen.setdefault((row["setting"], row["network"]), row)
    if timed:
        untimed = {"activations_gib": None, "step_ms": None}
        chosen = {k: row if row["commit"] == last else row | untimed for k, row in chosen.items()}
    keys = [key for key in IN_WORDS if any(key in row for row in chosen.values())]
    networks = [name for name in NETWORKS if any(network == name for _, network in chosen)]
    settings = [name for name in PAPER if any(setting == name for setting, _ in chosen)]
    size = (4 * len(keys), 0.4 + (1.1 + 0.24 * len(networks)) * len(settings))
    figure, axes = plt.subplots(
        len(settings), len(keys), figsize=size, sharex="col", sharey=True, squeeze=False, layout="constrained"
    )
    for line, setting in zip(axes, settings, strict=True):
        for axis, key in zip(line, keys, strict=True):
            measured = [chosen.get((setting, network), {}).get(key) for network in networks]
            original = [REFERENCE.get((setting, name), (0,))[0] if key == "step_ms" else 0 for name in networks]
            widest = max((row.get(key) or 0 for row in chosen.values()), default=0)
            _bars(axis, measured, original, widest)
        shapes = [f"{row['batch']} x {row['patch']}" for (name, _), row in chosen.items() if name == setting]
        line[0].set_title(f"{OF_SETTINGS[setting]}: {shapes[0]}", loc="left", fontweight="bold")
        line[0].set_yticks(range(len(networks)), [name.replace(" repo", ", as in the code") for name in networks])
        for axis, key in zip(line, keys, strict=True):  # in each line, for the page shows one or two at a time
            axis.set_xlabel(IN_WORDS[key], fontsize="small")
            axis.tick_params(labelbottom=True, labelsize="small")
            axis.margins(x=0.25)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _bars(axis: Any, values: list[Any], marks: list[float], widest: float) -> None:
    """A bar for each network, with its number; a mark with its own where it is not 0.

    Args:
        axis: What is drawn into.
        values: Of the bars; None or a word where there is none.
        marks: Of the original implementations.
        widest: Value of the longest bar of all lines, which share their axis.
    """
    numbers = [value if isinstance(value, (int, float)) else 0 for value in values]
    axis.barh(range(len(values)), numbers, 0.75, color=_OF_OURS)
    marked = [(place, mark) for place, mark in enumerate(marks) if mark]
    axis.plot([mark for _, mark in marked], [place for place, _ in marked], "|", c=_OF_ORIGINAL, ms=11, mew=2.5)
    for place, (value, number, mark) in enumerate(zip(values, numbers, marks, strict=True)):
        label = f"{value:.4g}" if isinstance(value, (int, float)) else str(value or "not measured")
        style = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
        if not mark:
            axis.annotate(label, (number, place), (5, 0), **style)
            continue
        # The bar's number within it, that the mark's stands alone beside the mark; or both there, for want of room
        within = min(number, mark) > 0.15 * widest
        where = (min(number, mark), place) if within else (max(number, mark), place)
        side = {"ha": "right", "color": "white"} if within else {}
        axis.annotate(label, where, (-5 if within else 5, 0), **side, **style)
        shift = 5 if within else 10 + 7 * len(label)
        axis.annotate(f"{mark:g}", (max(number, mark), place), (shift, 0), color=_OF_ORIGINAL, **style)
    axis.spines[["top", "right"]].set_visible(False)
