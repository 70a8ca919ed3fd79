"""Collect scored runs from their folders: one table of scores with data set, network, fold and seed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from src.evaluation.pairs import Pair
from src.evaluation.tables import case_means, class_table, in_all, metrics_of

log = logging.getLogger(__name__)

# The order of the paper's tables; other networks follow by name.
PAPER_ORDER = ("nnunet", "segresnet", "unetr", "swinunetr", "umamba_bot", "umamba_enc")


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run.json and the scores beside it.

    Attributes:
        folder: Of the two.
        record: See `src.evaluation.record.run_record`.
        scores: See `evaluate`.
    """

    folder: Path
    record: dict[str, Any]
    scores: pd.DataFrame

    @property
    def dataset(self) -> str:
        """Name of the data config, or of the data set."""
        return self.record["dataset"]

    @property
    def network(self) -> str:
        """Name of the model config, with what was done beyond the plain prediction."""
        options = self.record["options"]
        extras = ["mirrored"] if options.get("mirror") else []
        members = len(self.record["checkpoints"])
        extras += [f"ensemble of {members}"] if members > 1 else []
        return ", ".join([self.record["network"], *extras])

    @property
    def pairs(self) -> list[Pair]:
        """The scored files that are still where they were and have images."""
        pairs = []
        for entry in self.record.get("pairs", ()):
            paths = {key: Path(entry[key]) for key in ("prediction", "reference")}
            images = tuple(map(Path, entry["images"]))
            if images and all(path.is_file() for path in (*paths.values(), *images)):
                pairs.append(Pair(case=entry["case"], images=images, **paths))
        return pairs

    @property
    def replicate(self) -> str:
        """What tells runs of one network apart."""
        return f"fold {self.record['fold']}, seed {self.record['seed']}"


def gather(folders: Sequence[Path | str]) -> list[ScoredRun]:
    """Find all scored runs below some folders.

    A run scored twice with the same checkpoint and options (by training and again by eval.py) counts once, the later
    one.

    Raises:
        FileNotFoundError: A folder does not exist, or there is no run.json below it.
        ValueError: Runs were scored with different protocols, or one lies beside no scores.
    """
    found: dict[str, tuple[float, ScoredRun]] = {}
    for folder in map(Path, folders):
        paths = sorted(folder.rglob("run.json"))
        if not paths:
            raise FileNotFoundError(f"There is no run.json below {folder}; train.py and eval.py write them to tables/.")
        for path in paths:
            if not (path.parent / "scores.csv").is_file():
                raise ValueError(f"{path} has no scores.csv beside it. Score the run again with eval.py.")
            record = json.loads(path.read_text(encoding="utf-8"))
            run = ScoredRun(folder=path.parent, record=record, scores=pd.read_csv(path.parent / "scores.csv"))
            key = json.dumps([record["checkpoints"], record["options"], record["protocol"]], sort_keys=True)
            modified = path.stat().st_mtime
            if key not in found or found[key][0] < modified:
                found[key] = (modified, run)
    runs = [run for _, run in found.values()]
    families = {run.record["protocol"].split("/")[0]: run.folder for run in runs}
    if len(families) > 1:
        raise ValueError(
            "These runs were scored with different protocols, which no table mixes: "
            + "; ".join(f"{protocol} in {folder}" for protocol, folder in families.items())
        )
    log.info("Found %d scored run(s).", len(runs))
    names = Counter((run.dataset, run.network, run.replicate) for run in runs)
    for (dataset, network, replicate), count in names.items():
        if count > 1:
            message = "%d runs of %s on %s have %s; they are averaged as one replicate."
            log.warning(message, count, network, dataset, replicate)
    return runs


def all_scores(runs: Sequence[ScoredRun]) -> pd.DataFrame:
    """The scores of all runs below one another, with the columns dataset, network and replicate."""
    frames = []
    for run in runs:
        scores = run.scores
        network = run.network + (", " + scores["run"] if "run" in scores else "")
        scores = scores.drop(columns="run", errors="ignore")
        network = network if isinstance(network, str) else network.str.removesuffix(", plain")
        frames.append(scores.assign(dataset=run.dataset, network=network, replicate=run.replicate))
    return pd.concat(frames, ignore_index=True)


def order_networks(names: Sequence[str]) -> list[str]:
    """The paper's networks in its order, then all others by name."""
    known = {name: index for index, name in enumerate(PAPER_ORDER)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def network_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of one data set, averaged over the replicates of each network.

    Returns:
        As `evaluate`, with a column "run" that holds the network; a case scored in several replicates has one row.
    """
    keys = ["network", "case", "class"]
    means = scores.groupby(keys, sort=False)[metrics_of(scores)].mean().reset_index()
    means["protocol"] = scores["protocol"].iloc[0]
    order = {name: index for index, name in enumerate(order_networks(scores["network"].unique()))}
    return means.rename(columns={"network": "run"}).sort_values("run", key=lambda c: c.map(order), kind="stable")


def replicate_spread(scores: pd.DataFrame) -> pd.DataFrame:
    """SD of a network's mean score over its replicates (seeds, folds), for one data set.

    Returns:
        By network: replicates, and METRIC_sd_replicates (NaN for a single one).
    """
    rows = []
    for network, part in scores.groupby("network", sort=False):
        means = pd.concat([in_all(class_table(one)) for _, one in part.groupby("replicate")])
        row = {"network": network, "replicates": len(means)}
        rows.append(row | {f"{metric}_sd_replicates": means[metric].std() for metric in metrics_of(scores)})
    return pd.DataFrame(rows).set_index("network")


def by_case(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean score of each case, one column per network, for paired comparisons on one data set."""
    means = case_means(network_scores(scores))
    return means.pivot(index="case", columns="run", values=metric)[order_networks(means["run"].unique())]
