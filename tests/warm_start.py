"""Commands of the checkout as processes of their own that have their imports behind them.

Python needs five seconds of CPU time to import what train.py stands on, more than a miniature training takes. So one
process per session of tests imports it and does nothing else; each command is a fork of that process. It has its own
memory, working folder, environment, output and exit code, and ends as Python ends, see `end`. What is read from the
environment at import (OMP_NUM_THREADS) is as it was when the first command was asked for. Where the start itself is
tested, or another process group, a command is started by its usual line. As in the tests' own process, the files of
configs/ are parsed once, and a preparation draws fewer intensities: nnU-Net's 10^8 take a second and more of each.
"""

from __future__ import annotations

import ast
import atexit
import gc
import importlib
import json
import os
import pickle
import random
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRAWN_INTENSITIES = 10**5  # over a data set, a channel


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
    commands = [[str(word) for word in line] for line in lines]
    for command in commands:
        if command[0].endswith(".py"):
            command[0] = str(ROOT / command[0])
    env = dict(os.environ if env is None else env)
    with tempfile.TemporaryDirectory() as folder:
        said = [(Path(folder, f"out{i}"), Path(folder, f"err{i}")) for i in range(len(commands))]
        # elsewhere a fork of a process with this much in it is not safe, or there is none
        begin = _fork if sys.platform == "linux" else _start
        codes = begin(commands, said, str(cwd or Path.cwd()), env, timeout)
        texts = [[path.read_bytes().decode(errors="replace") for path in paths] for paths in said]
    if codes is None:
        raise subprocess.TimeoutExpired(commands[0], timeout, *texts[0])
    ended = zip(commands, codes, texts, strict=True)
    return [subprocess.CompletedProcess(command, code, *text) for command, code, text in ended]


def _fork(
    commands: list[list[str]], said: list[tuple[Path, Path]], cwd: str, env: dict[str, str], timeout: float
) -> list[int] | None:
    """Exit codes, or None after the time."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    outputs = [[str(path) for path in paths] for paths in said]
    server.stdin.write(json.dumps({"lines": commands, "said": outputs, "cwd": cwd, "env": env}).encode() + b"\n")
    pids = json.loads(server.stdout.readline())
    late = not select.select([server.stdout], [], [], timeout)[0]
    if late:
        for pid in pids:
            with suppress(ProcessLookupError):  # that one has ended
                os.kill(pid, signal.SIGKILL)
    codes = json.loads(server.stdout.readline())
    return None if late else codes


def _start(
    commands: list[list[str]], said: list[tuple[Path, Path]], cwd: str, env: dict[str, str], timeout: float
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
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    atexit.register(server.communicate)
    return server


def serve() -> dict[str, Any]:
    """Fork for each request; returns, with the request, in the fork alone.

    Raises:
        SystemExit: There will be no more requests.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    for name in [*_imported_by_training(), "monai.metrics.utils"]:  # the last is imported late, by scoring
        importlib.import_module(name)
    draw_fewer_intensities()
    remember_configs()
    _compose()
    _draw_coarsely()
    gc.collect()
    gc.freeze()  # else the collector of each fork goes through all that was imported, and so copies it: 1.5 seconds
    for line in requests:
        request = json.loads(line)
        pids = []
        for command, said in zip(request["lines"], request["said"], strict=True):
            pids.append(os.fork())
            if not pids[-1]:
                requests.close()
                replies.close()
                return request | {"line": command, "said": said}
        replies.write(json.dumps(pids).encode() + b"\n")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        replies.write(json.dumps(codes).encode() + b"\n")
    raise SystemExit


def draw_fewer_intensities() -> None:
    """For this process and its forks."""
    from umamba.planning import intensities

    intensities._TOTAL = DRAWN_INTENSITIES


def remember_configs() -> None:
    """Parse a file of a configuration once in this process and its forks.

    It is half of the 0.13 s that Hydra takes to compose the configuration of a training, which a command does twice.
    """
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.object_type import ObjectType
    from hydra.plugins.config_source import ConfigResult

    load, parsed = ConfigRepository.load_config, dict[object, bytes]()

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return load(self, config_path)
        path = Path(source.path, source._normalize_file_name(config_path))
        key = (source.provider, path, path.stat().st_mtime_ns if path.is_file() else None)
        if key not in parsed:
            parsed[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(parsed[key])

    ConfigRepository.load_config = load_config  # type: ignore[method-assign]


def _draw_coarsely() -> None:
    """Pictures of a command are looked for, not looked at; tests/drawing and tests/evaluation look at theirs."""
    from matplotlib.figure import Figure

    save = Figure.savefig
    Figure.savefig = lambda self, *given, **named: save(self, *given, **named | {"dpi": 20})  # type: ignore[method-assign]
    Figure.draw_without_rendering = lambda self: None  # type: ignore[method-assign]


def _compose() -> None:
    """So that the forks find Hydra's plugins known and the files of usual configurations parsed."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for name in ("train", "eval"):
            compose(name, return_hydra_config=True)


def _imported_by_training() -> list[str]:
    """Modules; none of the script's other lines is run here, such as those that register something."""
    nodes = ast.parse((ROOT / "train.py").read_text(encoding="utf-8")).body
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def become(request: dict[str, Any]) -> None:
    """Take folder, environment, output and arguments of a request, and draw other random numbers than the next one."""
    for number, path in enumerate(request["said"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    random.seed()
    sys.modules["numpy"].random.seed()


def end(code: object) -> None:
    """As Python ends, but that what was imported is not taken apart: 0.4 s. Returns where the code is a text."""
    if code is None or isinstance(code, int):
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does, first of all
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    request = serve()
    become(request)
    first, *arguments = request["line"]
    try:
        if first == "-m":
            sys.path[0] = request["cwd"]
            sys.argv = arguments
            sys.modules.pop(f"{arguments[0]}.__main__", None)  # runpy warns where it is imported already
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.path[0] = ""
            sys.argv = ["-c", *arguments[1:]]
            exec(compile(arguments[0], "<string>", "exec"), globals())
        else:
            sys.path[0] = str(Path(first).parent)
            sys.argv = [first, *arguments]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as ended:
        end(ended.code)
        raise
    end(None)
