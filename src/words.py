"""Amounts and lists as a person would say them."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: float) -> str:
    """Seconds in the two largest units that they fill: 4 d 17 h, 9 min 12 s, 34 s; below ten with a decimal, 1.6 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    first = next(index for index, (_, size) in enumerate(_UNITS) if whole >= size)
    (unit, size), (smaller, step) = _UNITS[first], _UNITS[min(first + 1, len(_UNITS) - 1)]
    rest = whole % size // step
    return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest and smaller != unit else "")


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 step, 10 steps."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[object], most: int = 10, between: str = ", ") -> str:
    """Items one after the other, of many the first `most` and how many more there are."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return between.join([*map(str, items[:most]), *more])


def in_words(error: Exception) -> str:
    """What is wrong with plain data that lacks a key or has a value of another type; the message names the file."""
    if isinstance(error, KeyError):
        return f"it lacks {listed(error.args)}"
    if isinstance(error, (TypeError, AttributeError, IndexError)):
        return f"a value is of another type: {error}"
    return str(error)
