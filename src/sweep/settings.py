"""The configurations of a sweep's jobs: resolved as each job will have them, and refused before one is started."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from umamba.run.asked import check_options
from umamba.run.folder import last_checkpoint
from umamba.run.habits import with_essentials
from umamba.run.named_dataset import name_dataset
from umamba.run.parts import build_parts
from umamba.run.sweep import speaking_of
from umamba.sweep.entry import SweepJob

log = logging.getLogger(__name__)


def check_settings(configs: Sequence[DictConfig], jobs: Sequence[SweepJob]) -> None:
    """Refuse what the process of a job would refuse on this machine, but for what it says of the data.

    Raises:
        ValueError, OSError, ImportError, HydraException: See `check_options` and `build_parts`.
    """
    for config, job in zip(configs, jobs, strict=True):
        try:
            with speaking_of(config):
                own = _own(config, run_dir=str(job.entry.run_dir))
                check_options(own)
                build_parts(with_essentials(name_dataset(own)), last_checkpoint(job.entry.run_dir))
        except Exception:
            log.error("Nothing is started, for the job %s would be refused:", job.name)
            raise


def _own(config: DictConfig, **values: Any) -> DictConfig:
    """What a job gets, without Hydra's own."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key, value in values.items():
        own[key] = value
    return own
