"""Configurations as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf


def values_at(config: DictConfig, names: Iterable[str]) -> dict[str, Any]:
    """Some values of a configuration as plain data, by their names, with a dot for each group.

    Raises:
        MissingMandatoryValue: one must be given and is not.
    """
    found = {name: OmegaConf.select(config, name, throw_on_missing=True) for name in names}
    return {name: plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """A value of a configuration: lists and groups as Python's own, anything else as it is."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def to_plain(config: DictConfig | ListConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A configuration of named values as dictionaries, lists, numbers and strings.

    Args:
        config: with keys, as every file of `configs/` has.
        resolve: whether interpolations become what they stand for.

    Raises:
        TypeError: it is a list, or missing.
    """
    content = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(content, dict):
        raise TypeError(f"Expected a configuration of named values, got {type(content).__name__}: {content!r:.200}.")
    return {str(key): value for key, value in content.items()}
