"""Which of a run's processes this is: the first, one that Lightning started from it, or one that a cluster started."""

from __future__ import annotations

import os

from umamba.processes import follow

_FIRST = "UMAMBA_FIRST_PROCESS"  # in the environment: id of the process from which Lightning starts the others


def announce_first() -> None:
    """In a run's first process: let those that Lightning starts from it know."""
    os.environ[_FIRST] = str(os.getpid())


def is_started_from_first() -> bool:
    """Whether Lightning started this process, with the command of the run's first one."""
    return os.environ.get(_FIRST, str(os.getpid())) != str(os.getpid()) and not is_first()


def is_first() -> bool:
    """Whether this process keeps the run's folder."""
    from lightning.pytorch.utilities import rank_zero_only  # seconds, which commands that train nothing do without

    return rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it outside of the function


def follow_first() -> None:
    """End at once when the first process is gone: without it the others wait for a message that never comes."""
    follow(int(os.environ[_FIRST]), lambda: os._exit(1))
