"""The tables of benchmarks/agreement.py."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from umamba.files import write_json, write_text

HEAD = """# Label maps beside nnunetv2's

`python benchmarks/agreement.py`; the head of the script says how. A trained network, the same weights on both sides,
and cases that the training did not see. nnunetv2 2.8.1 runs networks in float16 on a GPU, and weighs, sums and exports
logits in float16; here sums are float32. "Lowest DSC of a class" is the DSC between both label maps, voxels of all
cases counted together, of the class in which it is lowest, which is named; the number in brackets is the lowest DSC
that any class has in any one case, be it that class or another. A gap is that between the two largest probabilities,
in float32 and without mirroring, where both label maps differ: 0 is a tie.
"""


def report(rows: list[dict[str, Any]]) -> str:
    lines = [HEAD]
    for row in rows:
        trained = "Mirroring is of the axes that the training mirrored."
        forced = "Mirroring is of all axes, though the training mirrored none: it shows the arithmetic, not a use."
        lines += [
            f"## {row['row']}",
            "",
            f"{row['network']}, trained for {row['steps']} steps; {row['cases']} cases.",
            *_pairs(row),
            *_classes(row),
            *_references(row),
            "",
            trained if row["trained_with_mirroring"] else forced,
            "",
            f"{row['about']}.",
            "",
        ]
    return "\n".join(lines)


def _pairs(row: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "| one | other | mirroring | voxels that differ | of a million | lowest DSC of a class | median gap | "
        "largest gap |",
        "|" + "---|" * 8,
    ]
    gaps = {tuple(gap["of"]): gap for gap in row["gaps"]}
    for run in row["runs"]:
        for pair in run["pairs"]:
            name = min(pair["dice"], key=pair["dice"].get, default="none")
            gap = None if run["mirror"] else gaps.get(tuple(pair["of"]))
            cells = [
                *pair["of"],
                "on" if run["mirror"] else "off",
                f"{pair['differ']:,}",
                f"{1e6 * pair['differ'] / pair['voxels']:.3g}",
                f"{pair['dice'].get(name, 1.0):.6f}, {name} ({pair['lowest_in_a_case']:.6f})",
                *([f"{gap['median']:.2g}", f"{gap['largest']:.2g}"] if gap else ["", ""]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _classes(row: dict[str, Any]) -> list[str]:
    """DSC of each class between label maps, without mirroring."""
    (run,) = (run for run in row["runs"] if not run["mirror"])
    names = [" / ".join(pair["of"]) for pair in run["pairs"]]
    lines = ["", "Without mirroring, DSC of each class:", "", f"| class | {' | '.join(names)} |"]
    lines.append("|" + "---|" * (len(names) + 1))
    for name in run["pairs"][0]["dice"]:
        values = [pair["dice"].get(name) for pair in run["pairs"]]
        lines.append(f"| {name} | " + " | ".join("-" if v is None else f"{v:.6f}" for v in values) + " |")
    return lines


def _references(row: dict[str, Any]) -> list[str]:
    """Mean DSC against the references."""
    lines: list[str] = []
    for run in row["runs"]:
        if run["references"]:
            parties = list(run["references"])
            title = f"Mirroring {'on' if run['mirror'] else 'off'}, mean DSC of the cases against the references:"
            lines += ["", title, "", f"| class | {' | '.join(parties)} |", "|" + "---|" * (len(parties) + 1)]
            missed = []
            for name in run["references"][parties[0]]:
                values = [run["references"][party][name] for party in parties]
                if any(values):
                    lines.append(f"| {name} | " + " | ".join(f"{value:.6f}" for value in values) + " |")
                else:
                    missed.append(name)
            means = [mean(run["references"][party].values()) for party in parties]
            lines.append("| mean of all | " + " | ".join(f"{value:.6f}" for value in means) + " |")
            lines += ["", f"Found by nobody, so little was it trained: {', '.join(missed)}."] if missed else []
    return lines


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(rows, folder / "agreement.json")
    write_text(report(rows), folder / "agreement.md")
