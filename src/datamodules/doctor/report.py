"""The doctor's report: a table for the terminal, JSON for everything else."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umamba.datamodules.doctor.case import CaseFacts
from umamba.files import write_json
from umamba.raw.checks import Finding
from umamba.raw.description import DatasetDescription
from umamba.raw.readers import FLAT_SPACING

SHOWN = 3  # messages per kind on the terminal; report.json has all
SHOWN_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a raw data set."""

    folder: Path
    description: DatasetDescription
    facts: Sequence[CaseFacts]
    findings: Sequence[Finding]

    @property
    def num_errors(self) -> int:
        """Findings that stop a training."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; files are named relative to the data set."""
        read = [case for case in self.facts if case.shape is not None]
        return {
            "dataset": self.folder.name,
            "training_cases": sum(case.split == "Tr" for case in self.facts),
            "test_cases": sum(case.split == "Ts" for case in self.facts),
            "unreadable_cases": len(self.facts) - len(read),
            "errors": self.num_errors,
            "warnings": len(self.findings) - self.num_errors,
            "findings": [self._relative(asdict(finding)) for finding in self.findings],
            "classes": self.classes(),
            "orientations": dict(Counter(case.orientation for case in read if case.orientation).most_common()),
            "shape": _range([case.shape for case in read]),
            "spacing": _range([case.spacing for case in read]),
            "cases": [
                {key: value for key, value in case.to_dict().items() if key not in ("key", "findings")}
                for case in self.facts
            ],
        }

    def classes(self) -> dict[str, dict[str, Any]]:
        """Per class, or region: in how many labelled cases it occurs, and its mean share of their voxels."""
        labelled = [case.labels for case in self.facts if case.labels]
        table: dict[str, dict[str, Any]] = {}
        classes = {name: (value,) for name, value in self.description.labels.items()}
        for name, values in (classes | self.description.foreground).items():
            shares = [sum(labels.get(value, 0) for value in values) / sum(labels.values()) for labels in labelled]
            table[name] = {
                "value": values[0] if len(values) == 1 else [*values],
                "cases": sum(share > 0 for share in shares),
                "mean_share": float(np.mean(shares)) if shares else 0.0,
            }
        return table

    def _relative(self, finding: dict[str, Any]) -> dict[str, Any]:
        finding["message"] = finding["message"].replace(f"{self.folder}{os.sep}", "")
        return finding

    def save(self, path: Path) -> None:
        """Write report.json."""
        write_json(self.to_dict(), path)

    def print(self, console: Console) -> None:
        """Show the report on a terminal; the console takes text as it is, without markup."""
        facts = self.to_dict()
        overview = Table(title=f"{facts['dataset']}", show_header=False, title_justify="left")
        overview.add_row("cases", f"{facts['training_cases']} training, {facts['test_cases']} test")
        overview.add_row("channels", ", ".join(self.description.channel_names))
        flat = bool(facts["spacing"]) and facts["spacing"]["min"] == facts["spacing"]["max"] == [FLAT_SPACING, 1.0, 1.0]
        pictures = [("shape", "pixels (y, x)")]  # that have no size in mm
        for key, unit in pictures if flat else [("shape", "voxels (z, y, x)"), ("spacing", "mm (z, y, x)")]:
            if facts[key]:
                ends = (facts[key][k][1 if flat else 0 :] for k in ("min", "median", "max"))
                low, median, high = (" x ".join(f"{v:.4g}" for v in values) for values in ends)
                overview.add_row(key, f"{low} to {high}, median {median} {unit}")
        if facts["orientations"]:
            overview.add_row("orientation", ", ".join(f"{k} {n}" for k, n in facts["orientations"].items()))
        console.print(overview)

        classes = Table(title="Classes", title_justify="left")
        for column in ("class", "value", "in cases", "share of voxels"):
            classes.add_column(column, justify="left" if column == "class" else "right")
        for name, row in list(facts["classes"].items())[:SHOWN_CLASSES]:
            classes.add_row(name, _text(row["value"]), str(row["cases"]), f"{100 * row['mean_share']:.3f} %")
        if len(facts["classes"]) > SHOWN_CLASSES:
            classes.add_row(f"... and {len(facts['classes']) - SHOWN_CLASSES} more, in report.json")
        console.print(classes)

        if not self.findings:
            console.print("Nothing wrong was found.", style="green")
            return
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for finding in facts["findings"]:
            case, message = finding["case"], finding["message"]
            groups[finding["severity"], finding["kind"]].append(message if case in message else f"{case}: {message}")
        table = Table(title="Findings", title_justify="left", show_lines=True)
        for column in ("", "what", "number", "for example"):
            table.add_column(column, justify="right" if column == "number" else "left", overflow="fold")
        for (severity, kind), messages in sorted(groups.items()):
            colour = "red" if severity == "error" else "yellow"
            shown = messages[:SHOWN] + ([f"... and {len(messages) - SHOWN} more"] if len(messages) > SHOWN else [])
            table.add_row(Text(severity, colour), kind, str(len(messages)), "\n".join(shown))
        console.print(table)


def _text(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "+".join(map(str, value))


def _range(values: Sequence[tuple[float, ...] | None]) -> dict[str, list[float]]:
    if not values:
        return {}
    array = np.array(values, float)
    return {name: np.round(f(array, axis=0), 6).tolist() for name, f in _STATISTICS.items()}


_STATISTICS: dict[str, Callable[..., np.ndarray]] = {"min": np.min, "median": np.median, "max": np.max}
