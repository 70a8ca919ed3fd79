"""Ranks of a test as processes of their own, which all have to end well."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests import warm_start

_OF_NOBODY = range(20_000, 32_768)  # Linux gives 32768 to 60999, others 49152 and more


def free_port() -> int:
    """Of this machine, of nobody at the moment, and none that the kernel gives to whoever connects to something.

    With one of those another program may have it before it is used: the first of two nodes then ends at once, for it
    cannot listen there, and the other one waits for it for minutes.
    """
    for port in random.SystemRandom().sample(_OF_NOBODY, 100):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def run_all(worker: Path, arguments: Sequence[Sequence[object]], timeout: float) -> None:
    """Run a script once for each rank, all at a time; fails if one fails or takes longer.

    Args:
        worker: The script.
        arguments: Of each rank.
        timeout: Seconds.
    """
    ended = warm_start.run_together([(worker, *given) for given in arguments], timeout=timeout)
    assert not any(rank.returncode for rank in ended), [rank.stderr[-2000:] for rank in ended]
