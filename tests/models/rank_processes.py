"""Ranks of a test as processes of their own, which all have to end well."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def free_port() -> int:
    """Of this machine, and of nobody at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run_all(worker: Path, arguments: Sequence[Sequence[object]], timeout: float) -> None:
    """Run a script once for each rank, all at a time; fails if one fails or takes longer.

    Args:
        worker: The script.
        arguments: Of each rank.
        timeout: Seconds.
    """
    processes = [subprocess.Popen([sys.executable, str(worker), *map(str, given)]) for given in arguments]
    try:
        assert [process.wait(timeout=timeout) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
