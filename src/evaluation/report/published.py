"""The paper's numbers, and its tables 3 and 4 with ours beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report.networks import MISSING, network_means, order_networks, title_of
from umamba.evaluation.table_text import format_score

PUBLISHED = Path(__file__).with_name("published.yaml")
MARKS = {True: "", False: "°"}  # behind a published number: confirmed, provisional


def load_published() -> dict[str, Any]:
    """The published numbers, see published.yaml."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_score(published: Mapping[str, Any], dataset: str, network: str, metric: str) -> str:
    """The paper's mean ± SD for a setting, provisional ones with a mark; a dash where it has none."""
    setting = published["settings"].get(dataset, {})
    score = setting.get("scores", {}).get(network, {}).get(metric)
    if score is None:
        return MISSING
    return format_score(*score) + MARKS[network in setting["confirmed"].get(metric, ())]


def paper_table(scores: pd.DataFrame, number: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """Table 3 (3D) or 4 (2D) of the paper: our scores, and the paper's beside them.

    Args:
        scores: From `all_scores`, of any data sets.
        number: 3 or 4.
        published: What `load_published` gives.

    Returns:
        Text, one row per network; settings without a run of ours have dashes.
    """
    settings = {name: s for name, s in published["settings"].items() if s["table"] == number}
    ours = {
        name: network_means(part.dropna(axis=1, how="all"))
        for name, part in scores.groupby("dataset")
        if name in settings
    }
    networks = [network for means in ours.values() for network in means.index]
    listed = [network for setting in settings.values() for network in setting["scores"]]
    rows = []
    for network in order_networks([*networks, *listed]):
        row = {"network": title_of(network)}
        for name, setting in settings.items():
            for metric in next(iter(setting["scores"].values())):
                column = f"{setting['title']} {METRICS[metric].title}"
                here = ours.get(name)
                if here is None or network not in here.index:
                    row[column] = MISSING
                else:
                    row[column] = format_score(*here.loc[network, [metric, f"{metric}_sd"]])
                row[f"{column}, paper"] = published_score(published, name, network, metric)
        rows.append(row)
    return pd.DataFrame(rows)


def published_elsewhere(published: Mapping[str, Any], datasets: Sequence[str]) -> pd.DataFrame:
    """Scores that others report on one of these data sets, which is known by its name in theirs; empty if none is.

    Args:
        published: What `load_published` gives.
        datasets: Names; "Dataset218_ACDC" is "ACDC".
    """
    names = {name.rsplit("_", 1)[-1].upper() for name in datasets}
    columns = published["revisited"]["columns"]
    kept = [index for index, name in enumerate(columns) if name.upper() in names]
    if not kept:
        return pd.DataFrame()
    rows = [[network, *(values[i] for i in kept)] for network, values in published["revisited"]["rows"].items()]
    return pd.DataFrame(rows, columns=["network", *(columns[i] for i in kept)])
