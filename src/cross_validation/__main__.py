"""Find the best configuration of a data set among cross-validations, and the command that predicts with it.

    python -m umamba.cross_validation runs=[logs/a/cross_validation,logs/b/cross_validation] output=best

Candidates are the cross-validations and, with ``pairs=true``, the mean of each two, whatever their networks, plans and
configurations are. The output folder gets a table of all candidates and an ensemble.json for predict.py.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "best")  # before the imports that take seconds

import logging
from pathlib import Path

from omegaconf import DictConfig

from umamba.cross_validation.best import find_best
from umamba.cross_validation.folds import PoolOptions
from umamba.files import check_takes_files
from umamba.inference.devices import choose_device
from umamba.parallel import check_workers
from umamba.plain import check_option_types, plain
from umamba.run.command import command, run_command

TYPES = {  # of the configuration; what is not here is looked at where it is used
    "runs": Path | list[Path], "output": Path, "pairs": bool, "keep_probabilities": bool,
    "trusted": str | list[str] | None,
}  # fmt: skip
log = logging.getLogger(__name__)


@command("best")
def main(cfg: DictConfig) -> None:
    """Find the best of the cross-validations that the configuration names."""
    check_option_types(cfg, TYPES)
    check_workers(cfg.workers)
    check_takes_files(cfg.output, "output")
    choose_device(cfg.device)
    runs = plain(cfg.runs)
    folders = [Path(folder) for folder in (runs if isinstance(runs, list) else [runs])]
    options = PoolOptions(device=cfg.device, trusted=plain(cfg.trusted), workers=cfg.workers)
    path = find_best(folders, Path(cfg.output), options, pairs=cfg.pairs, keep=cfg.keep_probabilities)
    log.info("Chosen: %s; tables are in %s.", path, Path(cfg.output) / "tables")


if __name__ == "__main__":
    run_command(main)
