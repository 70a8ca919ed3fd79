"""What the trust suite shares: commands as a user gives them, their processes, a miniature run, random moments.

Every command is a process of its own with the real command line: started as a user does by `make trust`, which sets
UMAMBA_TRUST_KILLS, else forked with its imports done, see tests/warm_start.py. It has a session of its own and carries
a mark in its environment, which its children inherit, so that whatever it leaves behind is found.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests import warm_start

ROOT = Path(__file__).resolve().parent.parent.parent
WARM = "UMAMBA_TRUST_KILLS" not in os.environ
KILLS = int(os.environ.get("UMAMBA_TRUST_KILLS", "12"))  # in all; `make trust` sets 100
SEED = int(os.environ.setdefault("UMAMBA_TRUST_SEED", str(secrets.randbelow(2**31))))  # test processes share it
TIMEOUT = 600  # seconds for any command
# Seconds in which the children of a killed process must have ended. Measured at loads of 12 to 18 on two cores: workers
# within 3 s; processes of DDP, which look each second from their first imports on, within 4 s.
GONE_WITHIN = 15.0

ADDRESS_SPACE = 12 * 2**30  # bytes that a command may map: the machine survives one that wants all memory

_MARK = "UMAMBA_TRUST_MARK"

# A run that has every stage and takes two seconds after its imports. Six epochs are no multiple of four.
MINIATURE = (
    "experiment=demo", "trainer=cpu", "trainer.max_epochs=6", "data.iterations_per_epoch=3", "data.val_iterations=1",
    "data.planning.base_features=2", "data.patch_size=[8,32,32]", "trainer.log_every_n_steps=1", "~callbacks.progress",
)  # fmt: skip


class Command:
    """A command that is under way.

    Args:
        *line: after ``python``: a script of the checkout or ``-m module``, then its arguments.
        folder: working folder; what the command writes lies below it.
        root: UMAMBA_ROOT, where data and stores lie; None: `folder`.
        environment: further variables.
    """

    def __init__(
        self, *line: str, folder: Path, root: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.mark = secrets.token_hex(8)
        self.line = line
        self.output_file = folder / f"output-{self.mark}.txt"
        variables = {
            "OMP_NUM_THREADS": "1", "COLUMNS": "160", "UMAMBA_ROOT": str(root or folder),
            "WANDB_MODE": "offline", _MARK: self.mark,
        }  # fmt: skip
        # What is relative there is so to this process, not to the command's folder, where another umamba would be found
        if paths := os.environ.get("PYTHONPATH"):
            variables["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, paths.split(os.pathsep))))
        environment = {**os.environ, **variables, **(environment or {})}
        self.process = (_forked if WARM else _started)(line, folder, environment, self.output_file)
        self.folder = folder
        self.killed: float | None = None
        self.peak_gib = 0.0  # of the main process, sampled

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # else what it left behind is looked at: `must_leave_nothing`
            self.end()

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    @property
    def code(self) -> int | None:
        """Exit code as a shell says it, 128 + signal for a death by signal; None while the command runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, seconds: float = TIMEOUT) -> int:
        """Wait for the end; the exit code."""
        self.wait_for(lambda: False, "to end", seconds)
        code = self.code
        assert code is not None
        return code

    def ends_within(self, seconds: float) -> bool:
        """Let it run for some seconds; whether it ended in that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def started(self) -> None:
        """Wait until the script's own work begins: its imports are done, and it holds a file open in the folder."""
        self.wait_for(lambda: any(self._open_files()), "to begin")

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Wait until the condition holds or the command has ended."""
        limit = time.monotonic() + seconds
        while self.code is None and not condition():
            if time.monotonic() > limit:
                self.end()
                raise AssertionError(f"{self}: waited {seconds} s for it {what}:\n{self.output[-4000:]}")
            self._note_memory()
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal to the main process alone, as a scheduler or the kernel does."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the main process alone, as the kernel does when memory runs out."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.killed = time.monotonic()

    def living(self) -> list[str]:
        """Command lines of the processes that carry the command's mark, its own included."""
        return [line for _, line in self._processes()]

    def must_leave_nothing(self) -> None:
        """Wait for the children of an ended command to end too, not longer than GONE_WITHIN after a kill."""
        limit = (self.killed or time.monotonic()) + GONE_WITHIN
        while (left := self.living()) and time.monotonic() < limit:
            time.sleep(0.05)
        self.end()
        assert not left, f"{self} left {len(left)} process(es) behind after {GONE_WITHIN} s: {left}"

    def end(self) -> None:
        """End the command and all that it started."""
        for pid, _ in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _processes(self) -> list[tuple[int, str]]:
        return marked(self.mark, self.process.pid)

    def _note_memory(self) -> None:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        self.peak_gib = max(self.peak_gib, int(found[1]) / 2**20 if found else 0.0)

    def _open_files(self) -> Iterable[str]:
        folder, links = str(self.folder), Path(f"/proc/{self.process.pid}/fd")
        try:
            for link in links.iterdir():
                target = os.readlink(link)
                if target.startswith(folder) and not target.endswith(self.output_file.name):
                    yield target
        except OSError:
            return

    def __repr__(self) -> str:
        return f"`{' '.join(self.line)}` (seed {SEED})"


def _started(line: Sequence[str], folder: Path, environment: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    script = [str(ROOT / line[0]), *line[1:]] if line[0].endswith(".py") else line
    with open(output, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, *script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_bounded,
        )  # fmt: skip


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def _forked(line: Sequence[str], folder: Path, environment: dict[str, str], output: Path) -> warm_start.Forked:
    output.touch()
    return warm_start.Forked(line, (output, output), folder, environment, ADDRESS_SPACE)


def marked(mark: str, session: int | None = None) -> list[tuple[int, str]]:
    """Process numbers and command lines of the living processes with a mark or in a session."""
    found, wanted = [], f"{_MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            of_session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if of_session == session or wanted in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if line:  # a zombie has none
                    found.append((int(entry.name), line[:160]))
        except OSError:
            continue
    return found


def run(*line: str, ok: bool | None = True, **where: Any) -> str:
    """Run a command to its end and return what it said; `ok` says whether it must succeed or fail (None: either)."""
    with Command(*line, **where) as command:
        code = command.wait()
        assert ok is None or (code == 0) == ok, f"{command} ended with {code}:\n{command.output[-6000:]}"
        command.must_leave_nothing()
        return command.output


def train_line(run_dir: Path, *overrides: str, every: int = 1, workers: int = 0) -> tuple[str, ...]:
    """Command line of a miniature run."""
    return (
        "train.py", *MINIATURE, f"trainer.check_val_every_n_epoch={every}", f"data.num_workers={workers}",
        *overrides, f"run_dir={run_dir}",
    )  # fmt: skip


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, filled by `make` unless this or another test process did so."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / ".done"
    with open(folder.with_name(f".{folder.name}.once"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def dice(*parts: object) -> random.Random:
    """A random generator that follows from the suite's seed and the parts."""
    return random.Random(f"{SEED}/{parts}")


def in_words(output: str) -> None:
    """A command that refuses says why: it ends in an error that was meant for the user, not in one that slipped out."""
    meant = ("ValueError", "FileNotFoundError", "OSError", "FloatingPointError", "RuntimeError")
    last = [line for line in output.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    assert (
        not last
        or "Traceback (most recent call last)" not in output
        or (last[-1].split(":")[0].split(".")[-1] in (*meant, "DatasetError", "PlanError", "DiskError"))
    ), output[-5000:]


def no_traceback(output: str) -> None:
    """A message for the user is no traceback."""
    assert "Traceback (most recent call last)" not in output, output[-5000:]
