"""Amounts and lists as a person would say them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_QUOTED = re.compile(r"`[^`\n]+`")  # a command that somebody may copy
_LAID_OUT = re.compile(r".*\S {2}")  # a row of a table, a command after its name
_HELD = "\0"  # stands for a blank at which no line ends


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


def folded(text: str, width: int, indent: int = 0) -> str:
    """A text in lines of at most so many characters, broken at blanks: paths and commands in backquotes stay whole.

    Args:
        text: Its own lines are kept; those that are laid out with several blanks, such as a table's, stay as they are.
        width: Characters of a line; a longer word has a longer line.
        indent: Blanks before what goes on in another line.
    """
    lines = (line if _LAID_OUT.match(line) else _fold(line, width, indent) for line in text.split("\n"))
    return "\n".join(lines)


def _fold(line: str, width: int, indent: int) -> str:
    held = _QUOTED.sub(lambda quoted: quoted[0].replace(" ", _HELD), line)
    inner = len(line) - len(line.lstrip())
    parts = textwrap.wrap(held, width, subsequent_indent=" " * (inner + 2 if inner else indent), break_long_words=False,
                          break_on_hyphens=False)  # fmt: skip
    return "\n".join(parts).replace(_HELD, " ")
