"""The frame of the commands: Hydra's configuration, errors as messages, signals as exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig

from umamba.locations import CONFIGS
from umamba.run.errors import explained
from umamba.run.stop import ends_on_signals

Main = Callable[[], Any]


def command(config: str) -> Callable[[Callable[[DictConfig], None]], Main]:
    """Decorator: the function is called without arguments, and gets the command line on top of a config file."""

    def with_config(job: Callable[[DictConfig], None]) -> Main:
        main: Main = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config)(explained()(job))
        return main

    return with_config


def run_command(main: Main) -> None:
    """Run a command as what its process is there for."""
    with ends_on_signals(), explained():
        main()
