"""The command of a job of a sweep, which is a process of its own and ends with the one that has started it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig

from umamba.processes import follow

_PARENT = "UMAMBA_SWEEP_PROCESS"  # in the environment of a job: the id of the process that runs the sweep
_OF_THE_SWEEP = ("hydra.mode=", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher", "hydra.run.dir=")


def is_sweep_job() -> bool:
    """Whether this call is one job of ``--multirun``."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def speaking_of(config: DictConfig) -> Iterator[None]:
    """Have ``${hydra:...}`` speak of another call or job than this one."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before


def command_of(script: str | Path, hydra: HydraConf, overrides: Sequence[str], run_dir: Path) -> list[str]:
    """The command of a run with the config of this call, and where that was found."""
    settings = [line for line in hydra.overrides.hydra if not line.lstrip("+~").startswith(_OF_THE_SWEEP)]
    command = [sys.executable, str(script), *config_options(hydra)]
    return [*command, "hydra.mode=RUN", *settings, *overrides, f"run_dir={quoted(str(run_dir))}"]


def config_options(hydra: HydraConf) -> list[str]:
    """What tells another call of the program the config of this one, and where that was found."""
    found = [f"--config-name={hydra.job.config_name}"]
    options = {"main": "--config-path", "command-line": "--config-dir"}  # by who provides the configs
    for source in hydra.runtime.config_sources:
        if source.provider in options and source.schema == "file":
            found.append(f"{options[source.provider]}={source.path}")
    return found


def quoted(text: str) -> str:
    """A value for Hydra's command line that means this text, whatever is in it."""
    return QuotedString(text.replace("${", r"\${"), Quote.single).with_quotes()


def argument(key: str, path: Path) -> str:
    """A path on a command line that is shown, with quotes for Hydra and the shell where they need any."""
    plain = re.fullmatch(r"[\w./+-]+", str(path), re.ASCII)
    return f"{key}={path}" if plain else shlex.quote(f"{key}={quoted(str(path))}")


def short(path: Path) -> str:
    """A path as seen from where the command was started, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def tied() -> dict[str, str]:
    """What the environment of a training says if that is to stop, with its checkpoint, when this process is gone."""
    return {_PARENT: str(os.getpid())}


def follow_sweep() -> None:
    """In a job: stop as if told to once the process of its sweep is gone, killed included."""
    parent = os.environ.pop(_PARENT, None)  # not for the processes that the job starts
    if parent is not None:
        follow(int(parent), lambda: os.kill(os.getpid(), signal.SIGTERM))
