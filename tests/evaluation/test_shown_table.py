"""A table on a terminal keeps names whole and the terminal's width."""

import logging

import pandas as pd
import pytest

from umamba.evaluation.table_text import as_text, show_table

TABLE = pd.DataFrame(
    {
        "class": ["gallbladder", "left_adrenal_gland", "all"],
        "cases": ["4", "4", "4"],
        "HD95 inf.": ["0", "12", "12"],
        **{name: ["0.2099 ± 0.1005", "–", "0.1 ± 0.2"] for name in ("DSC", "NSD", "vol. error", "|vol. error|")},
    }
)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_it_fits_and_cuts_nothing(width: int) -> None:
    text = as_text(TABLE, "Mean ± SD over cases. " * 8, width)
    assert text.startswith("\n") and max(map(len, text.splitlines())) <= width
    for part in ("gallbladder", "left_adrenal_gland", "0.2099", "0.1005", "|vol.", "error|"):
        assert part in text
    assert ("0.2099 ± 0.1005" in text) == (width == 140)


def test_a_name_that_is_too_long_is_folded() -> None:
    name = "a_very_long_name_of_a_structure_that_no_terminal_has_room_for"
    text = as_text(TABLE.assign(**{"class": [name, "b", "all"]}), "", 80)
    assert max(map(len, text.splitlines())) <= 80
    first = [line[: line.find("  ")] if line.find("  ") > 0 else line for line in text.splitlines()]
    assert name in "".join(first)


def test_it_goes_into_the_log(caplog) -> None:
    caplog.set_level(logging.INFO, "umamba")
    show_table(TABLE, "caption")
    assert "left_adrenal_gland" in caplog.text and "caption" in caplog.text
