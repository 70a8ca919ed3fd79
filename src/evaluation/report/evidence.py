"""The pages of a benchmark, their figure and tables from its records alone, the same byte for byte each time."""

from __future__ import annotations

import math
import os
from pathlib import Path

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import evidence_tables as numbers
from umamba.evaluation.report.comparable import check_comparable
from umamba.evaluation.report.evidence_details import details
from umamba.evaluation.report.evidence_summary import DETAILS, summary
from umamba.evaluation.report.evidence_tables import Numbers
from umamba.evaluation.report.left_out import Faults, LeftOutError, check_any
from umamba.evaluation.report.networks import all_scores, title_of, without_scores
from umamba.evaluation.report.records import find_runs, mixed, name_of, read_runs
from umamba.evaluation.report.runs import of_records
from umamba.evaluation.report.svg import Point, cost_panels
from umamba.evaluation.table_text import to_csv
from umamba.files import write_text

WORDS = "words.md"  # beside the records, written by people: what the numbers support and what they do not
FIGURE = "figures/score_against_cost.svg"


def make_page(folder: Path, output: Path | None = None) -> Path:
    """Make README.md, details.md, figures/ and tables/ of a benchmark.

    Args:
        folder: Of its records, see `umamba.evaluation.report.records`; words.md in it is taken into README.md.
        output: Gets what is made; None for the folder itself.

    Returns:
        Path of README.md.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: All are broken or without a score, or the runs of a data set cannot be compared.
        LeftOutError: Some are broken; raised when the pages are made, which name them.
    """
    output = output or folder
    broken: Faults = {}
    records = read_runs(find_runs(folder), broken)
    faults = {path: why.replace(f"{folder}{os.sep}", "").rstrip(".") for path, why in broken.items()}
    faults = {str(Path(path).relative_to(folder)): why for path, why in faults.items()} | mixed(records)
    runs = of_records(records, folder)
    check_any(runs, broken)
    if not runs:
        raise FileNotFoundError(f"There is no record of a run below {folder}; umamba.evidence makes them.")
    empty = without_scores(all_scores(runs))
    faults |= {name_of(record): "no case has a score" for record in records if record["dataset"] in empty}
    runs = [run for run in runs if run.dataset not in empty]
    if not runs:
        raise ValueError(f"No case below {folder} has a score: neither references nor predictions hold a class.")
    check_comparable(runs)
    found = numbers.numbers_of(runs, {record["dataset"]: record["title"] for record in records})
    for table, name in ((found.rows, "scores"), (found.differences, "differences"), (found.costs, "cost")):
        write_text(to_csv(table, float_format="%.6g"), output / "tables" / f"{name}.csv")
    figure = _figure(found)
    if figure:
        write_text(figure, output / FIGURE)
    valid = [record for record in records if name_of(record) not in faults]
    words = folder / WORDS
    said = words.read_text(encoding="utf-8").strip() if words.is_file() else ""
    write_text(details(found, valid, faults), output / DETAILS)
    page = output / "README.md"
    write_text(summary(found, valid, len(faults), said, FIGURE if figure else None), page)
    if broken:
        raise LeftOutError(page, broken)
    return page


def _figure(found: Numbers) -> str | None:
    # Not GPU hours: where trainings share a machine they wait for its CPUs, and all networks cost the same.
    known = found.costs["gflops"].notna().any()
    cost, x_title = ("gflops", "GFLOPs per patch") if known else ("gpu_hours", "GPU hours")
    panels: dict[str, list[Point]] = {}
    for setting, metric in found.main.items():
        paid = found.costs[found.costs["setting"] == setting].set_index("network")[cost]
        for one in numbers.rows_of(found.rows, setting, metric):
            if paid.get(one["network"], math.nan) > 0:
                low, high = (one[k] if one[k] == one[k] else one["mean"] for k in ("low", "high"))
                panels.setdefault(f"{found.titles[setting]}: {METRICS[metric].title}", []).append(Point(
                    network=one["network"], cost=paid[one["network"]], score=100 * one["mean"], low=100 * low,
                    high=100 * high))  # fmt: skip
    if not panels:
        return None
    networks = numbers.in_order([point.network for points in panels.values() for point in points])
    return cost_panels(panels, {name: title_of(name) for name in networks}, x_title, "score, points")
