"""How long scoring takes: a CT with 13 organs against DeepMind's surface-distance, and an image of 1,000 cells.

    python benchmarks/evaluation.py

DSC, NSD and HD95 of a 512 x 512 x 200 case, one core, in the same run; both programs' scores are compared. Peaks of
memory are of processes of their own. Writes docs/benchmarks/evaluation.json, .md and .png; needs surface-distance 0.1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import draw_bars, processor, versions
from umamba.evaluation.standard import score_instances, score_semantic
from umamba.files import write_json
from umamba.raw.organs import ABDOMEN_TOLERANCES

ROOT = Path(__file__).resolve().parent.parent
SHAPE, SPACING = (200, 512, 512), (2.5, 0.8, 0.8)  # z, y, x; mm
RADII = (75, 30, 35, 25, 12, 13, 8, 8, 14, 10, 40, 20, 30)  # mm, of 13 ellipsoids the size of organs
LABELS = {name: index for index, name in enumerate(ABDOMEN_TOLERANCES, start=1)}


def make_case() -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction: rough ellipsoids, the predicted ones moved by 2 mm and rough in another way."""
    rng = np.random.default_rng(0)
    maps = np.zeros((2, *SHAPE), np.uint8)
    for label, radius in enumerate(RADII, start=1):
        centre = np.array(SHAPE) * SPACING * rng.uniform(0.3, 0.7, 3)
        low = np.maximum(((centre - 1.3 * radius) / SPACING).astype(int), 0)
        high = np.minimum(((centre + 1.3 * radius) / SPACING).astype(int) + 1, SHAPE)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        offset = grid * SPACING - centre
        for index, shift in enumerate((0.0, 2.0)):
            distance = np.linalg.norm(offset - shift / np.sqrt(3), axis=-1)
            rough = 1 + 0.06 * np.sin(offset * (0.3 + 0.05 * index)).prod(-1) + rng.normal(0, 0.01, distance.shape)
            maps[index][box][distance < radius * rough] = label
    return maps[0], maps[1]


def make_cells() -> tuple[np.ndarray, np.ndarray]:
    """1,024 discs on a 2048 x 2048 image; predicted with other radii, a tenth of them missing."""
    rng = np.random.default_rng(1)
    maps = np.zeros((2, 2048, 2048), np.int32)
    y, x = np.mgrid[-31:32, -31:32]
    for index in range(1024):
        place = (slice(64 * (index // 32), 64 * (index // 32) + 63), slice(64 * (index % 32), 64 * (index % 32) + 63))
        for which in range(2):
            if which == 0 or rng.random() < 0.9:
                maps[which][place][y**2 + x**2 < rng.uniform(15, 25) ** 2] = index + 1
    return maps[0], maps[1]


def ours(reference: np.ndarray, prediction: np.ndarray) -> list[tuple[float, float, float]]:
    """DSC, NSD and HD95 of each organ by this project."""
    rows = score_semantic(reference, prediction, SPACING, LABELS, ABDOMEN_TOLERANCES)
    return [(row["dsc"], row["nsd"], row["hd95"]) for row in rows]


def deepmind(reference: np.ndarray, prediction: np.ndarray) -> list[tuple[float, float, float]]:
    """The same by DeepMind's surface-distance 0.1, made to run on today's NumPy and SciPy."""
    from scipy import ndimage

    np.Inf, np.NaN = np.inf, np.nan  # type: ignore[attr-defined]
    ndimage.filters = ndimage.morphology = ndimage
    from surface_distance import metrics

    def sort_pairs(distances: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.lexsort((areas, distances))  # faster than the package's sorted(zip(...)): the peer at its best
        return distances[order], areas[order]

    metrics._sort_distances_surfels = sort_pairs
    scores = []
    for name, label in LABELS.items():
        masks = reference == label, prediction == label
        distances = metrics.compute_surface_distances(*masks, SPACING)
        nsd = metrics.compute_surface_dice_at_tolerance(distances, ABDOMEN_TOLERANCES[name])
        hd95 = metrics.compute_robust_hausdorff(distances, 95)
        scores.append((metrics.compute_dice_coefficient(*masks), nsd, hd95))
    return scores


def cells(reference: np.ndarray, prediction: np.ndarray) -> list[dict[str, Any]]:
    """F1 and kin at ten thresholds."""
    return score_instances(reference, prediction)


def measure(make: Callable, score: Callable, repeats: int) -> dict[str, Any]:
    """Seconds of one core (fastest of `repeats`, imports left out) and peak memory, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (make, score, repeats))


def _measure(make: Callable, score: Callable, repeats: int) -> dict[str, Any]:
    maps = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats + 1):  # the first one imports
        started = time.process_time()
        result = score(*maps)
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_seconds": round(min(seconds[1:]), 3), "peak_gib": round(peak / 2**20, 2),
            "peak_gib_before_scoring": round(before / 2**20, 2), "scores": result}  # fmt: skip


def main() -> None:
    """Measure, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the results")
    arguments = parser.parse_args()
    runs: dict[str, Any] = {
        "ours": measure(make_case, ours, arguments.repeats),
        "deepmind": measure(make_case, deepmind, arguments.repeats),
        "cells": measure(make_cells, cells, arguments.repeats),
    }
    difference = float(np.abs(np.subtract(runs["ours"].pop("scores"), runs["deepmind"].pop("scores"))).max())
    runs["cells"]["scores"] = {key: value for key, value in runs["cells"].pop("scores")[0].items() if key != "class"}
    runs["largest_difference_of_a_score"] = difference
    runs["machine"] = {"processor": processor(), **versions("numpy", "scipy", "surface-distance")}
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(runs, arguments.output / "evaluation.json")
    (arguments.output / "evaluation.md").write_text(report(runs))
    seconds = {"this project": [runs["ours"], runs["cells"]], "surface-distance": [runs["deepmind"], None]}
    chart = {who: [None if run is None else run["cpu_seconds"] for run in parts] for who, parts in seconds.items()}
    draw_bars(arguments.output / "evaluation.png", ["13 organs", "1,024 cells"], {"processor seconds": chart})
    print(report(runs))


def report(runs: dict[str, Any]) -> str:
    """The table."""
    rows = [
        ("13 organs, 512 x 512 x 200: DSC, NSD, HD95", "this project", runs["ours"]),
        ("", "surface-distance", runs["deepmind"]),
        ("1,024 cells, 2048 x 2048: F1 and kin at ten thresholds", "this project", runs["cells"]),
    ]
    lines = [
        "# Scoring, timed",
        "",
        "`python benchmarks/evaluation.py`: processor seconds of one core, fastest of several, imports left out; peak "
        "memory of the process, the maps included.",
        "",
        ", ".join(f"{key} {value}" for key, value in runs["machine"].items()) + ".",
        "",
        "| task | program | seconds | peak GiB |",
        "|---|---|---|---|",
        *(f"| {task} | {who} | {run['cpu_seconds']} | {run['peak_gib']} |" for task, who, run in rows),
        "",
        f"Largest difference of a score between the two: {runs['largest_difference_of_a_score']:.1e}.",
        "",
        "![Scoring, timed](evaluation.png)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
