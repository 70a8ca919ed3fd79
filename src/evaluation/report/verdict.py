"""What the scores of one data set say, in words: which network, by how much, at what cost, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report import significance as statistics
from umamba.evaluation.report.networks import (
    base_name,
    by_case,
    network_means,
    replicate_spread,
    title_of,
    unlike_cases,
)
from umamba.evaluation.report.significance import can_be_significant, doubts_of_tests
from umamba.words import count, listed

REFERENCES = ("umamba_none", "nnunet")  # what others are compared with, the first that is there
_NAMED = 8  # of the settings in which runs differ: the others are in the table of settings alone
_COSTS = {"seconds_per_epoch": "time per epoch", "train_peak_vram_gib": "GPU memory"}


def reference_of(networks: list[str]) -> str | None:
    """The network that the others are compared with: the control without Mamba, or nnU-Net's CNN; None without."""
    for wanted in REFERENCES:
        found = [name for name in networks if base_name(name) == wanted]
        if found:
            return found[0]
    return None


def verdict(
    scores: pd.DataFrame, costs: pd.DataFrame, metric: str, compared: pd.DataFrame, beyond: Sequence[str] = ()
) -> list[str]:
    """Sentences about one data set.

    Args:
        scores: Of `all_scores`, one data set.
        costs: What each network costs, from `cost_table`.
        metric: What networks are compared by.
        compared: Of `compare_networks`, all pairs.
        beyond: All that the runs differ in beyond their networks, as the names of the networks call it, these first.
    """
    means = network_means(scores)[metric].dropna().sort_values(ascending=METRICS[metric].lower_is_better)
    counted, title = count(len(by_case(scores, metric)), "case"), METRICS[metric].title
    if means.empty:
        return [f"No network has a {title} on these {counted}."]
    best = means.index[0]
    if len(means) == 1:
        return [f"Only {title_of(best)} was scored, on {counted}: mean {title} {_number(metric, means.iloc[0])}.",
                *_seeds(scores)]  # fmt: skip
    sentences = [_first(means, metric, counted, compared), *_against(list(means.index), metric, compared)]
    sentences += [*_unlike(beyond), *filter(None, [unlike_cases(scores)])]
    sentences += _cost(costs, best)
    sentences += doubts_of_tests(int(compared["cases"].max()), len(means) * (len(means) - 1) // 2)
    return [*sentences, *_seeds(scores)]


def _first(means: pd.Series, metric: str, counted: str, compared: pd.DataFrame) -> str:
    best, second = means.index[:2]
    row = statistics.pair_of(compared, best, second)
    lead = f"{title_of(best)} has the best {METRICS[metric].title} on {counted}, {_number(metric, means[best])}"
    gap = f"{_number(metric, abs(means[best] - means[second]))} ahead of {title_of(second)}"
    if row is not None and row["p_holm"] < statistics.SIGNIFICANT:
        if (row["difference"] < 0) != METRICS[metric].lower_is_better:
            return (
                f"{lead}, {gap}; but on the {row['cases']} cases in which both have a score {title_of(second)} is "
                f"significantly better (p = {row['p_holm']:.2g})."
            )
        return f"{lead}, {gap}, which is significant (p = {row['p_holm']:.2g})."
    if row is not None and not can_be_significant(row["cases"], len(compared)):
        return f"{lead}, {gap}; there are too few cases to test that difference."
    return f"{lead}, {gap}; that difference is not significant, so the data do not tell these two apart."


def _against(ranked: list[str], metric: str, compared: pd.DataFrame) -> list[str]:
    """Every U-Mamba, or the best where there is none, against the control or nnU-Net's CNN."""
    reference = reference_of(ranked)
    if reference is None:
        return []
    others = [name for name in ranked if base_name(name) in ("umamba_bot", "umamba_enc")] or ranked[:1]
    sentences, decimals = [], METRICS[metric].decimals
    for name in others:
        row = statistics.pair_of(compared, name, reference)
        if row is None or not row["cases"]:
            continue
        low, high, difference = (f"{row[key]:+.{decimals}f}" for key in ("low", "high", "difference"))
        interval = "" if math.isnan(row["low"]) else f" (95 % interval {low} to {high})"
        significant = "significant" if row["p_holm"] < statistics.SIGNIFICANT else "not significant"
        if not can_be_significant(row["cases"], len(compared)):
            significant = "too few cases for a test"
        sentences.append(f"{title_of(name)} against {title_of(reference)}: {difference}{interval}, {significant}.")
    return sentences


def _unlike(beyond: Sequence[str]) -> list[str]:
    if not beyond:
        return []
    return [
        f"The runs differ in more than their networks, in {listed(beyond, _NAMED)} (see the runs and their settings): "
        "their scores may differ for these reasons too, not because of the networks alone."
    ]


def _cost(costs: pd.DataFrame, best: str) -> list[str]:
    cheap = next((name for name in costs.index if base_name(name) == "nnunet"), None)
    if cheap is None or best not in costs.index or best == cheap:
        return []
    parts = []
    for key, words in _COSTS.items():
        ratio = costs.loc[best, key] / costs.loc[cheap, key] if costs.loc[cheap, key] else math.nan
        parts += [] if math.isnan(ratio) else [f"{ratio:.1f} times the {words}"]
    return [f"{title_of(best)} takes {' and '.join(parts)} of {title_of(cheap)}."] if parts else []


def _seeds(scores: pd.DataFrame) -> list[str]:
    replicates = replicate_spread(scores)["replicates"]
    single = [title_of(name) for name in replicates.index if replicates[name] == 1]
    if not single:
        return []
    who = "Each network" if len(single) == len(replicates) else ", ".join(single)
    return [f"{who} was trained once, so it is not known how much another seed would change."]


def _number(metric: str, value: float) -> str:
    return f"{value:.{METRICS[metric].decimals}f}"
