"""Configurations as plain data."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf


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
