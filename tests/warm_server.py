"""The process that warm_start.py forks commands from; a script of its own.

As in the tests' own process, the files of configs/ are parsed once, and a preparation draws fewer intensities:
nnU-Net's 10^8 take a second and more of each.
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
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRAWN_INTENSITIES = 10**5  # over a data set, a channel


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
        with suppress(ChildProcessError):  # none is there
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork():
            continue
        requests.close()
        request = json.loads(line)
        end = os.open(request["end"], os.O_WRONLY)
        if pid := os.fork():  # stays beside the command to tell how it ended
            replies.write(b"%d\n" % pid)
            replies.close()
            os.write(end, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        os.close(end)
        replies.close()
        return request
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
    """So that the forks find Hydra's plugins known, the files of usual configurations parsed, and their modes known.

    Of each command Hydra composes the whole configuration once more, to read `hydra.mode`: 0.08 s. Here it does so
    where an option or a folder of configurations could say another.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    def places(hydra: Hydra) -> list[tuple[str, str]]:
        found = hydra.config_loader.get_search_path().get_path()
        return [(each.provider, each.path.removeprefix("file://")) for each in found]

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        modes = {
            name: compose(name, return_hydra_config=True).hydra.mode
            for name in ("train", "eval", "predict", "planning", "cross_validation", "cascade")
        }
        hydra, get_mode = GlobalHydra.instance().hydra, Hydra.get_mode
        assert hydra is not None
        usual = places(hydra)

    def known_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        if config_name in modes and places(self) == usual and not any("hydra" in override for override in overrides):
            return modes[config_name]
        return get_mode(self, config_name, overrides)

    Hydra.get_mode = known_mode  # type: ignore[method-assign]


def _imported_by_training() -> list[str]:
    """Modules; none of the script's other lines is run here, such as those that register something."""
    nodes = ast.parse((ROOT / "train.py").read_text(encoding="utf-8")).body
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def become(request: dict[str, Any]) -> None:
    """Take folder, environment, output and arguments of a request, and draw other random numbers than the next one."""
    if request["address_space"] is not None:
        import resource

        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (request["address_space"],) * 2)
    for number, path in enumerate(request["output"], 1):
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
