"""HD95 in the report: lower is better, a miss is counted, and nobody gains by missing what is difficult."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation import scored_runs
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.networks import all_scores, network_scores, paired
from umamba.evaluation.report.numbers import class_numbers, main_metrics, result_numbers
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.significance import compare_networks, mean_ranks
from umamba.evaluation.report.tables import classes_table, result_table
from umamba.evaluation.tables import class_table, describe

NOTHING: dict = {"settings": {}}


def results(scores: pd.DataFrame) -> pd.DataFrame:
    return result_table(result_numbers(scores), scores, "mine", NOTHING)


def change(folder: Path, **columns) -> Path:
    """Give a run other scores; each column is a function of the table of scores."""
    scores = pd.read_csv(folder / "scores.csv")
    scored_runs.replace_scores(folder, scores.assign(**columns))
    return folder


def missed(name: str, columns: tuple[str, ...] = ("dsc", "nsd")) -> dict:
    """A run in which one class is found in no case."""
    zero = {column: lambda t, c=column: t[c].where(t["class"] != name, 0.0) for column in columns}
    return zero | {"hd95": lambda t: t["hd95"].where(t["class"] != name)}


def test_networks_are_compared_by_it(tmp_path: Path) -> None:
    for network, gain in (("nnunet", 0.0), ("umamba_bot", 0.02)):
        for seed in (1, 2):
            scored_runs.make_run(tmp_path / f"{network}_{seed}", dataset="mine", network=network, seed=seed, gain=gain)
    scores = all_scores(gather([tmp_path]))
    assert main_metrics(scores) == ["dsc", "nsd", "hd95"]
    for name in ("dsc", "hd95"):
        ranks = mean_ranks(paired(scores, name), lower_is_better=name == "hd95")
        assert ranks.index.tolist() == ["umamba_bot", "nnunet"]
    row = results(scores).set_index("network").loc["nnU-Net"]
    means = scores[scores["network"] == "nnunet"].groupby("case")["hd95"].mean()
    assert row["HD95"] == f"{means.mean():.2f} ± {means.std():.2f}"
    low, high = map(float, row["HD95 95 %"].split(" to "))
    assert low < means.mean() < high and high - low == pytest.approx(2 * 1.96 * means.std() / math.sqrt(12), rel=0.3)
    by_run = scores[scores["network"] == "nnunet"].groupby(["replicate", "case"])["hd95"].mean().groupby(level=0).mean()
    assert row["HD95 SD of runs"] == f"{by_run.std():.2f}" and "HD95 inf." not in row
    page = make_report([tmp_path], tmp_path / "report").read_text()
    assert "a negative difference is in favour of the first" in page
    tests = pd.read_csv(tmp_path / "report" / "tables" / "mine_hd95_tests.csv").iloc[0]
    assert (tests["network"], tests["other"]) == ("nnU-Net", "U-Mamba_Bot") and tests["difference_mm_or_px"] > 0


def test_a_miss_in_one_of_two_seeds_is_counted(tmp_path: Path) -> None:
    for seed in (1, 2):
        scored_runs.make_run(tmp_path / f"s{seed}", dataset="mine", seed=seed, cases=4)
    change(tmp_path / "s1", **missed("spleen"))
    scores = all_scores(gather([tmp_path]))
    table = class_table(network_scores(scores)).set_index("class")
    assert table["hd95_infinite"].to_dict() == {"liver": 0, "spleen": 4, "pancreas": 0, "all": 4}
    assert "4 infinite HD95 left out" in describe(network_scores(scores))
    assert results(scores)["HD95 inf."].tolist() == [4]
    text = classes_table(class_numbers(scores, "hd95"), "hd95").set_index("class")["U-Mamba_Bot"]
    assert text["spleen"].endswith(" (4 inf.)") and "inf" not in text["liver"]
    kept = scores[(scores["class"] == "spleen") & (scores["replicate"] == "fold 0, seed 2")]["hd95"]
    assert table.loc["spleen", "hd95"] == pytest.approx(kept.mean())


def test_a_network_that_misses_the_difficult_class_is_not_the_better_one(tmp_path: Path) -> None:
    good = scored_runs.make_run(tmp_path / "good", dataset="mine", network="nnunet")
    poor = scored_runs.make_run(tmp_path / "poor", dataset="mine", network="segresnet")
    change(good, hd95=lambda t: t["class"].map({"liver": 2.0, "spleen": 3.0, "pancreas": 20.0}))
    change(poor, hd95=lambda t: t["class"].map({"liver": 2.5, "spleen": 3.5, "pancreas": math.nan}),
           dsc=lambda t: t["dsc"].where(t["class"] != "pancreas", 0.0))  # fmt: skip
    scores = all_scores(gather([tmp_path]))
    means = results(scores).set_index("network")
    assert means.loc["SegResNet", "HD95"].startswith("3.00") and means.loc["nnU-Net", "HD95"].startswith("8.33")
    assert means["HD95 inf."].to_dict() == {"nnU-Net": 0, "SegResNet": 12}
    table = paired(scores, "hd95")
    row = compare_networks(table).iloc[0]
    assert (row["network"], row["other"], row["cases"], row["difference"]) == ("nnunet", "segresnet", 12, -0.5)
    assert mean_ranks(table, lower_is_better=True).to_dict() == {"nnunet": 1.0, "segresnet": 2.0}


def test_runs_that_do_not_have_a_metric_have_a_dash_and_no_miss(tmp_path: Path) -> None:
    scored_runs.make_run(tmp_path / "now", dataset="mine", network="nnunet")
    old = scored_runs.make_run(tmp_path / "before", dataset="mine", network="umamba_bot")
    scored_runs.replace_scores(old, pd.read_csv(old / "scores.csv").drop(columns="hd95"))
    scores = all_scores(gather([tmp_path]))
    table = results(scores).set_index("network")
    assert table.loc["U-Mamba_Bot", "HD95"] == "–" and "HD95 inf." not in table
    page = make_report([tmp_path], tmp_path / "report").read_text()
    assert ">nan" not in page and "infinite HD95 left out" not in page
    assert np.isnan(compare_networks(paired(scores, "hd95")).loc[0, "difference"])
