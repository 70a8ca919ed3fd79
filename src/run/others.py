"""The processes that Lightning starts beside the first one: where one ends with a code, so does the run, and says why.

Lightning kills the first one (137) without a word in its log.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import subprocess_script

from umamba.run.errors import FULL, REASON, explaining, log_to_files

log = logging.getLogger(__name__)

_PERIOD = 1  # s between two looks


@contextmanager
def ending_together() -> Iterator[Callable[[], str]]:
    """Have this process, from which Lightning starts others in here, end with the code and message of one of them.

    Yields:
        What another process has said it ends for; "" if none has.
    """
    before, start = {key: os.environ.get(key) for key in (REASON, FULL)}, subprocess_script._launch_process_observer
    with tempfile.TemporaryDirectory(prefix="umamba-") as folder:
        reason = Path(os.environ.setdefault(REASON, str(Path(folder) / "reason")))  # they inherit it
        if explaining():
            os.environ.pop(FULL, None)  # or they would show tracebacks of what is said in a message

        def watch(child_processes: list[subprocess.Popen]) -> None:
            _Watch(child_processes, reason, Path(folder)).start()

        subprocess_script._launch_process_observer = watch
        try:
            yield lambda: _text_of(reason)
        finally:
            subprocess_script._launch_process_observer = start
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class _Watch(_ChildProcessObserver):
    """Lightning's thread, that ends the first process otherwise."""

    def __init__(self, others: list[subprocess.Popen], reason: Path, own: Path) -> None:
        super().__init__(os.getpid(), others, _PERIOD)
        self._reason, self._own = reason, own  # a folder, which nobody removes after `os._exit`

    def _terminate_all(self) -> None:
        rank, code = next((n, one.returncode) for n, one in enumerate(self._child_processes, 1) if one.returncode)
        for other in self._child_processes:
            with suppress(OSError):
                other.kill()
        code = code if code > 0 else 128 - code  # as a shell says it of a death by signal
        if message := _text_of(self._reason):
            log_to_files(f"Process {rank} of this run ended with code {code}, and this one with it: {message}")
        else:
            log.error(
                "Process %d of this run ended with code %d, and this one with it. What it said is above, or in "
                "train_ddp_process_%d.log; a code of 137 is that of one that was killed, as for want of memory.",
                rank, code, rank,
            )  # fmt: skip
        shutil.rmtree(self._own, ignore_errors=True)
        logging.shutdown()
        os._exit(code)
