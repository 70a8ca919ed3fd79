"""Tables: means, SD, what is left out, and text that other programs can read."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from umamba.evaluation.table_text import format_score
from umamba.evaluation.tables import class_table, describe, in_all, write_tables


def scores(dsc: dict[str, list[float]], protocol: str = "standard", **columns) -> pd.DataFrame:
    rows = [
        {"protocol": protocol, "case": f"c{index}", "class": name, "dsc": value, "nsd": value / 2}
        for name, values in dsc.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_standard_averages_a_case_first_and_the_paper_an_organ_first():
    nan = math.nan
    table = {"liver": [0.9, 0.8, 0.7], "spleen": [0.5, nan, nan]}
    standard = in_all(class_table(scores(table)))
    assert standard["dsc"].item() == pytest.approx(np.mean([0.7, 0.8, 0.7]))
    assert standard["dsc_sd"].item() == pytest.approx(np.std([0.7, 0.8, 0.7], ddof=1))
    assert standard["left_out"].item() == 2
    paper = in_all(class_table(scores(table, "paper/abdomen")))
    assert paper["dsc"].item() == pytest.approx(np.mean([0.8, 0.5]))
    assert paper["dsc_sd"].item() == pytest.approx(np.std([0.7, 0.8, 0.7], ddof=1))


def test_infinite_distances_and_absent_classes_are_counted():
    table = scores({"liver": [0.9, 0.0], "spleen": [math.nan, math.nan]})
    table["hd95"] = [2.0, math.nan, math.nan, math.nan]
    liver, spleen, together = class_table(table).to_dict("records")
    assert (liver["hd95"], liver["hd95_infinite"], liver["left_out"]) == (2.0, 1, 0)
    assert (spleen["cases"], spleen["left_out"], spleen["hd95_infinite"]) == (2, 2, 0)
    assert (together["class"], together["left_out"], together["hd95_infinite"]) == ("all", 2, 1)
    assert "Absent everywhere: spleen." in describe(table)
    assert "2 scores left out" in describe(table) and "1 infinite HD95" in describe(table)


def test_one_case_has_no_sd_and_says_so():
    table = scores({"liver": [0.9], "spleen": [0.7]})
    assert "One case only: no SD." in describe(table)
    assert in_all(class_table(table))["dsc_sd"].isna().all()
    assert format_score(0.8, math.nan) == "0.8000" and format_score(math.nan) == "–"


def test_two_protocols_never_share_a_table(tmp_path):
    mixed = pd.concat([scores({"liver": [0.9]}), scores({"liver": [0.9]}, "paper/abdomen")])
    with pytest.raises(ValueError, match="paper/abdomen, standard; a table holds one"):
        write_tables(mixed, tmp_path)
    assert not list(tmp_path.iterdir())


def test_files(tmp_path):
    table = scores({"left_kidney": [0.9, 0.8], "spleen": [0.7, 0.6]})
    shown = write_tables(table, tmp_path)
    names = {f"{name}.{ending}" for name in ("per_case", "per_class", "summary") for ending in ("csv", "md", "tex")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"scores.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scores.csv"), table)
    assert shown["DSC"].tolist() == ["0.8500 ± 0.0707", "0.6500 ± 0.0707", "0.7500 ± 0.0707"]
    for path in tmp_path.iterdir():
        assert "standard" in path.read_text(), f"{path.name} does not name the protocol"
    assert r"left\_kidney & 2 & 0.8500 $\pm$ 0.0707 &" in (tmp_path / "per_class.tex").read_text()
    assert "| left_kidney | 2 | 0.8500 ± 0.0707 |" in (tmp_path / "per_class.md").read_text()
    assert pd.read_csv(tmp_path / "per_case.csv")["dsc"].tolist() == pytest.approx([0.8, 0.7])


def test_a_class_called_all_is_not_the_row_in_all(tmp_path):
    table = scores({"all": [0.9, 0.8], "liver": [0.5, math.nan]})
    write_tables(table, tmp_path)
    written = pd.read_csv(tmp_path / "per_class.csv")
    assert written["class"].tolist() == ["all", "liver", "all classes"]
    assert written["cases"].tolist() == [2, 2, 2] and "1 score left out" in describe(table)


def test_nothing_of_earlier_scores_stays_beside_new_ones(tmp_path):
    for name in ("run.json", "scores.parquet"):
        (tmp_path / name).write_text("of other scores")
    write_tables(scores({"liver": [0.9]}), tmp_path)
    assert not (tmp_path / "run.json").exists() and not (tmp_path / "scores.parquet").exists()


def test_runs_are_kept_apart(tmp_path):
    both = pd.concat([scores({"liver": [0.9, 0.8]}, run="a"), scores({"liver": [0.5, 0.4]}, run="b")])
    shown = write_tables(both, tmp_path)
    assert shown[["run", "DSC"]].to_numpy().tolist() == [["a", "0.8500 ± 0.0707"], ["b", "0.4500 ± 0.0707"]]
