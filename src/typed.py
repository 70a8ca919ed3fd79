"""Whether plain data, from a file or a command line, have the types that they should have."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard, get_args, get_origin

_WORDS = {
    float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null", list: "a list",
    dict: "named values", Path: "a path",
}  # fmt: skip
_OF_LISTS = {float: "numbers", int: "whole numbers", Path: "paths"}
_IN_YAML = {"None": "null", "True": "true", "False": "false"}


def has_type(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type: text, finite numbers, bool, None, tuples, lists, dicts and classes.

    A whole number is a float too, as JSON writes 1.0 and 1 alike; true and false are no numbers. A `Path` is text that
    is not empty.
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
    if origin is list:
        return isinstance(value, list) and all(has_type(entry, arguments[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(key, arguments[0]) and has_type(entry, arguments[1]) for key, entry in value.items()
        )
    if hint is Path:
        return isinstance(value, str) and bool(value.strip())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether a value is a whole number of at least so many; true and false are none."""
    return has_type(value, int) and value >= least  # type: ignore[operator]  # which has_type has seen


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """See that options are of their types, before anything is done with them (else ValueError).

    Args:
        values: Options as plain data.
        hints: Name -> type, as of `has_type`.
    """
    for name, hint in hints.items():
        value = values[name]
        if has_type(value, hint):
            continue
        told = _IN_YAML.get(str(value), value) if value is None or isinstance(value, bool) else value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        advice = f" One whose name is a number is written ./{value}." * (is_number and "a path" in describe(hint))
        raise ValueError(f"{name}={told}: expected {describe(hint)}.{advice}")


def describe(hint: Any) -> str:
    """The type in words, for a message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        *first, last = map(describe, arguments)
        return f"{', '.join(first)} or {last}"
    if origin is list:
        return f"a list of {_OF_LISTS.get(arguments[0]) or describe(arguments[0])}"
    if origin is tuple:
        inner = describe(arguments[0])
        return f"a list of {inner}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} times {inner}"
    if origin is dict:
        return f"an object of {describe(arguments[1])}"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))
