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
    """One chart a quantity, side by side: quantity with its unit -> party -> a number, or None, for each group."""
    size = (5 * len(charts), 1.5 + 0.6 * len(groups))
    figure, axes = plt.subplots(1, len(charts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, (quantity, parties) in zip(axes[0], charts.items(), strict=True):
        height = 0.8 / len(parties)
        for index, (party, numbers) in enumerate(parties.items()):
            places = [group + index * height for group in range(len(groups))]
            bars = axis.barh(places, [number or 0 for number in numbers], height, label=party)
            axis.bar_label(bars, ["not run" if n is None else f"{n:.3g}" for n in numbers], padding=2, fontsize="small")
        axis.set_xlabel(quantity)
        axis.margins(x=0.15)
        axis.set_yticks([group + 0.4 - height / 2 for group in range(len(groups))], groups)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
