"""File names for data sets and runs, whose own names may hold anything."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_LONGEST = 60  # characters kept of a name, which leaves room for what is put behind it (255 bytes are a file's limit)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each of some names: letters, digits and ``_ - .`` only, told apart on every file system.

    A name that has nothing else, and differs from the others by more than upper and lower case, is kept; another one
    gets what is left of it and eight digits of its hash.

    Args:
        names: Any text; the same name twice counts once.
    """
    names = list(dict.fromkeys(names))
    plain = {name: _plain(name) for name in names}
    taken = [plain[name].lower() for name in names]
    return {
        name: plain[name]
        if name and plain[name] == name and taken.count(name.lower()) == 1
        else _marked(name, plain[name])
        for name in names
    }


def _plain(name: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", ascii_only).strip("._-")[:_LONGEST]


def _marked(name: str, plain: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest
