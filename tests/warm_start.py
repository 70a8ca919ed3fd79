"""Commands of the checkout as processes of their own that have their imports behind them.

Python needs five seconds of CPU time to import what train.py stands on, more than a miniature training takes. So one
process per session of tests, warm_server.py, imports it and does nothing else; each command is a fork of that process.
It has its own memory, working folder, environment, output and exit code, and ends as Python ends. What is read from the
environment at import (OMP_NUM_THREADS) is as it was when the first command was asked for. Where the start itself is
tested a command is started by its usual line.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(
    *line: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *line], capture_output=True, text=True)`.

    Args:
        *line: A script of the checkout and its arguments; or ``-m``, a module and its arguments; or ``-c``, a program
            and its arguments.
        cwd: Working folder; None: this process's.
        env: The whole environment; None: this process's.
        timeout: Seconds.

    Raises:
        subprocess.TimeoutExpired: The command took longer; it is killed.
    """
    return run_together([line], cwd, env, timeout)[0]


def run_together(
    lines: Sequence[Sequence[object]],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> list[subprocess.CompletedProcess[str]]:
    """As `run`, of several commands at a time; all are killed where one takes longer."""
    commands = [_words(line) for line in lines]
    env = dict(os.environ if env is None else env)
    with tempfile.TemporaryDirectory() as folder:
        said = [(Path(folder, f"out{i}"), Path(folder, f"err{i}")) for i in range(len(commands))]
        # elsewhere a fork of a process with this much in it is not safe, or there is none
        begin = _fork if sys.platform == "linux" else _start
        codes = begin(commands, said, cwd or Path.cwd(), env, timeout)
        texts = [[path.read_bytes().decode(errors="replace") for path in paths] for paths in said]
    if codes is None:
        raise subprocess.TimeoutExpired(commands[0], timeout, *texts[0])
    ended = zip(commands, codes, texts, strict=True)
    return [subprocess.CompletedProcess(command, code, *text) for command, code, text in ended]


def _words(line: Sequence[object]) -> list[str]:
    first, *others = map(str, line)
    return [str(ROOT / first) if first.endswith(".py") else first, *others]


class Forked:
    """A command that is under way, Linux only; as `subprocess.Popen` of it.

    Args:
        line: As of `run`.
        output: Files that stdout and stderr are written to; may be the same.
        cwd: Working folder.
        env: The whole environment.
        address_space: Bytes that it may map, and with it a session of its own; None: no bound.
    """

    def __init__(
        self,
        line: Sequence[object],
        output: tuple[Path, Path],
        cwd: Path,
        env: Mapping[str, str],
        address_space: int | None = None,
    ) -> None:
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        self.line = _words(line)
        with tempfile.TemporaryDirectory() as folder:
            end = Path(folder, "end")
            os.mkfifo(end)
            self._end = os.open(end, os.O_RDONLY | os.O_NONBLOCK)
            request = {"line": self.line, "output": [str(path) for path in output], "cwd": str(cwd),
                       "env": dict(env), "address_space": address_space, "end": str(end)}  # fmt: skip
            server.stdin.write(json.dumps(request).encode() + b"\n")
            self.pid = int(server.stdout.readline())  # the other end is open now
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs after these seconds.
        """
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.line, timeout or 0)
            self.returncode = int(os.read(self._end, 99))
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To it alone, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _fork(
    commands: list[list[str]], said: list[tuple[Path, Path]], cwd: Path, env: dict[str, str], timeout: float
) -> list[int] | None:
    """Exit codes, or None after the time."""
    forks = [Forked(command, paths, cwd, env) for command, paths in zip(commands, said, strict=True)]
    limit = time.monotonic() + timeout
    try:
        return [fork.wait(max(0, limit - time.monotonic())) for fork in forks]
    except subprocess.TimeoutExpired:
        return None
    finally:
        for fork in forks:
            fork.send_signal(signal.SIGKILL)
            fork.wait()


def _start(
    commands: list[list[str]], said: list[tuple[Path, Path]], cwd: Path, env: dict[str, str], timeout: float
) -> list[int] | None:
    """The same by Python's usual start."""
    processes = []
    for command, (out, err) in zip(commands, said, strict=True):
        with out.open("wb") as stdout, err.open("wb") as stderr:
            line = [sys.executable, *command]
            processes.append(subprocess.Popen(line, cwd=cwd, env=env, stdout=stdout, stderr=stderr))
    try:
        return [process.wait(timeout) for process in processes]
    except subprocess.TimeoutExpired:
        return None
    finally:
        for process in processes:
            process.kill()
            process.wait()


@cache
def _server() -> subprocess.Popen[bytes]:
    """Of this process, with which it ends."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("warm_server.py"))], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    atexit.register(server.communicate)
    return server
