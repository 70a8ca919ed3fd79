"""The paper's numbers, and its tables 3 and 4 with ours beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from umamba.evaluation.metrics import METRICS
from umamba.evaluation.report.networks import MISSING, title_of
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


def paper_table(numbers: pd.DataFrame, number: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """`paper_numbers` of table 3 or 4 as text: a dash where there is no score, a mark at provisional ones."""
    table = {"network": numbers["network"].map(title_of)}
    for name, setting in published["settings"].items():
        for metric in next(iter(setting["scores"].values())) if setting["table"] == number else ():
            key, column = f"{name}_{metric}", f"{setting['title']} {METRICS[metric].title}"
            scores = zip(numbers[f"{key}_mean"], numbers[f"{key}_sd"], strict=True)
            table[column] = [format_score(*score) for score in scores]
            table[f"{column}, paper"] = [
                published_score(published, name, network, metric) for network in numbers["network"]
            ]
    return pd.DataFrame(table)


def published_elsewhere(published: Mapping[str, Any], datasets: Sequence[str]) -> pd.DataFrame:
    """Scores that others report on one of these data sets, which is known by its name in theirs; empty if none is."""
    names = {name.rsplit("_", 1)[-1].upper() for name in datasets}
    columns = published["revisited"]["columns"]
    kept = [index for index, name in enumerate(columns) if name.upper() in names]
    if not kept:
        return pd.DataFrame()
    rows = [[network, *(values[i] for i in kept)] for network, values in published["revisited"]["rows"].items()]
    return pd.DataFrame(rows, columns=["network", *(columns[i] for i in kept)])
