"""Plans out of plain data, such as JSON holds."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from umamba.planning.configuration import PlanError
from umamba.typed import describe, has_type


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def build(kind: type, content: object, where: str) -> Any:
    """Make a dataclass from plain data; a wrong or missing key is named together with the right ones."""
    if not isinstance(content, dict):
        raise PlanError(f"{where} must be an object, it is {content!r}.")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(content.keys() - fields.keys())
    if unknown:
        raise PlanError(f"{where} has unknown keys {unknown}; allowed are {sorted(fields)}.")
    needed = {
        name
        for name, entry in fields.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - content.keys())
    if missing:
        raise PlanError(f"{where} lacks {missing}.")
    frozen = {key: value if key == "configurations" else _freeze_entry(value) for key, value in content.items()}
    for key, hint in get_type_hints(kind).items():
        if key in frozen and not has_type(frozen[key], hint):
            raise PlanError(f"{where}.{key} = {content[key]!r:.200}: expected {describe(hint)}.")
    return kind(**frozen)


def _freeze_entry(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return _frozen(value)


def inherit(name: str, entries: dict[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entry of a configuration with everything it inherits filled in.

    Raises:
        PlanError: it inherits from itself or from what is not there, or an entry is no object with its key as name.
    """
    if name in seen:
        raise PlanError(f"configurations.{seen[0]} inherits from itself: {' -> '.join((*seen, name))}.")
    if name not in entries:
        raise PlanError(f"configurations.{seen[-1]}.inherits_from is {name!r}; there are {', '.join(entries)}.")
    entry = entries[name]
    if not isinstance(entry, dict):
        raise PlanError(f"configurations.{name} must be an object, it is {entry!r}.")
    parent = entry.get("inherits_from")
    if not isinstance(parent, (str, type(None))):
        raise PlanError(f"configurations.{name}.inherits_from is {parent!r:.200}; expected a name.")
    own = {key: value for key, value in entry.items() if key != "inherits_from"}
    if own.get("name", name) != name:
        raise PlanError(f"configurations.{name}.name is {own['name']!r:.200}; it must be its key.")
    inherited = inherit(parent, entries, (*seen, name)) if parent is not None else {}
    return {**inherited, **own, "name": name}
