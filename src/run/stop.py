"""Signals to stop: the program ends with a code that says so, a training with a checkpoint at its next step.

SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGHUP (the terminal was closed) end it with 128 + the signal's number, as a shell
would say it: 130, 143, 129 and, on Linux, 138. Work that can be picked up where it is (preparation, prediction,
scoring) ends at once. Under nohup, which has SIGHUP ignored, it goes on being ignored.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from umamba.processes import STOP_SIGNALS
from umamba.run import ranks

log = logging.getLogger(__name__)

_STOPPED = "Stopped by %s; the same command%s goes on from here."
_TERMINAL = [stream for stream in (1, 2) if os.isatty(stream)]  # asked now, for one that is gone is none any more
_HANGUP = getattr(signal, "SIGHUP", None)
_REPEAT_SECONDS = 1.0  # a terminal and a parent process may both pass on the same Ctrl-C


class Stopped(SystemExit):
    """The program was told to stop by a signal; its code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class _Requests:
    """The signal received, and whether it waits for the training's next step."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.all = set[int]()
        self.since = 0.0
        self.deferred = False
        self.way_on = ""  # what has to be added to the command to go on

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handler of the signals."""
        if number == _HANGUP:
            _leave_terminal()
        self.all.add(number)
        again, self.signal = self.signal is not None, self.signal or number
        impatient = again and number == signal.SIGINT and time.monotonic() - self.since > _REPEAT_SECONDS
        self.since = time.monotonic()
        if not self.deferred or impatient:
            raise Stopped(self.signal)
        if not again:
            with suppress(RuntimeError):  # the handler came in the middle of a write to the log
                log.warning("%s: stopping with a checkpoint after this step.", signal.Signals(number).name)


_requests = _Requests()


def requested() -> int | None:
    """The signal that waits for the next step, or None."""
    return _requests.signal


def goes_on_with(option: str) -> None:
    """Have the message of a stop say that the same command goes on with an option."""
    _requests.way_on = f" with {option}"


def listen() -> None:
    """Handle the signals here, also after a library has put its own handlers there."""
    _handle_with(_requests.handle)


@contextmanager
def deferred() -> Iterator[None]:
    """While in here a signal waits for the next step (`requested`); one that nobody took ends the program after it.

    Raises:
        Stopped: a signal came and was not acted on.
    """
    _requests.deferred = True
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if _requests.signal is None:
            raise
    finally:
        _requests.deferred = False
    if _requests.signal is not None:  # also where a library made another code of it
        raise Stopped(_requests.signal) from None


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """The main program: a signal ends it without a traceback, and SLURM runs the job again after its SIGUSR1."""
    listen()
    try:
        yield
        ending = partial(_end_at_once, started_from_first=ranks.is_started_from_first())
        _handle_with(ending)  # what is left is the interpreter's own end, in which an exception comes to nothing
        if _requests.signal is not None:  # it came where Python drops exceptions, as in a finalizer
            raise Stopped(_requests.signal)
    except (KeyboardInterrupt, Stopped) as stop:
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        _handle_with(signal.SIG_IGN)  # the program is ending already
        log.warning(_STOPPED, signal.Signals(number).name, _requests.way_on)
        _requeue(number)
        if ranks.is_started_from_first():
            raise SystemExit(0) from None  # Lightning would kill the first process for another code
        raise Stopped(number) from None


def _handle_with(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    for number in STOP_SIGNALS:
        if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end_at_once(number: int, frame: FrameType | None, *, started_from_first: bool) -> None:
    """Handler of the program's last moments, when nothing can be imported: it says the code all the same."""
    if number == _HANGUP:
        _leave_terminal()
    with suppress(Exception):  # the log may be closed by now
        log.warning(_STOPPED, signal.Signals(number).name, _requests.way_on)
    os._exit(0 if started_from_first else 128 + number)


def _leave_terminal() -> None:
    """Write to nowhere what would go to the terminal that is gone, for writing there fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _TERMINAL:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _requeue(number: int) -> None:
    """Ask SLURM to run this batch job again, if the signal means that; only the first process of a job asks.

    SIGUSR1 does, also where SIGTERM came before it, as some clusters send them. SIGTERM by itself is sent to a job that
    is cancelled, over its time, or preempted; the last is not run again by SLURM if it ends within its grace time.
    """
    job = ranks.job_of_slurm()
    if job is None or not ranks.is_first():
        return
    if getattr(signal, "SIGUSR1", None) not in {number, *_requests.all} and not (
        number == signal.SIGTERM and _is_preempted(job)
    ):
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        log.info("SLURM was asked to run job %s again.", job)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("SLURM did not requeue job %s (%s); submit it again if squeue does not show it.", job, error)


def _is_preempted(job: str) -> bool:
    """Whether SLURM has chosen a job to make room for another, as scontrol says of it."""
    try:
        told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(r"\bPreemptTime=\d", told.stdout) is not None
