"""Ranks of a test as processes of their own, which all have to end well."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests import warm_start


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
    ended = warm_start.run_together([(worker, *given) for given in arguments], timeout=timeout)
    assert not any(rank.returncode for rank in ended), [rank.stderr[-2000:] for rank in ended]
