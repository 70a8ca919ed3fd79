"""Amounts in words."""

import pytest

from umamba.words import count, duration


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
