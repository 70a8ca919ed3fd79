"""Names that come from files or users and become names of files: one component of a path each, whatever they say."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MAX_BYTES = 200  # file systems take 255; an ending, a channel and what marks an unfinished file are added
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line and paragraph separators
_LONGEST = 60  # characters kept of a name, which leaves room for what is put behind it (255 bytes are a file's limit)


def name_fault(name: object) -> str | None:
    """Why a name from a file cannot be the name of a file or folder; None if it can.

    Letters of any script, blanks, brackets and dots inside a name are fine. What could lead out of a folder is not,
    nor is a leading dot, which marks what is hidden or unfinished.
    """
    if not isinstance(name, str):
        return f"it must be text, it is a {type(name).__name__}"
    if not name.strip():
        return "it is empty"
    if "/" in name or "\\" in name:
        return "it holds a path separator"
    if name.startswith("."):
        return "it begins with a dot"
    if any(unicodedata.category(character) in _INVISIBLE for character in name):
        return "it holds a control character"
    if len(name.encode()) > MAX_BYTES:
        return f"it is longer than {MAX_BYTES} bytes"
    return None


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
