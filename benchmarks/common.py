"""What the benchmarks share: the machine and versions behind a number, and a chart of bars."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from umamba.drawing.palette import network_colour
from umamba.machine import processor_name
from umamba.run.provenance import git_revision


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and those of `packages` that are installed, and the commit of the code."""
    found = {}
    for name in packages:
        if importlib.util.find_spec(name.replace("-", "_")):
            found[name] = importlib.metadata.version(name)
    commit = os.environ.get("BENCHMARK_COMMIT") or git_revision() or "unknown"  # the former where there is no checkout
    return {"python": platform.python_version(), **found, "commit": commit}


def processor() -> str:
    """Name of the processor and number of cores."""
    return f"{processor_name()}, {os.cpu_count()} cores"


IN_WORDS = {  # settings of the benchmarks as axes name them; what is not here stands for itself
    "ct_3d": "Abdomen CT, 3D", "mr_3d": "Abdomen MR, 3D", "mr_2d": "Abdomen MR, 2D", "endoscopy": "Endoscopy, 2D",
    "cells": "Cells, 2D", "hippocampus": "Hippocampus, 3D", "pictures": "Endoscopy, 2D",
    "ct_cnn": "CT, nnU-Net CNN", "ct_bot": "CT, U-Mamba_Bot", "ct_enc": "CT, U-Mamba_Enc", "ct_118": "CT, 118 classes",
    "ct_long_118": "CT, 800 slices, 118 classes",
    "ct": "4 CTs", "mr": "8 MRs", "large": "2 CTs of 500 slices", "main": "main memory", "device": "GPU",
    "umamba_bot": "U-Mamba_Bot", "umamba_enc": "U-Mamba_Enc", "nnunet": "nnU-Net CNN",
}  # fmt: skip


def in_words(name: str) -> str:
    """A setting, or several between commas, as an axis names it."""
    return ", ".join(IN_WORDS.get(part, part) for part in name.split(", "))


def draw_bars(path: Path, groups: list[str], charts: dict[str, dict[str, list[float | None]]]) -> None:
    """One chart a quantity, side by side: quantity with its unit -> party -> a number, or None, for each group.

    What was not run has no bar, and the others of its group share the room; colours are named above the first chart
    that has them. A figure is as high as the numbers at its bars need.
    """
    most = max(
        sum(numbers[g] is not None for numbers in p.values()) for p in charts.values() for g in range(len(groups))
    )
    size = (5 * len(charts), 1.5 + max(0.5, 0.22 * most + 0.12) * len(groups))
    figure, axes = plt.subplots(1, len(charts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    named: list[str] = []
    for axis, (quantity, parties) in zip(axes[0], charts.items(), strict=True):
        there = [[name for name, numbers in parties.items() if numbers[g] is not None] for g in range(len(groups))]
        for place, (party, numbers) in enumerate(parties.items()):
            known = [(g, number) for g, number in enumerate(numbers) if number is not None]
            heights = [0.8 / len(there[g]) for g, _ in known]
            middles = [(len(there[g]) - 1) / 2 for g, _ in known]
            places = [
                g + (there[g].index(party) - middle) * height
                for (g, _), height, middle in zip(known, heights, middles, strict=True)
            ]
            bars = axis.barh(
                places, [number for _, number in known], heights, label=in_words(party), color=network_colour(place)
            )
            axis.bar_label(bars, [f"{number:.3g}" for _, number in known], padding=2, fontsize="small")
        axis.set_xlabel(quantity)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(range(len(groups)), map(in_words, groups))
        if list(parties) != named:
            named = list(parties)
            columns = max(
                1, min(len(named), 36 // max(len(in_words(name)) for name in named))
            )  # of some 12 letters each
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize="small", frameon=False)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
