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


def draw_bars(path: Path, groups: list[str], charts: dict[str, dict[str, list[float | None]]]) -> None:
    """One chart a quantity, side by side: quantity with its unit -> party -> a number, or None, for each group.

    What was not run has no bar, and the others of its group share the room; colours are named above the first chart
    that has them.
    """
    size = (5 * len(charts), 1.7 + 0.6 * len(groups))
    figure, axes = plt.subplots(1, len(charts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    named: list[str] = []
    for axis, (quantity, parties) in zip(axes[0], charts.items(), strict=True):
        there = [[name for name, numbers in parties.items() if numbers[g] is not None] for g in range(len(groups))]
        for party, numbers in parties.items():
            known = [(g, number) for g, number in enumerate(numbers) if number is not None]
            heights = [0.8 / len(there[g]) for g, _ in known]
            middles = [(len(there[g]) - 1) / 2 for g, _ in known]
            places = [
                g + (there[g].index(party) - middle) * height
                for (g, _), height, middle in zip(known, heights, middles, strict=True)
            ]
            bars = axis.barh(places, [number for _, number in known], heights, label=party)
            axis.bar_label(bars, [f"{number:.3g}" for _, number in known], padding=2, fontsize="small")
        axis.set_xlabel(quantity)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(range(len(groups)), groups)
        if list(parties) != named:
            named = list(parties)
            columns = max(1, min(len(named), 36 // max(map(len, named))))  # of some 12 letters each
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize="small", frameon=False)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
