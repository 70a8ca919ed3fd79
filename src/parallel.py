"""Work over cases in parallel processes: ordered, bounded, and clear about the case that failed."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import blosc2
import SimpleITK as sitk
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from umamba.machine import free_memory, usable_cpus
from umamba.processes import light_start, worker_pool
from umamba.raw.description import DatasetError
from umamba.typed import is_whole

log = logging.getLogger(__name__)

Case = TypeVar("Case")
Result = TypeVar("Result")
Item = TypeVar("Item")

_MAX_WORKERS = 8  # by default; each holds a few volumes
_LOG_SECONDS = 30  # between progress lines where there is no terminal


def check_workers(workers: object) -> None:
    """Raises ValueError if a number of processes, None for as many as fit, is none."""
    if workers is not None and not is_whole(workers):
        raise ValueError(f"workers is {workers!r}; expected a whole number, 0 or more, or null.")


def fitting_workers(wanted: int | None, bytes_each: int) -> int:
    """Processes to use: no more than wanted, and no more than fit into the free memory.

    Args:
        wanted: None means one per core, at most 8; 0 is as 1, this process alone.
        bytes_each: Memory that one process may need.

    Raises:
        ValueError: See `check_workers`.
    """
    check_workers(wanted)
    if wanted is None:
        wanted = min(usable_cpus(), _MAX_WORKERS)
    wanted = max(1, wanted)
    free = free_memory()
    fitting = free // max(bytes_each, 1)
    if fitting < wanted:
        log.info(
            "Using %d of %d processes: each may need %.1f GB of the %.1f GB that are free.",
            max(1, fitting), wanted, bytes_each / 1e9, free / 1e9,
        )  # fmt: skip
    return max(1, min(wanted, fitting))


def map_cases(
    function: Callable[[Case], Result], cases: Sequence[Case], name: Callable[[Case], str], workers: int
) -> Iterator[Result]:
    """Apply a function to every case; results come in the order of the cases.

    At most 2 * workers cases are under way, so that results do not pile up. If the system kills a worker, the cases
    that were under way are tried again one at a time: what failed for want of memory beside others may pass alone.

    Args:
        function: A picklable function of one case.
        cases: Picklable.
        name: Gives a case's name for messages.
        workers: Processes; with 1 (or one case) the work is done in this process.

    Raises:
        RuntimeError: The function failed, or the system killed the process of a case; the message names the case.
        DatasetError: As the function raised it: a raw file is at fault.
        OSError: As the function raised it: a file or the disk is at fault.
    """
    if workers <= 1 or len(cases) <= 1:
        for case in cases:
            with _named(name(case)):
                result = function(case)
            yield result
        return
    waiting = deque(cases)
    while waiting:
        under_way: deque = deque()
        try:
            with worker_pool(min(workers, len(waiting)), _one_thread_each) as pool:
                while waiting or under_way:
                    while waiting and len(under_way) < 2 * workers:
                        with light_start():
                            under_way.append((waiting[0], pool.submit(function, waiting[0])))
                        waiting.popleft()
                    case, future = under_way[0]
                    with _named(name(case)):
                        result = future.result()
                    under_way.popleft()
                    yield result
        except BrokenProcessPool:
            pass  # the lost cases are still under way
        if under_way:
            lost = [case for case, _ in under_way]
            log.warning("A worker was killed at one of %s; trying them one at a time.", [name(case) for case in lost])
            yield from _one_at_a_time(function, lost, name)


def track(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Pass items through with a progress bar on a terminal, or a log line now and then; rank zero only."""
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0":
        yield from items
        return
    if sys.stderr.isatty():  # not rich's own question: under FORCE_COLOR, as in notebooks, it takes files for terminals
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            yield from progress.track(items, total=total, description=description)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == total or now - said > _LOG_SECONDS:
            log.info("%s: %d of %d cases, %.0f s", description, done, total, now - start)
            said = now


def _one_at_a_time(
    function: Callable[[Case], Result], cases: Sequence[Case], name: Callable[[Case], str]
) -> Iterator[Result]:
    try:
        with worker_pool(1, _one_thread_each) as pool:
            for case in cases:
                with light_start():
                    future = pool.submit(function, case)
                with _named(name(case)):
                    result = future.result()
                yield result
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"The process that worked on case {name(case)} was killed by the system, alone too. Most likely it needs "
            "more memory than there is (the system's log would say so): close other programs, or crop this case."
        ) from error


def _one_thread_each() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    blosc2.set_nthreads(1)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which case failed; errors that name their file, and killed workers, pass as they are."""
    try:
        yield
    except (OSError, DatasetError, BrokenProcessPool, KeyboardInterrupt):
        raise
    except Exception as error:
        raise RuntimeError(f"Case {name} failed: {type(error).__name__}: {error}") from error
