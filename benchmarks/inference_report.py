"""The tables and the chart of benchmarks/inference.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import draw_bars
from inference_sets import PEERS
from umamba.files import write_json, write_text

PHASES = ("read", "preprocess", "network", "export", "write")


def report(rows: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [
        "# Prediction, timed",
        "",
        "`python benchmarks/inference.py`, from image files to label maps; the head of the script says how. "
        "Volumes of 512 x 512 x 500 (`ct_long`: 800) voxels of 0.8 x 0.8 x 1 mm, planned at "
        "0.8 x 0.8 x 2.5 mm; 118 in a name: classes, else 14.",
        "",
        "| row | cases | load, s | first, s | seconds | cases a second | main memory, GiB | device memory, GiB | "
        "read | preprocess | network | export | write |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        if "phases" in row:
            numbers = [row[key] for key in ("load_s", "first_s", "seconds", "cases_per_s", "main_gib", "device_gib")]
            numbers += [row["phases"][name] for name in PHASES]
            cells = [row["row"], str(row["cases"]), *("-" if n is None else f"{n:.3g}" for n in numbers)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += peer_table(rows)
    exports = [row for row in rows if "ours_s" in row]
    if exports:
        lines += [
            "",
            "The way back alone, 14 classes to 128 x 256 x 256 voxels on the CPU: every class resampled and compared "
            "(plain), by nnunetv2's own function, and as it is done (ours); memory beyond the logits; voxels in which "
            "ours differs from the others.",
            "",
            "| from | plain, s | nnunetv2, s | ours, s | plain, GiB | nnunetv2, GiB | ours, GiB | from plain | "
            "from nnunetv2 |",
            "|" + "---|" * 9,
        ]
        for row in exports:
            times, memory = ([row.get(f"{who}_{what}") for who in ("plain", "peer", "ours")] for what in ("s", "gib"))
            differ = [row["voxels_that_differ"], row.get("voxels_that_differ_from_peer")]
            cells = [row["row"], *("-" if n is None else f"{n:.3g}" for n in (*times, *memory))]
            cells += ["-" if n is None else f"{n:,}" for n in differ]
            lines.append("| " + " | ".join(cells) + " |")
    for about in dict.fromkeys(row["about"] for row in rows):
        lines += ["", f"{', '.join(row['row'] for row in rows if row['about'] == about)}: {about}."]
    return "\n".join([*lines, "", "![Prediction, timed](inference.png)"]) + "\n"


def peer_table(rows: list[dict[str, Any]]) -> list[str]:
    named = {row["row"]: row for row in rows}
    pairs = [(named[own], named[peer]) for peer, own in PEERS.items() if peer in named and own in named]
    if not pairs:
        return []
    lines = [
        "",
        "Beside `nnUNetPredictor.predict_from_files` of nnunetv2, the same images and weights, without mirroring, each "
        "after a first prediction. Voxels that differ of a million, and the lowest DSC of a class between both label "
        "maps: of nnunetv2 as it is, whose networks run in float16 on a GPU and whose logits are summed in float16; "
        "with our network in float16 too; and with its sums in float32 besides.",
        "",
        "| row | nnunetv2, s | ours, s | times faster | nnunetv2, main and device GiB | ours | as it is | "
        "both in float16 | both with float32 sums |",
        "|" + "---|" * 9,
    ]
    for own, peer in pairs:
        memory = (
            " and ".join(
                "-" if row[f"{kind}_gib"] is None else f"{row[f'{kind}_gib']:.3g}" for kind in ("main", "device")
            )
            for row in (peer, own)
        )
        found = (peer["agreement"].get(kind) for kind in ("as_is", "float16", "float32_sums"))
        cells = [own["row"], f"{peer['seconds']:.3g}", f"{own['seconds']:.3g}"]
        cells += [f"{peer['seconds'] / own['seconds']:.3g}", *memory]
        cells += [
            f"{1e6 * one['voxels_that_differ'] / one['voxels']:.3g}, {one['lowest_dice']:.6f}" if one else "not run"
            for one in found
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(rows, folder / "inference.json")
    write_text(report(rows), folder / "inference.md")
    timed = [row for row in rows if "phases" in row]
    if timed:
        charts = {"seconds per case": {name: [row["phases"][name] for row in timed] for name in PHASES}}
        charts["peak memory, GiB"] = {key: [row[f"{key}_gib"] for row in timed] for key in ("main", "device")}
        draw_bars(folder / "inference.png", [row["row"] for row in timed], charts)
