"""Commands of the checkout as processes of their own that have their imports behind them.

Python needs five seconds of CPU time to import what train.py stands on, more than a miniature training takes. So one
process per session of tests imports it and does nothing else; each command is a fork of that process. It has its own
memory, working folder, environment, output and exit code, and ends as Python ends. What is read from the environment
at import (OMP_NUM_THREADS) is as it was when the first command was asked for. Where the start itself is tested, or
another process group, a command is started by its usual line. A preparation draws fewer intensities there, as it does
in the tests' own process: nnU-Net's 10^8 take a second and more of each.
"""

from __future__ import annotations

import ast
import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
        *line: A script of the checkout and its arguments, or ``-m``, a module and its arguments.
        cwd: Working folder; None: this process's.
        env: The whole environment; None: this process's.
        timeout: Seconds.

    Raises:
        subprocess.TimeoutExpired: The command took longer; it is killed.
    """
    command = [str(word) for word in line]
    if command[0].endswith(".py"):
        command[0] = str(ROOT / command[0])
    env = dict(os.environ if env is None else env)
    if sys.platform != "linux":  # where a fork of a process with this much in it is not safe, or there is none
        line = (sys.executable, *command)
        return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        where = {"cwd": str(cwd or Path.cwd()), "env": env, "out": str(out), "err": str(err)}
        server.stdin.write(json.dumps({"line": command, **where}).encode() + b"\n")
        pid = json.loads(server.stdout.readline())
        late = not select.select([server.stdout], [], [], timeout)[0]
        if late:
            os.kill(pid, signal.SIGKILL)
        code = json.loads(server.stdout.readline())
        stdout, stderr = (path.read_bytes().decode(errors="replace") for path in (out, err))
    if late:
        raise subprocess.TimeoutExpired(command, timeout, stdout, stderr)
    return subprocess.CompletedProcess(command, code, stdout, stderr)


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
    gc.collect()
    gc.freeze()  # else the collector of each fork goes through all that was imported, and so copies it: 1.5 seconds
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            requests.close()
            replies.close()
            return request
        replies.write(json.dumps(pid).encode() + b"\n")
        replies.write(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode() + b"\n")
    raise SystemExit


def draw_fewer_intensities() -> None:
    """For this process and its forks."""
    from umamba.planning import intensities

    intensities._TOTAL = DRAWN_INTENSITIES


def _imported_by_training() -> list[str]:
    """Modules; none of the script's other lines is run here, such as those that register something."""
    nodes = ast.parse((ROOT / "train.py").read_text(encoding="utf-8")).body
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def become(request: dict[str, Any]) -> None:
    """Take folder, environment, output and arguments of a request, and draw other random numbers than the next one."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    random.seed()
    sys.modules["numpy"].random.seed()


if __name__ == "__main__":
    request = serve()
    become(request)
    first, *arguments = request["line"]
    if first == "-m":
        sys.path[0] = request["cwd"]
        sys.argv = arguments
        sys.modules.pop(f"{arguments[0]}.__main__", None)  # runpy warns where it is imported already
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(first).parent)
        sys.argv = [first, *arguments]
        runpy.run_path(first, run_name="__main__")
