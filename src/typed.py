"""Whether plain data, from a file or a command line, have the types that they should have."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin


def has_type(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type: text, finite numbers, bool, None, tuples, dicts and classes.

    A whole number is a float too, as JSON writes 1.0 and 1 alike; true and false are no numbers.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return any(has_type(value, one) for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(has_type(entry, arguments[0]) for entry in value)
        return len(value) == len(arguments) and all(map(has_type, value, arguments))
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(key, arguments[0]) and has_type(entry, arguments[1]) for key, entry in value.items()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def check_switches(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """See that options that are on or off are true or false, for any text would be taken for true.

    Args:
        values: Options, those of `names` among them.
        names: Which to look at.

    Raises:
        ValueError: One is something else.
    """
    for name in names:
        if not isinstance(values[name], bool):
            raise ValueError(f"{name}={values[name]}: expected true or false.")


def describe(hint: Any) -> str:
    """The type in words, for a message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        inner = describe(arguments[0])
        return f"a list of {inner}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} times {inner}"
    if origin is dict:
        return f"an object of {describe(arguments[1])}"
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
