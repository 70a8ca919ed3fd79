"""The configurations of a sweep's jobs: resolved as each job will have them, and refused before one is started."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig

from umamba.run.foreseen import check_job
from umamba.sweep.entry import SweepJob

log = logging.getLogger(__name__)


def check_settings(configs: Sequence[DictConfig], jobs: Sequence[SweepJob]) -> None:
    """Refuse what the process of a job would refuse on this machine, but for what it says of the data.

    Raises:
        ValueError, OSError, ImportError, HydraException: See `check_job`.
    """
    for config, job in zip(configs, jobs, strict=True):
        try:
            check_job(config, job.entry.run_dir)
        except Exception:
            log.error("Nothing is started, for the job %s would be refused:", job.name)
            raise
