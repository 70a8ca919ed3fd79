"""The configurations of the wanted runs: composed, and refused before one is started."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from umamba.evidence.entry import Entry
from umamba.evidence.job import Place, data_overrides
from umamba.run.foreseen import check_job
from umamba.run.resume import DEFAULT_CONFIG

log = logging.getLogger(__name__)


def check_settings(entries: Sequence[Entry], place: Place | None = None) -> None:
    """Refuse what train.py would refuse, in so many of the runs that each of their overrides is in one.

    Args:
        entries: Runs of a manifest.
        place: Where they are about to run; None to compose them alone, which takes a quarter of a second each.

    Raises:
        ValueError, OSError, ImportError, HydraException: An override is none of train.py's, or see `check_job`.
    """
    seen: set[str] = set()
    for entry in entries:
        wanted = entry.wanted
        if set(wanted.overrides) <= seen:
            continue
        seen.update(wanted.overrides)
        asked = [*wanted.overrides, f"seed={wanted.seed}", "run_dir=run", *(data_overrides(place) if place else ())]
        try:
            config = GlobalHydra.instance().config_loader().load_configuration(DEFAULT_CONFIG, asked, RunMode.RUN)
            if place:
                check_job(config, entry.run_dir)
        except Exception:
            log.error("Of the manifest train.py would refuse %s:", wanted.key)
            raise
