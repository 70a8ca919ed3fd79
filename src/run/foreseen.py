"""What the process of a job would refuse, found before it is started; who starts many calls this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from umamba.run.asked import check_groups, check_options
from umamba.run.folder import last_checkpoint
from umamba.run.habits import name_dataset, with_essentials
from umamba.run.parts import build_parts
from umamba.run.sweep import speaking_of


def check_job(config: DictConfig, run_dir: Path) -> None:
    """Refuse what train.py would refuse on this machine, but for what it says of the data.

    Args:
        config: Of the job, with Hydra's own part.
        run_dir: Its folder.

    Raises:
        ValueError, OSError, ImportError, HydraException: See `check_options` and `build_parts`.
    """
    with speaking_of(config):
        own = _own(config, run_dir=str(run_dir))
        check_groups(own)
        check_options(own)
        build_parts(with_essentials(name_dataset(own)), last_checkpoint(run_dir))


def _own(config: DictConfig, **values: Any) -> DictConfig:
    """What a job gets, without Hydra's own."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key, value in values.items():
        own[key] = value
    return own
