"""Configurations as plain data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from umamba.typed import check_types


def check_option_types(config: DictConfig, hints: Mapping[str, Any]) -> None:
    """See that values of a configuration are of their types, see `umamba.typed.check_types`.

    Raises:
        MissingMandatoryValue: one must be given and is not.
        ValueError: one is of another type.
    """
    found = {name: plain(OmegaConf.select(config, name, throw_on_missing=True)) for name in hints}
    check_types(found, hints)


def plain(value: Any) -> Any:
    """A value of a configuration: lists and groups as Python's own, anything else as it is."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def with_plain_arguments(make: Callable[..., Any]) -> Callable[..., Any]:
    """A partial of which no argument is a configuration; else what it is.

    An optimizer keeps its arguments, and checkpoints are read back without the classes of configurations.
    """
    if not isinstance(make, functools.partial):
        return make
    named = {key: plain(value) for key, value in make.keywords.items()}
    return functools.partial(make.func, *map(plain, make.args), **named)


def mapped(node: Any, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """Nested plain data with tuples as lists, as JSON has them, and what `leaf` makes of all that holds nothing."""
    if isinstance(node, Mapping):
        return {key: mapped(value, leaf) for key, value in node.items()}
    return [mapped(value, leaf) for value in node] if isinstance(node, (list, tuple)) else leaf(node)


def to_plain(config: DictConfig | ListConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A configuration of named values as dictionaries, lists, numbers and strings (else TypeError)."""
    content = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(content, dict):
        raise TypeError(f"Expected a configuration of named values, got {type(content).__name__}: {content!r:.200}.")
    return {str(key): value for key, value in content.items()}
