"""The CSVs of a report are read as numbers: a column each, in full, the same as the page shows, with their units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.scored_runs import make_run, replace_scores
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.networks import all_scores, best_network, paired
from umamba.evaluation.report.numbers import distance_unit, result_numbers
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.sections import NOT_BEST
from umamba.evaluation.report.significance import compare_networks

TEXT = {"network", "other", "class"}  # the columns that hold names


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    for network, gain in (("nnunet", 0.0), ("umamba_bot", 0.02), ("=1+1", 0.01)):
        for seed in (1, 2):
            run = make_run(folder / "runs" / f"{network}_{seed}", dataset="mine", network=network, seed=seed, gain=gain)
            scores = pd.read_csv(run / "scores.csv")
            missed = (scores["case"] == "case_00") & (scores["class"] == "spleen") & (network == "nnunet")
            scores.loc[missed, ["dsc", "nsd", "hd95"]] = 0, 0, np.nan
            replace_scores(run, scores)
    make_report([folder / "runs"], folder / "report")
    return folder


def test_every_column_but_the_names_is_numeric(report: Path) -> None:
    paths = sorted((report / "report" / "tables").glob("*.csv"))
    numeric = [path for path in paths if path.stem != "mine_runs"]
    assert len(numeric) == 2 + 3 * 3
    for path in numeric:
        table = pd.read_csv(path)
        text = {name for name in table if not pd.api.types.is_numeric_dtype(table[name])}
        assert text <= TEXT and not {name for name in table if name.startswith("'")}, (path.name, text)
        names = table.filter(["network", "other"]).to_numpy().ravel().tolist()
        assert "'=1+1" in names and "=1+1" not in names, "a name is still no formula"


def test_they_are_the_numbers_behind_the_page(report: Path) -> None:
    scores, tables = all_scores(gather([report / "runs"])), report / "report" / "tables"
    found = pd.read_csv(tables / "mine_results.csv").set_index("network").loc["U-Mamba_Bot"]
    exact = result_numbers(scores).set_index("network").loc["umamba_bot"]
    assert found["dsc_mean"] == exact["dsc_mean"] and found["hd95_high_mm_or_px"] == exact["hd95_high"]
    shown = (tables / "mine_results.md").read_text()
    assert f"{found['dsc_mean']:.4f} ± {found['dsc_sd']:.4f}" in shown
    assert "HD95 in mm or px." in shown
    assert f"{found['dsc_low']:.4f} to {found['dsc_high']:.4f}" in shown
    assert pd.read_csv(tables / "mine_results.csv")["hd95_infinite"].tolist() == [2, 0, 0]
    tests = pd.read_csv(tables / "mine_dsc_tests.csv")
    exact = compare_networks(paired(scores, "dsc"))
    for name in ("difference", "low", "high", "p", "p_false", "p_holm"):
        assert tests[name].tolist() == pytest.approx(exact[name].tolist(), rel=1e-14), name
    by_class = pd.read_csv(tables / "mine_hd95_by_class.csv").set_index(["network", "class"])
    assert by_class.loc[("nnU-Net", "spleen"), "hd95_infinite"] == 2
    cost = pd.read_csv(tables / "mine_cost.csv").set_index("network")
    assert cost.loc["nnU-Net", "parameters"] == 36_000_000 and np.isnan(cost.loc["nnU-Net", "train_peak_vram_gib"])


def test_a_network_that_missed_a_class_has_no_best_distance(tmp_path: Path) -> None:
    """Also where it is the better one wherever it found the class; nor is any where all have missed some."""
    rows: dict[str, list[str]] = {}
    for missing in (("a",), ("a", "b")):
        folder = tmp_path / "".join(missing)
        for network, gain in (("a", 0.05), ("b", 0.0)):
            run = make_run(folder / "runs" / network, network=network, gain=gain)
            scores = pd.read_csv(run / "scores.csv")
            scores.loc[(scores["class"] == "spleen") & (network in missing), ["dsc", "nsd", "hd95"]] = 0, 0, np.nan
            replace_scores(run, scores)
        page = make_report([folder / "runs"], folder / "report").read_text()
        rows["".join(missing)] = (folder / "report" / "tables" / "flare_results.md").read_text().splitlines()
        best = best_network(all_scores(gather([folder / "runs"])), "hd95")
        assert NOT_BEST in page and best == ("a" if "b" in missing else "b")
    head = rows["a"][0].split(" | ")
    a, b = (row.split(" | ")[head.index("HD95")] for row in rows["a"][2:4])
    assert float(a.split()[0]) < float(b.strip("*").split()[0]) and "**" in b and "**" not in a
    assert all("**" not in row.split(" | ")[head.index("HD95")] for row in rows["ab"][2:4])


@pytest.mark.parametrize(
    ("endings", "unit"),
    [((".nii.gz",), "mm"), ((".png",), "px"), ((".nii.gz", ".png"), "mm"), ((".tif",), "mm_or_px"), ((), "mm_or_px")],
)
def test_distances_name_their_unit(report: Path, endings: tuple[str, ...], unit: str) -> None:
    (run, *_) = gather([report / "runs"])
    run.record["pairs"] = [{"reference": f"a{ending}"} for ending in endings]
    assert distance_unit([run]) == unit
