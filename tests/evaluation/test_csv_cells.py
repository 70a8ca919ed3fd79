"""No cell of a table is a formula, every name is read as it was written, numbers stay numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umamba.evaluation.table_text import read_scores, to_csv
from umamba.evaluation.tables import write_tables

STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
names = st.text(st.sampled_from("=+-@'\t a1.|!\"," ), min_size=1, max_size=6).filter(str.strip)  # fmt: skip


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "'=1"])
def test_no_cell_begins_as_a_formula(tmp_path: Path, name: str) -> None:
    scores = pd.DataFrame([
        {"protocol": "standard", "case": f"{name}{i}", "class": name, "dsc": 0.5, "volume_error_ml": -0.5, "run": name}
        for i in range(2)
    ])  # fmt: skip
    write_tables(scores, tmp_path)
    for path in tmp_path.glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        for cell in cells:
            assert not cell.startswith(STARTS) or float(cell) < 0, (path.name, cell)
    found = read_scores(tmp_path / "scores.csv")
    assert found["class"].tolist() == [name] * 2 and found["case"].tolist() == [f"{name}0", f"{name}1"]
    assert found["volume_error_ml"].tolist() == [-0.5, -0.5] and found["run"].tolist() == [name] * 2


@given(st.lists(names, min_size=1, max_size=5))
def test_every_name_is_read_as_it_was_written(tmp_path_factory, given_names: list[str]) -> None:
    path = tmp_path_factory.mktemp("names") / "scores.csv"
    table = pd.DataFrame({"case": given_names, "class": given_names[::-1], "dsc": np.arange(len(given_names)) - 0.5})
    path.write_bytes(to_csv(table).encode())
    pd.testing.assert_frame_equal(read_scores(path), table)


def test_numbers_in_text_stay_numbers() -> None:
    table = pd.DataFrame({"a": ["-0.970", "-1", "+2.5", "-1e-05", "-", "0.5"], "b": [-0.5, 1, 2, 3, 4, 5]})
    cells = [row[0] for row in csv.reader(io.StringIO(to_csv(table)))][1:]
    assert cells == ["-0.970", "-1", "+2.5", "-1e-05", "'-", "0.5"]
    assert to_csv(table).splitlines()[1].endswith("-0.5")
