"""Gzip files, inflated and held against their checksum, by ISA-L where the package isal is there, else by zlib.

Both take and refuse the same files and give the same bytes; ISA-L does it at least twice as fast.
"""

from __future__ import annotations

import gzip
import zlib
from io import BufferedIOBase
from pathlib import Path
from types import ModuleType
from typing import Any

igzip: ModuleType | None
isal_zlib: Any
try:
    from isal import igzip, isal_zlib
except ImportError:  # on a machine without a build of it, say
    igzip, isal_zlib = None, zlib

DAMAGES: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error)


def open_gzip(path: Path) -> BufferedIOBase:
    """Open a gzip file of one or several members to be read; reading raises DAMAGES, at its end also for a checksum."""
    return (gzip if igzip is None else igzip).open(path, "rb")
