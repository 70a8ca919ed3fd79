"""Who makes which sample: for a message that names the case when a worker fails or is gone."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import get_worker_info

from umamba.machine import free_memory

_GONE = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited unexpectedly|is killed by signal)")
_MEMORY = "the system ends processes so when memory runs out, and {free:.1f} GiB are free now. Take fewer workers"
_SHARED = "/dev/shm, through which workers hand over their batches, was full. Make it larger (docker run --shm-size=8g)"
_CRASH = "a library has crashed, perhaps on this case: examine it with the doctor. Workers can be left out"
_UNKNOWN = (
    "lines above may say why; if none does, memory may have run out ({free:.1f} GiB are free now). Take fewer workers"
)
_REASONS = {"SIGKILL": _MEMORY, "SIGBUS": _SHARED, "SIGSEGV": _CRASH, "SIGABRT": _CRASH}

_SECONDS = 0.5  # more than the system takes to end a process
_BROKEN = (ConnectionError, EOFError, FileNotFoundError)  # of a socket or pipe whose other end is gone


class SampleError(RuntimeError):
    """A sample could not be made; the message names the case and says why.

    torch raises an error of a worker again in the main process, with the worker's traceback in place of the message.
    This one keeps its message; the traceback becomes a note, which only a whole traceback shows.
    """

    def __init__(self, message: str) -> None:
        _, mark, own = message.rpartition(f"{__name__}.{type(self).__name__}: ")
        super().__init__(own.strip() if mark else message)
        if mark:
            self.add_note(message)


class AtWork:
    """The sample that each worker of a loader began last, in memory that they share with the main process.

    Args:
        workers: How many there are.
        case_of: Sample number -> name of the case.
    """

    def __init__(self, workers: int, case_of: Callable[[int], str]) -> None:
        self.table = torch.zeros(workers, 2, dtype=torch.int64).share_memory_()  # process, sample
        self.case_of = case_of
        self.processes: Sequence[BaseProcess] = ()  # the workers, once they are started

    def begin(self, sample: int) -> None:
        """Note, in a worker, that it makes this sample now; in the main process do nothing."""
        worker = get_worker_info()
        if worker is not None:
            self.table[worker.id, 0], self.table[worker.id, 1] = torch.multiprocessing.current_process().pid, sample

    def sample_of(self, process: int) -> int | None:
        """The sample that a process began last; None if it is no worker, or has begun none."""
        return next((sample for pid, sample in self.table.tolist() if pid == process), None)

    def signals(self) -> dict[int, str]:
        """Workers that a signal has ended: process -> name of the signal."""
        codes = {one.pid: -(one.exitcode or 0) for one in self.processes}
        return {pid: signal.Signals(code).name for pid, code in codes.items() if pid and code in {*signal.Signals}}


def fault_of_worker(error: Exception, loaders: Sequence[AtWork]) -> str | None:
    """What to tell the user of a worker that is gone.

    Args:
        error: What came of it: torch says it in one of two ways, or has found a broken connection before it has looked.
        loaders: Those of the run, training and validation.

    Returns:
        The message; None if the error is of something else.
    """
    match = _GONE.search(str(error))
    broken = isinstance(error, _BROKEN)
    if match is None and not broken:
        return None
    for one in loaders if broken else ():
        for process in one.processes:
            process.join(_SECONDS)  # one that is just ending
    signals = {pid: name for one in loaders for pid, name in one.signals().items() if name != "SIGTERM"}
    processes = [int(number) for number in match[1].split(",")] if match else list(signals)
    if not processes:
        return None
    at = [(one, sample) for one in loaders for pid in processes if (sample := one.sample_of(pid)) is not None]
    places = " and ".join(f"sample {sample}, a patch of case {one.case_of(sample)!r}" for one, sample in at)
    ended_by = next((signals[pid] for pid in processes if pid in signals), None)
    reason = _REASONS.get(ended_by or "", _UNKNOWN).format(free=free_memory() / 2**30)
    who = "A worker" if len(processes) == 1 else f"{len(processes)} workers"
    how = f"of the loader was ended by {ended_by}" if ended_by else "of the loader ended without a word"
    where = f", at {places}" if places else ""
    workers = max((len(at_work.table) for at_work in loaders), default=0)
    return f"{who} {how}{where}: {reason} (data.num_workers, {workers} now; 0 makes patches in the main process)."
