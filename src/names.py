"""Names that come from files and become names of files: one component of a path each, whatever the file says."""

from __future__ import annotations

import unicodedata

MAX_BYTES = 200  # file systems take 255; an ending, a channel and what marks an unfinished file are added
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line and paragraph separators


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
