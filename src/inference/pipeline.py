"""Many cases in a row: files are read ahead of the network and written behind it, and a bad case is noted."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.progress import Progress

from umamba.files import FULL
from umamba.machine import usable_cpus
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetError

log = logging.getLogger(__name__)

Read = TypeVar("Read")


class _Sized(Protocol):
    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        raise NotImplementedError


Made = TypeVar("Made", bound=_Sized)

# What is wrong with one case and not with the next one; a full disk is not among them, see `noted`.
_FAULTS_OF_A_CASE = (DatasetError, FloatingPointError, MemoryError, torch.OutOfMemoryError, OSError)

_WAITING = 8  # cases that were read, and label maps that are to be written, at most
_FILE_BYTES = 1 << 25  # of the files of cases that are read ahead; one case is, whatever its size
_OUTPUT_BYTES = 1 << 29  # of what waits to be written; one case's does, whatever its size


class CasesFailedError(RuntimeError):
    """Some cases could not be predicted; the others were.

    Attributes:
        failures: Name of the case -> what was wrong.
        written: Label maps of the other cases.
        stale: Label maps of those that failed, of an earlier prediction.
    """

    def __init__(self, failures: Mapping[str, str], written: Sequence[Path], stale: Sequence[Path]) -> None:
        self.failures, self.written, self.stale = dict(failures), list(written), list(stale)
        lines = [f"  {name if name.isprintable() else repr(name)}: {reason}" for name, reason in failures.items()]
        lines += [f"  {path} is of an earlier prediction." for path in stale]
        total = len(failures) + len(written)
        super().__init__("\n".join([f"{len(failures)} of {total} case(s) could not be predicted:", *lines]))


@contextmanager
def noted(failures: dict[str, str], name: str) -> Iterator[None]:
    """Note what is wrong with one case and go on; a full disk, and faults of the program, end the prediction."""
    try:
        yield
    except _FAULTS_OF_A_CASE as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        failures[name] = str(error)
        log.error("Case %s: %s", name, error)


def _threads() -> ThreadPoolExecutor:
    """To read or to write files in: one large file is one thread's work, many small ones are shared."""
    return ThreadPoolExecutor(min(4, usable_cpus()))


def read_ahead(
    cases: Sequence[RawCase], read: Callable[[RawCase], Read], pool: ThreadPoolExecutor
) -> Iterator[tuple[RawCase, Future[Read]]]:
    """Each case with what is read of it; by then the next one is being read too, or more if they are small."""
    waiting: deque[tuple[RawCase, Future[Read], int]] = deque()
    for case in cases:
        size = sum(path.stat().st_size for path in case.images if path.is_file())
        # One more than are ahead: the first of those that wait is about to be used.
        while len(waiting) > 1 and _is_full([held for *_, held in waiting], size, _FILE_BYTES):
            yield waiting.popleft()[:2]
        waiting.append((case, pool.submit(read, case), size))
    while waiting:
        yield waiting.popleft()[:2]


def each_case(
    cases: Sequence[RawCase],
    *,
    read: Callable[[RawCase], tuple[Any, ...]],
    preprocess: Callable[..., tuple[Any, ...]],
    segment: Callable[..., Made],
    write: Callable[[RawCase, Made], None],
    failures: dict[str, str],
) -> dict[str, float]:
    """Take cases through all steps; files are read ahead of the middle ones and written behind them, in threads.

    Args:
        cases: What to take through: names and image files.
        read: Gives what `preprocess` takes.
        preprocess: Gives what `segment` takes.
        segment: Gives what `write` takes.
        write: Writes it.
        failures: Gets the name of a case and what was wrong with it.

    Returns:
        Seconds of each case in the middle steps, with what they had to wait for the others.

    Raises:
        OSError: The disk is full.
    """
    seconds: dict[str, float] = {}

    def write_noted(case: RawCase, made: Made) -> None:
        with noted(failures, case.identifier):
            write(case, made)

    shown = sys.stdout.isatty()
    with Progress(transient=True, disable=not shown) as progress, _threads() as readers, _threads() as writers:
        task = progress.add_task("Predicting", total=len(cases))
        written = WriteBehind(writers)
        for case, reading in read_ahead(cases, read, readers):
            started = time.perf_counter()
            with noted(failures, case.identifier):
                data = preprocess(*reading.result())
                del reading  # and with it the image as read
                made = segment(*data)
                del data
                written.add(partial(write_noted, case, made), made.nbytes)
                del made  # the writer alone holds it, while it needs it
                seconds[case.identifier] = time.perf_counter() - started
            progress.advance(task)
        written.finish()
    return seconds


class WriteBehind:
    """Writes in threads what it is given; waits where too much would pile up."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: deque[tuple[Future[None], int]] = deque()

    def add(self, write: Callable[[], None], size: int) -> None:
        """Write later; `size` are the bytes that are held until then.

        Raises:
            OSError: What writing raised; also of an earlier call.
        """
        while self._waiting and _is_full([held for _, held in self._waiting], size, _OUTPUT_BYTES):
            self._waiting.popleft()[0].result()
        self._waiting.append((self._pool.submit(write), size))

    def finish(self) -> None:
        """Wait until all is written; raises as `add`."""
        while self._waiting:
            self._waiting.popleft()[0].result()


def _is_full(waiting: Sequence[int], size: int, most: int) -> bool:
    return len(waiting) >= _WAITING or sum(waiting) + size > most
