"""The parts of a report: the paper's tables, and all about one data set; what they show is written as files too."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from umamba.drawing.figure import page_svg, save_figure
from umamba.evaluation.identity import grown_by
from umamba.evaluation.metrics import INFINITE, METRICS
from umamba.evaluation.overlays import choose_cases, overlay_figure
from umamba.evaluation.report import numbers
from umamba.evaluation.report import page as html
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report import tables as report_tables
from umamba.evaluation.report.figures import box_figure, cost_figure, effect_figure, learning_figure, rank_figure
from umamba.evaluation.report.networks import (
    MISSING,
    best_network,
    compare,
    cost_table,
    devices,
    format_costs,
    network_scores,
    order_networks,
    paired,
    title_of,
    unlike_cases,
)
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.evaluation.report.significance import doubts_of_ranks, doubts_of_tests
from umamba.evaluation.report.tables import paper_table
from umamba.evaluation.report.told_apart import beyond_networks, in_words, sets_apart
from umamba.evaluation.report.verdict import reference_of, verdict
from umamba.evaluation.scoring import Labelling, grow_remark
from umamba.evaluation.table_text import to_csv, to_latex, to_markdown
from umamba.evaluation.tables import describe
from umamba.files import write_text

log = logging.getLogger(__name__)

PROVISIONAL = "° provisional: quoted without a second source."
NOT_BEST = "A mean that leaves infinite ones out is never in bold: it is that of what was found."
TESTS = (
    "Two-sided Wilcoxon signed-rank tests over the cases, seeds averaged per case; p corrected by Holm over the pairs, "
    "* where it is below 0.05. 95 %: bootstrap interval of the mean difference. P(not better): probability that the "
    "claim “the first is better” is false (arXiv 2505.04720)."
)
OF_METRIC = {
    "lower_is_better": "Lower is better: a negative difference is in favour of the first.",
    "infinite": "Compared on the classes of each case that both networks have found; ranks on those that all have.",
}
SETTINGS_HEADING = "What differs between runs of one name, or beyond their networks"
SETTINGS = "All settings in which they differ; the names hold as few as tell them apart."
REPLICATES = "SD of runs: over folds and seeds. 95 %: bootstrap interval of the mean over cases."


def dataset_section(
    dataset: str,
    stem: str,
    scores: pd.DataFrame,
    runs: Sequence[ScoredRun],
    output: Path,
    published: Mapping[str, Any],
    cases: int | Sequence[str],
) -> tuple[list[str], str]:
    """What one data set says in words, and everything about it as HTML; `stem` begins the names of its files."""
    figures = output / "figures"
    costs = cost_table(runs)
    unit, results = numbers.distance_unit(runs), numbers.result_numbers(scores)
    table = report_tables.result_table(results, scores, dataset, published)
    unlike = unlike_cases(scores)
    note = f"{describe(network_scores(scores))} {REPLICATES}" + (f" {unlike}" if unlike else "")
    note += growth_note(runs)
    note += f" HD95 in {unit.replace('_', ' ')}." if "hd95" in scores else ""
    note += f" {NOT_BEST}" if any(f"{metric}_infinite" in results for metric in INFINITE) else ""
    note += f" {PROVISIONAL}" if any(column.endswith(" paper") for column in table.columns) else ""
    parts = [_keep(table, output, f"{stem}_results", note, "Scores", numbers.for_programs(results, unit=unit))]
    scored = numbers.main_metrics(scores)
    compared = {metric: compare(scores, metric) for metric in scored}
    machines = f"Measured on: {', '.join(devices(runs)) or 'not recorded'}. Means over runs."
    networks, facts = [run.record["network"] for run in runs], [run.facts for run in runs]
    settings = report_tables.settings_table(runs, beyond_networks(networks, facts))
    if len(settings):
        parts.append(_keep(settings, output, f"{stem}_settings", SETTINGS, SETTINGS_HEADING))
    paid = costs.loc[order_networks(list(costs.index))].rename_axis("network").reset_index()
    parts.append(_keep(format_costs(costs), output, f"{stem}_cost", machines, "Cost", numbers.for_programs(paid)))
    for metric in scored:
        parts += _metric_parts(scores, metric, compared[metric], f"{stem}_{metric}", output, unit)
    parts.append(
        _draw(lambda: cost_figure(scores, costs, scored[0]), figures / f"{stem}_cost.png", "Score against cost")
    )
    parts.append(_draw(lambda: learning_figure(runs), figures / f"{stem}_learning.png", "Learning curves"))
    parts.append(_overlays(dataset, figures, f"{stem}_overlays", runs, cases))
    parts.append(_keep(report_tables.runs_table(runs), output, f"{stem}_runs", "", "The runs"))
    beyond = in_words(networks, facts)
    if len(set(networks)) > 1 and any(sets_apart([run.training_sets for run in runs])):
        beyond = ["the training set", *beyond]
    words = verdict(scores, costs, scored[0], compared[scored[0]], beyond)
    return words, "\n".join(parts)


def growth_note(runs: Sequence[ScoredRun]) -> str:
    """What to say of predicted instances that were grown alike in all runs; where they differ names say it."""
    grown = {grown_by(run.record) for run in runs if run.record["task"] == "instances"}
    return f" {grow_remark(grown.pop())}".rstrip() if len(grown) == 1 else ""


def _metric_parts(
    scores: pd.DataFrame, metric: str, compared: pd.DataFrame, name: str, output: Path, unit: str
) -> list[str]:
    """By class, tests and ranks; `name` begins the names of the files, distances are in `unit`."""
    parts, title, figures = [], METRICS[metric].title, output / "figures"
    table = paired(scores, metric)
    if len(report_tables.class_names(scores)) > 1:
        found = numbers.class_numbers(scores, metric)
        by_class, plain = report_tables.classes_table(found, metric), numbers.for_programs(found, unit=unit)
        parts.append(_keep(by_class, output, f"{name}_by_class", "Mean ± SD over cases.", f"{title} by class", plain))
    boxes = f"{title} by class and network"
    parts.append(_draw(lambda: box_figure(scores, metric), figures / f"{name}_boxes.png", boxes))
    if table.shape[1] > 1:
        reference = reference_of(list(table.columns)) or best_network(scores, metric)
        effects = f"{title}: differences to {title_of(reference)}"
        parts.append(
            _draw(lambda: effect_figure(compared, metric, reference), figures / f"{name}_effects.png", effects)
        )
        text = report_tables.comparison_table(compared, metric)
        doubts = doubts_of_tests(int(compared["cases"].max()), len(compared))
        tests = " ".join([TESTS, *(text for key, text in OF_METRIC.items() if getattr(METRICS[metric], key)), *doubts])
        plain = numbers.for_programs(compared, metric, unit)
        parts.append(_keep(text, output, f"{name}_tests", tests, f"{title}: differences between networks", plain))
    if table.shape[1] > 1 and len(table.dropna()):
        ranks = statistics.mean_ranks(table, lower_is_better=METRICS[metric].lower_is_better)
        plain = numbers.for_programs(ranks.rename("mean_rank").rename_axis("network").reset_index())
        parts.append(_keep(report_tables.rank_table(ranks), output, f"{name}_ranks", "", f"{title}: ranks", plain))
        note = "Networks joined by a bar do not differ significantly (Nemenyi, 5 %). "
        note += doubts_of_ranks(len(ranks), len(statistics.in_common(table)), "case")
        critical = f"{title}: critical difference"
        parts.append(_draw(lambda: rank_figure(scores, metric), figures / f"{name}_ranks.png", critical, note.rstrip()))
    return parts


def _draw(make: Callable[[], Figure | None], path: Path, heading: str, note: str = "") -> str:
    """A figure as a file for papers, and as HTML that follows the page's colours; nothing where there is none."""
    figure = make()
    if figure is None:
        return ""
    save_figure(figure, path)
    return html.drawing(page_svg(make), heading, note)


def paper_section(
    number: int, scores: pd.DataFrame, output: Path, published: Mapping[str, Any], remark: str = ""
) -> str:
    """Ours beside the paper's in one table if both were scored by the paper's protocol, else in two.

    `remark` is put behind what is said of ours.
    """
    found = numbers.paper_numbers(scores, number, published)
    table, plain = paper_table(found, number, published), numbers.for_programs(found)
    note = f"{published['paper']}, table {number}, scored with protocol paper. {PROVISIONAL}"
    if scores["protocol"].str.startswith("paper").all():
        caption = f"Protocol paper; mean ± SD over cases.{remark} Paper: {note}"
        return _keep(table, output, f"table_{number}", caption, plain=plain)
    theirs = [column for column in table.columns if column.endswith(", paper")]
    ours = table.drop(columns=theirs)
    ours = ours[(ours.drop(columns="network") != MISSING).any(axis=1)]
    plain_theirs = plain.filter(regex="^network$|_paper_(mean|sd|provisional)$")
    plain_ours = plain.drop(columns=[name for name in plain_theirs if name != "network"]).loc[ours.index]
    hint = f"Protocol standard; mean ± SD over cases.{remark} To compare with the paper, score with protocol=paper."
    return _keep(ours, output, f"table_{number}", hint, "Ours", plain_ours) + _keep(
        table[["network", *theirs]], output, f"table_{number}_paper", note, "The paper's", plain_theirs
    )


def _overlays(dataset: str, figures: Path, stem: str, runs: Sequence[ScoredRun], cases: int | Sequence[str]) -> str:
    """The paper's figure 2: each network's first run on cases that all of them predicted, if the files are there.

    Each case is a picture of its own, so that on paper none is small and none is cut. Those of an earlier report in
    the same folder, which may show more or other cases, are removed.
    """
    for path in figures.glob("*_overlays*.png"):
        if re.fullmatch(rf"{re.escape(stem)}(_\d+)?\.png", path.name):
            path.unlink()
    first = {run.network: run for run in sorted(runs, key=lambda run: run.replicate)[::-1]}
    first = {name: first[name] for name in order_networks(list(first))}
    pairs = {name: run.pairs for name, run in first.items()}
    common = set.intersection(*({pair.case for pair in some} for some in pairs.values()))
    if not common:
        log.warning("%s: no overlays, because no case has its images and predictions of every network.", dataset)
        return html.paragraph("No overlays: images or predictions are not where they were when they were scored.")
    shown = pd.concat([run.scores.assign(run=name) for name, run in first.items()])
    shown = shown[shown["case"].isin(common)]
    titles = {name: title_of(name) for name in pairs}
    shown = shown.assign(run=shown["run"].map(titles))
    labellings = {titles[name]: _labelling(run.record) for name, run in first.items()}
    of_titles = {titles[name]: some for name, some in pairs.items()}
    replicate = ", ".join(sorted({run.replicate for run in first.values()}))
    parts: list[str] = []
    for number, case in enumerate(choose_cases(shown, cases) if isinstance(cases, int) else cases, 1):
        path = figures / f"{stem}_{number}.png"
        overlay_figure(of_titles, shown, labellings, path, cases=[case])
        parts.append(html.picture(path, "" if parts else "Overlays", name=f"Overlays of {case}"))
    return "\n".join([*parts, html.paragraph(f"From the worst case to the best (top to bottom); {replicate}.")])


def _labelling(record: Mapping[str, Any]) -> Labelling:
    how = {"regions": record.get("regions", {}), "task": record["task"], "grow": grown_by(record)}
    return Labelling(labels=record["labels"], **how)


def _keep(
    table: pd.DataFrame, output: Path, name: str, note: str, heading: str = "", plain: pd.DataFrame | None = None
) -> str:
    """Write a table of text as Markdown and LaTeX, and `plain`, its numbers, as CSV; return it as HTML."""
    folder = output / "tables"
    write_text(to_csv(table.replace(MISSING, "") if plain is None else plain), folder / f"{name}.csv")
    write_text(f"{to_markdown(table)}\n\n{note}\n", folder / f"{name}.md")
    write_text(to_latex(table, note), folder / f"{name}.tex")
    return html.table(table, heading, note)
