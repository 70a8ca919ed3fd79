"""Processes that belong to another end with it and leave its signals to it; and which process holds something."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)

_POLL_SECONDS = 1.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def become_worker() -> None:
    """Make this process of `multiprocessing` one that ends when the process that made it is gone, killed included.

    Signals to stop are ignored here: a terminal and a scheduler send them to every process of the program, and it is
    the main process that decides what is finished first and then ends its workers. Its own SIGTERM does end them.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nobody says who sent a signal, and SIGTERM keeps its meaning
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _exit_after(lambda: _wait_for_sigterm_of(parent.pid))
    _exit_after(lambda: multiprocessing.connection.wait([parent.sentinel]))


def follow(parent: int, gone: Callable[[], None]) -> None:
    """Call `gone`, in a thread, once the process that started this one is gone.

    Args:
        parent: its id.
        gone: what to do. On Windows, where a process keeps its parent's id for good, it is never called.
    """

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        gone()

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def this_process() -> dict[str, Any]:
    """What a file says of the process that holds something, for those who find it held."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def describe_process(content: Mapping[str, Any]) -> str:
    """The same in words, of what was read from the file."""
    try:
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except KeyError:
        return "it has not said yet which process it is"


def took(lock: FileLock, patience: float, advice: str = "") -> bool:
    """Whether this process holds a lock now; where the file system has no locks, nobody can tell, and it goes on.

    Args:
        lock: To be released later, as if it were held.
        patience: Seconds to wait for it; -1 for ever.
        advice: What to see to where there are no locks, for a warning; empty for none.
    """
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return False
    except NotImplementedError:
        if advice:
            log.warning("The file system of %s has no locks: %s.", Path(lock.lock_file).parent, advice)
    return True


@contextmanager
def worker_pool(workers: int, prepare: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of `become_worker` processes; if the program is told to stop they are ended in the middle of their work.

    Fresh processes: forking one that has loaded BLAS, ITK or CUDA with running threads can hang.

    Args:
        workers: how many.
        prepare: picklable; called in each process before its first task.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(prepare,))
    try:
        yield pool
    except (KeyboardInterrupt, SystemExit, GeneratorExit):  # the last: nobody takes the results any more
        for process in list((pool._processes or {}).values()):  # public from Python 3.14 on, as kill_workers
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def light_start() -> Iterator[None]:
    """While processes are started: one BLAS thread each, no second import of the entry script, and no stop halfway.

    A spawned process imports the script that was run, and with train.py torch and lightning: seconds of each core for
    nothing. It is not asked to where ``__main__`` has no file. Signals to stop wait until the block ends, see
    `_stops_wait`: nothing is to be waited for in it.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {key: main.__dict__.pop(key) for key in ("__file__", "__spec__") if key in main.__dict__}
    main.__dict__["__spec__"] = None
    before = {key: os.environ.get(key) for key in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        with _stops_wait():
            yield
    finally:
        main.__dict__.pop("__spec__")
        main.__dict__.update(hidden)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


@contextmanager
def _stops_wait() -> Iterator[None]:
    """Have signals to stop wait for the end of the block, in which processes are started.

    A stop between the start of a process and what it is then sent would leave it with half a message, and a process
    that has not come to `become_worker` does not leave signals to this one: either would end it with a traceback.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = {number: handler for number in STOP_SIGNALS if callable(handler := signal.getsignal(number))}
    came: list[int] = []
    waits = True

    def note(number: int, frame: FrameType | None) -> None:
        if waits:
            came.append(number)
        else:
            before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, note)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # new processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        waits = False
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def _begin(prepare: Callable[[], None] | None) -> None:
    become_worker()
    if hasattr(signal, "pthread_sigmask"):  # `light_start` has blocked them; SIGTERM is waited for where it can be
        kept = {signal.SIGTERM} if hasattr(signal, "sigwaitinfo") else set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS} - kept)
    if prepare is not None:
        prepare()


def _wait_for_sigterm_of(sender: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass


def _exit_after(wait: Callable[[], object]) -> None:
    """End this process as soon as `wait` returns."""

    def run() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=run, name="parent-watch", daemon=True).start()
