"""What no test can show is computed from the numbers, and said as long as it is so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.scored_runs import make_run, replace_scores
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.significance import (
    can_be_significant,
    compare_networks,
    coverage,
    critical_difference,
    doubts_of_ranks,
    doubts_of_tests,
)


@pytest.mark.parametrize("networks", range(2, 12))
def test_ranks_are_said_to_be_without_power_until_there_are_enough(networks: int) -> None:
    for rows in range(1, 12):
        said = doubts_of_ranks(networks, rows, "data set")
        assert bool(said) == (critical_difference(networks, rows) >= networks - 1)
        if said:
            enough = int(said.rsplit("at least ", 1)[1].split()[0])
            assert critical_difference(networks, enough) < networks - 1 <= critical_difference(networks, enough - 1)


@pytest.mark.parametrize("cases", range(3, 12))
def test_the_least_p_is_that_of_differences_of_one_sign(cases: int) -> None:
    table = pd.DataFrame({"a": np.arange(1.0, cases + 1), "b": 0.0})
    p = compare_networks(table)["p"].iloc[0]
    assert p == pytest.approx(2 / 2**cases)
    assert can_be_significant(cases, 1) == (p <= 0.05) and can_be_significant(cases, 3) == (3 * p <= 0.05)


def test_intervals_of_few_cases_are_as_narrow_as_is_said() -> None:
    random = np.random.default_rng(0)
    for cases in (2, 3, 4, 9):
        scores = random.normal(size=(1000, cases))
        means = scores[:, random.integers(0, cases, (1000, cases))].mean(axis=2)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(coverage(cases), abs=0.05), cases
    assert math.isclose(coverage(10_000), 0.95, abs_tol=1e-3)
    assert "too narrow" in doubts_of_tests(9, 1)[0] and doubts_of_tests(10, 1) == []


def test_it_stands_below_the_table_of_the_metric_that_has_few_cases(tmp_path: Path) -> None:
    for network in ("nnunet", "umamba_bot"):
        run = make_run(tmp_path / "runs" / network, network=network, cases=12)
        scores = pd.read_csv(run / "scores.csv")
        scores["hd95"] = scores["hd95"].where(scores["case"] < "case_04")  # the classes of the others were missed
        replace_scores(run, scores)
    make_report([tmp_path / "runs"], tmp_path / "report")
    below = {m: (tmp_path / "report" / "tables" / f"flare_{m}_tests.md").read_text() for m in ("dsc", "hd95")}
    assert "With 4 cases no Wilcoxon test can give less than p = 0.125" in below["hd95"]
    assert "no Wilcoxon test" not in below["dsc"]
