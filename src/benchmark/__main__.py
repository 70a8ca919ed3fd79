"""Time training epochs by nnU-Net's rules, and say what bounds them.

    python -m umamba.benchmark data=hippocampus model=umamba_enc
    python -m umamba.benchmark data=hippocampus model=nnunet workers=[2,4,8] feeds=[real]      which number is enough
    python -m umamba.benchmark data=hippocampus peer=OTHER_VENV/bin/python                     nnunetv2's own, beside
    python -m umamba.benchmark trainer.max_epochs=2 data.iterations_per_epoch=20 data.val_iterations=4     a quick look

Five epochs of 250 training and 50 validation batches, of which the fastest counts; with real data, and with one random
batch that lies on the device. All keys of train.py choose what is trained. Rows are added to <output>/epochs.json as
they are measured, in place of those of the same setting on the same machine.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "epochs")

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table

from umamba.benchmark.measure import FEEDS, measure
from umamba.benchmark.peer import find_peer
from umamba.benchmark.rows import add_row
from umamba.benchmark.verdict import COLUMNS, UNKNOWN, enough_workers, sentence
from umamba.datamodules.sampling import check_shares
from umamba.models.build import check_preset
from umamba.resolvers import register_resolvers
from umamba.run import ranks
from umamba.run.command import command, run_command
from umamba.run.console import for_terminal, table_console
from umamba.run.habits import name_dataset
from umamba.run.quiet import quiet, short_warnings
from umamba.targets import check_config
from umamba.trainer import check_precision, make_trainer
from umamba.typed import is_whole

log = logging.getLogger(__name__)
register_resolvers()

_FIXED = {"train": True, "test": False, "resume": False, "run_dir": None}
_WIDTH = 120  # of the table, where nobody says how wide the terminal is
_NEVER = ("max_steps", "max_time", "fast_dev_run", "profiler", "overfit_batches")  # of the trainer


@command("epochs")
def main(cfg: DictConfig) -> None:
    """Time the training that the configuration describes."""
    quiet()
    short_warnings()
    _check(name_dataset(cfg))
    if ranks.is_started_from_first():
        ranks.follow_first()
    elif ranks.is_first():
        ranks.announce_first()
    rows = []
    for row in benchmark(cfg):
        if ranks.is_first():
            add_row(Path(cfg.output), row)
        rows.append(row)
    if ranks.is_first():
        show(rows)


def benchmark(cfg: DictConfig) -> Iterator[dict[str, Any]]:
    """Measure what the configuration asks for, one row after the other."""
    peer = find_peer(cfg.peer, Path(cfg.data.dataset_dir)) if cfg.peer else None
    model, datamodule = instantiate(cfg.model), instantiate(cfg.data)
    trainer = make_trainer(cfg.trainer, [], [])  # knows the devices
    if "real" in cfg.feeds:
        datamodule.placement.check(trainer.strategy.root_device)
    check_preset(model.network, datamodule.planning)
    datamodule.make_plan()
    check_shares(datamodule.plan_configuration.batch_size, trainer.world_size)
    if "real" in cfg.feeds:
        datamodule.prepare_data()
    for feed in cfg.feeds:
        tried = [None] if feed == "dummy" else [cfg.data.num_workers] if cfg.workers is None else cfg.workers
        for workers in tried:
            yield measure(cfg, model, datamodule, feed, workers)
    if peer is not None and ranks.is_first():
        for feed in cfg.feeds:
            yield peer.measure(feed, cfg.data_name, cfg.data.configuration, Path(cfg.output) / "peer")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table, and a sentence on each row."""
    first, console = rows[0], table_console()
    if not sys.stdout.isatty():
        console = table_console(width=_WIDTH)
    cells = {name: [cell(row) for row in rows] for name, cell in COLUMNS.items()}
    of_all = ("data", "devices")
    shown = {name: column for name, column in cells.items() if name not in of_all and set(column) != {UNKNOWN}}
    caption = f"{COLUMNS['data'](first)}, on {COLUMNS['devices'](first)}"
    table = Table(*shown, box=SIMPLE_HEAD, pad_edge=False, title=caption, title_justify="left")
    for line in zip(*shown.values(), strict=True):
        table.add_row(*line)
    console.print(table)
    own = [row for row in rows if row["step_ms"] is not None]
    sentences = [f"{COLUMNS['batches'](row)}: {sentence(row)}" for row in own] + [enough_workers(own)]
    for said in filter(None, sentences):
        console.print(for_terminal(said, sys.stdout), soft_wrap=True, highlight=False)


def _check(cfg: DictConfig) -> None:
    """Refuse, before any work, what a benchmark does not do (else ValueError)."""
    check_config(OmegaConf.to_container(cfg, resolve=True), cfg.trusted)
    feeds, workers = list(cfg.feeds), cfg.workers
    if not feeds or set(feeds) - set(FEEDS):
        raise ValueError(f"feeds={feeds}: expected some of {', '.join(FEEDS)}, such as [real,dummy].")
    numbers = workers is None or (OmegaConf.is_list(workers) and len(workers) > 0)
    if not numbers or not all(map(is_whole, workers or ())):
        raise ValueError(f"workers={workers}: expected a list of numbers of processes, such as [2,4,8], or null.")
    for key, value in _FIXED.items():
        if cfg[key] != value:
            raise ValueError(f"{key}={cfg[key]}: a benchmark neither keeps, resumes nor tests what it trains.")
    given = [key for key in _NEVER if cfg.trainer.get(key) not in (None, False, -1, 0.0)]
    if given:
        raise ValueError(f"trainer.{given[0]} is for trainings: a benchmark times whole epochs of data.")
    if not is_whole(cfg.trainer.max_epochs, 1):
        raise ValueError(f"trainer.max_epochs={cfg.trainer.max_epochs}: expected how many epochs to time, 5 by rule.")
    check_precision(cfg.trainer)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    alone = "LOCAL_RANK" not in os.environ and (spec is None or not spec.name.startswith("umamba.benchmark"))
    if cfg.trainer.devices != 1 and alone:  # Lightning starts the other processes with the command of the first
        raise ValueError(f"trainer.devices={cfg.trainer.devices}: call it as `python -m umamba.benchmark`.")


if __name__ == "__main__":
    run_command(main)
