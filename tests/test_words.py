"""Amounts in words."""

import pytest

from umamba.words import count, duration, folded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (1.64, "1.6 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"),
        (552, "9 min 12 s"), (3600, "1 h"), (3661, "1 h 1 min"), (86399.7, "1 d"), (406_800, "4 d 17 h"),
        (8_640_000, "100 d"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [count(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def test_lines_are_broken_at_blanks_alone() -> None:
    path = "/scratch/somebody/prepared/Dataset104_Mine/3d_fullres-e9c12d0a"
    said = f"12:00:00 INFO Preprocessing 12 of 12 cases into {path}"
    assert folded(said, 60, 14) == f"12:00:00 INFO Preprocessing 12 of 12 cases into\n{' ' * 14}{path}"
    assert folded(said, 200, 14) == said
    assert folded("give it again, or run `python -m x a=1` after it", 24) == (
        "give it again, or run\n`python -m x a=1` after\nit"
    )
    assert folded("These differ:\n  patch_size was 1 and is 2\n", 20) == (
        "These differ:\n  patch_size was 1\n    and is 2\n"
    )


def test_what_is_laid_out_is_not_broken() -> None:
    rows = "class   cases   DSC\n────────────────────\n  predict:  python predict.py input=IMAGES"
    assert folded(rows, 12) == rows
