"""Means of networks that have their scores in different cases are said to be that, and no test is read against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.evaluation.scored_runs import make_run, replace_scores
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.networks import paired, unlike_cases
from umamba.evaluation.report.significance import compare_networks
from umamba.evaluation.report.verdict import verdict

TUMOUR = ("tumour",)


def false_alarms(folder: Path) -> Path:
    """Four of twelve cases have no tumour: nnU-Net finds none there, U-Mamba does, and is better everywhere else."""
    for network, gain in (("nnunet", 0.0), ("umamba_bot", 0.02)):
        run = make_run(folder / network, network=network, gain=gain, cases=14, classes=TUMOUR)
        scores = pd.read_csv(run / "scores.csv")
        healthy = scores["case"].isin([f"case_{number:02d}" for number in range(4)])
        scores.loc[healthy, ["dsc", "nsd"]] = np.nan if network == "nnunet" else 0.0
        scores.loc[healthy, "hd95"] = np.nan
        replace_scores(run, scores)
    return folder


def test_false_alarms_that_no_test_sees_are_told(tmp_path: Path) -> None:
    output = tmp_path / "report"
    page = make_report([false_alarms(tmp_path / "runs")], output).read_text()
    results = pd.read_csv(output / "tables" / "flare_results.csv").set_index("network")
    assert results["cases"].to_dict() == {"nnU-Net": 10, "U-Mamba_Bot": 14}
    assert results.loc["nnU-Net", "dsc_mean"] > results.loc["U-Mamba_Bot", "dsc_mean"]
    tests = pd.read_csv(output / "tables" / "flare_dsc_tests.csv").iloc[0]
    assert tests["difference"] < 0 and tests["p_holm"] < 0.05  # the other way round
    told = "The means are over different cases (nnU-Net 10, U-Mamba_Bot 14)"
    assert told in (output / "tables" / "flare_results.md").read_text()
    assert page.count(told) == 2  # in words and below the table
    assert "nnU-Net has the best DSC" in page
    assert "but on the 10 cases in which both have a score U-Mamba_Bot is significantly better" in page


def test_what_few_cases_cannot_show_is_told_by_those_in_common() -> None:
    random = np.random.default_rng(0)
    scores = pd.DataFrame([
        {"network": name, "replicate": "seed 0", "case": f"c{number}", "class": "tumour", "protocol": "standard",
         "dsc": random.uniform(0.5, 0.9) if name == "nnunet" or number < 4 else np.nan}
        for name in ("nnunet", "umamba_bot") for number in range(12)
    ])  # fmt: skip
    costs = pd.DataFrame({"seconds_per_epoch": [], "train_peak_vram_gib": []})
    words = " ".join(verdict(scores, costs, "dsc", compare_networks(paired(scores, "dsc"))))
    assert "With 4 cases no Wilcoxon test can give less than p = 0.125" in words


def test_nothing_is_said_where_all_have_the_same_cases(tmp_path: Path) -> None:
    for network in ("nnunet", "umamba_bot"):
        make_run(tmp_path / "runs" / network, network=network, classes=TUMOUR)
    page = make_report([tmp_path / "runs"], tmp_path / "report").read_text()
    assert "different cases" not in page
    rows = [{"network": name, "case": case, "class": "tumour", "protocol": "standard", "dsc": np.nan}
            for name in "ab" for case in "xy"]  # fmt: skip
    assert unlike_cases(pd.DataFrame(rows)) == ""  # nobody has any
