"""Gather scored runs into the paper's tables, tests of significance, figures and one HTML report.

    python -m umamba.evaluation.report runs=logs output=report
    python -m umamba.evaluation.report runs=docs/evidence    # records of a benchmark: its two pages

Every folder below `runs` that holds a run.json (written by train.py and eval.py) is a run; runs of one network on one
data set that differ in nothing but folds or seeds are its replicates.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "report")  # before the imports that take seconds

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, ListConfig

from umamba.evaluation.report import page as html
from umamba.evaluation.report.evidence import make_page
from umamba.evaluation.report.left_out import Faults, LeftOutError
from umamba.evaluation.report.networks import all_scores, without_scores
from umamba.evaluation.report.records import find_runs
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.report.sections import dataset_section, growth_note, paper_section
from umamba.evaluation.report.tables import load_published, published_elsewhere
from umamba.files import check_takes_files, write_text, writing_into
from umamba.names import file_names
from umamba.plain import check_option_types
from umamba.run.command import command, run_command
from umamba.words import count

TYPES = {  # of the configuration
    "runs": Path | list[Path], "output": Path | None, "title": str | int | float, "cases": int | list[str | int],
}  # fmt: skip

NO_SCORE = "No case has a score: neither the references nor the predictions hold an object or a class."

log = logging.getLogger(__name__)


@command("report")
def main(cfg: DictConfig) -> None:
    """Make the report that the configuration asks for."""
    try:
        log.info("Page: %s", make(cfg))
    except LeftOutError as error:
        log.error("%s", error)
        sys.exit(1)


def make(cfg: DictConfig) -> Path:
    """The pages of a benchmark's records, or the report of all runs."""
    check_option_types(cfg, TYPES)
    if cfg.output is not None:
        check_takes_files(cfg.output, "output")
    if isinstance(cfg.cases, int) and cfg.cases < 1:
        raise ValueError(f"cases={cfg.cases}: expected how many cases, 1 or more, or a list of their names.")
    folders = list(cfg.runs) if isinstance(cfg.runs, ListConfig) else [cfg.runs]
    if len(folders) == 1 and find_runs(Path(folders[0])):
        return make_page(Path(folders[0]), None if cfg.output is None else Path(cfg.output))
    if cfg.output is None:
        raise ValueError("output=... is needed: a folder for report.html, tables/ and figures/.")
    cases = list(cfg.cases) if isinstance(cfg.cases, ListConfig) else cfg.cases
    return make_report(folders, Path(cfg.output), title=str(cfg.title), cases=cases)


def make_report(
    folders: Sequence[Path | str], output: Path, *, title: str = "Report", cases: int | Sequence[str] = 4
) -> Path:
    """Make a report of all scored runs below some folders.

    Args:
        folders: Looked through with all that is below them, see `gather`.
        output: Gets report.html, tables/ (CSV, Markdown, LaTeX) and figures/ (PNG).
        title: Heading of the page.
        cases: Which cases the overlay figures show, or how many, see `overlay_figure`.

    Returns:
        Path of report.html, which needs none of the other files.

    Raises:
        FileNotFoundError, ValueError: See `gather`.
        LeftOutError: Some runs cannot be read; raised when the report of the others is made, which lists them.
    """
    faults: Faults = {}
    check_takes_files(output, "output")
    runs = gather(folders, faults)
    with writing_into(output, alone=True):
        path = _write_report(runs, output, title, cases, faults)
    if faults:
        raise LeftOutError(path, faults)
    return path


def _write_report(
    runs: Sequence[ScoredRun], output: Path, title: str, cases: int | Sequence[str], faults: Faults
) -> Path:
    together, published = all_scores(runs), load_published()
    empty = without_scores(together)
    scores = together[~together["dataset"].isin(empty)]
    (output / "tables").mkdir(parents=True, exist_ok=True)
    sections: list[tuple[str, str]] = []
    summary: list[str] = []
    for number in (3, 4):
        if any(published["settings"].get(name, {}).get("table") == number for name in scores["dataset"]):
            section = paper_section(number, scores, output, published, growth_note(runs))
            sections.append((f"Table {number}", section))
    of_paper = [name for name in published["settings"] if name in set(scores["dataset"])]
    stems = file_names(scores["dataset"])
    for dataset in [*of_paper, *sorted(set(scores["dataset"]) - set(of_paper))]:
        of_dataset = [run for run in runs if run.dataset == dataset]
        part = scores[scores["dataset"] == dataset].dropna(axis=1, how="all")  # metrics of other tasks
        title_here = published["settings"].get(dataset, {}).get("title", dataset)
        words, section = dataset_section(dataset, stems[dataset], part, of_dataset, output, published, cases)
        summary.append(html.sentences(words, title_here))
        sections.append((title_here, section))
    sections += [(published["settings"].get(name, {}).get("title", name), html.paragraph(NO_SCORE)) for name in empty]
    elsewhere = published_elsewhere(published, list(scores["dataset"].unique()))
    if len(elsewhere):
        note = (
            f"{published['revisited']['source']}: DSC in percent, five-fold cross-validation. Not comparable by case."
        )
        sections.append(("Reported elsewhere", html.table(elsewhere, note=note)))
    protocols = ", ".join(sorted(together["protocol"].unique()))
    without = f" {len(faults)} could not be read and are left out; they are listed at the end." if faults else ""
    intro = html.paragraph(f"{count(len(runs), 'scored run')}. Protocol: {protocols}.{without}")
    if faults:
        sections.append(("Left out", html.table(pd.DataFrame({"file": faults.keys(), "why": faults.values()}))))
    write_text(html.page(title, "\n".join([intro, *summary]), sections), output / "report.html")
    return output / "report.html"


if __name__ == "__main__":
    run_command(main)
