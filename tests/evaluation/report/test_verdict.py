"""What a report says in words follows from its numbers, and says when they can say nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from umamba.evaluation.report.significance import compare_networks, pair_of
from umamba.evaluation.report.verdict import reference_of, verdict
from umamba.evaluation.table_text import mark_best, to_latex, to_markdown

COSTS = pd.DataFrame({"seconds_per_epoch": [10.0, 25.0], "train_peak_vram_gib": [np.nan, 3.0]},
                     index=["nnunet", "umamba_enc"])  # fmt: skip


def said(gain: float, cases: int, seeds: int = 1, networks=("nnunet", "umamba_enc")) -> str:
    random = np.random.default_rng(0)
    hard = random.normal(0.8, 0.05, cases)
    noise = random.normal(0, 0.01, (len(networks), cases))
    rows = [
        {"network": name, "replicate": f"seed {seed}", "case": f"c{i}", "class": "organ", "protocol": "standard",
         "dsc": hard[i] + gain * place + noise[place, i]}
        for place, name in enumerate(networks) for seed in range(seeds) for i in range(cases)
    ]  # fmt: skip
    scores = pd.DataFrame(rows)
    table = scores.groupby(["case", "network"])["dsc"].mean().unstack()
    return " ".join(verdict(scores, COSTS, "dsc", compare_networks(table)))


def test_a_clear_winner_is_named_with_its_cost():
    text = said(0.05, 12, seeds=2)
    assert text.startswith("U-Mamba_Enc has the best DSC on 12 cases") and "is significant (p = " in text
    assert "U-Mamba_Enc against nnU-Net: +0.05" in text and ", significant." in text
    assert "takes 2.5 times the time per epoch of nnU-Net." in text and "memory" not in text
    assert "trained once" not in text and "nothing here could" not in text


def test_what_few_cases_and_one_seed_cannot_say():
    text = said(0.05, 4)
    assert "no Wilcoxon test can give less than p = 0.125: nothing here could be significant" in text
    assert "there are too few cases to test that difference" in text and ", too few cases for a test." in text
    assert "not significant" not in text and "tell these two apart" not in text
    assert "Each network was trained once" in text
    assert "was scored, on 1 case" in said(0, 1, networks=("nnunet",))


def test_equal_networks_are_not_told_apart():
    assert "do not tell these two apart" in said(0.0, 12)


def test_the_reference_is_the_control_then_the_cnn():
    assert reference_of(["umamba_enc", "nnunet", "umamba_none (8 GB)"]) == "umamba_none (8 GB)"
    assert reference_of(["umamba_enc", "nnunet"]) == "nnunet" and reference_of(["segresnet"]) is None


def test_a_pair_is_the_same_in_both_directions():
    random = np.random.default_rng(1)
    table = pd.DataFrame(random.normal(0, 1, (9, 2)), columns=["a", "b"])
    compared = compare_networks(table)
    there, back = pair_of(compared, "a", "b"), pair_of(compared, "b", "a")
    assert there["difference"] == -back["difference"] and (there["low"], there["high"]) == (-back["high"], -back["low"])
    assert there["p"] == back["p"] and there["p_false"] == pytest.approx(1 - back["p_false"])
    assert pair_of(compared, "a", "c") is None


def test_the_best_is_marked_where_there_is_one():
    text = pd.DataFrame({"network": ["x", "y|z", "w"], "DSC": ["0.80 ± 0.1", "0.90 ± 0.2", "0.90 ± 0.3"]})
    mark_best(text, "DSC", [0.8, 0.9, 0.9])
    assert to_markdown(text).splitlines()[2:] == [
        "| x | 0.80 ± 0.1 |", r"| y\|z | **0.90 ± 0.2** |", "| w | **0.90 ± 0.3** |"
    ]  # fmt: skip
    assert r"y|z & \textbf{0.90 $\pm$ 0.2}" in to_latex(text, "")
    lowest = pd.DataFrame({"HD95": ["1.0", "2.0", "–"]})
    mark_best(lowest, "HD95", [1.0, 2.0, np.nan], lower_is_better=True)
    assert lowest.attrs["best"] == {(0, "HD95")}
    missed = pd.DataFrame({"HD95": ["1.0", "2.0", "2.0"]})
    mark_best(missed, "HD95", [np.inf, 2.0, np.inf], lower_is_better=True)
    assert missed.attrs["best"] == {(1, "HD95")}  # the others left something infinite out
    for values in ([1.0, np.nan], [1.0, 1.0], [np.inf, np.inf]):
        same = pd.DataFrame({"DSC": [f"{value:.1f}" for value in values]})
        mark_best(same, "DSC", values)
        assert "best" not in same.attrs
