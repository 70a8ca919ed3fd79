"""What is not said: warnings with which a user can do nothing, and lines said before or by another process."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from umamba.run import ranks
from umamba.run.console import for_terminal

# The beginning of each, as a regular expression, and why it says nothing here
_NOT_FOR_THE_USER = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own code
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # metrics are logged by the epoch
    r"The '\w+' does not have many workers",  # data.num_workers is all cores, or what the user has chosen
    r"Checkpoint directory .* exists and is not empty",  # the run is gone on with
    r"The dirpath has changed from",  # a new run's best.ckpt has nothing to do with that of the one it is begun from
    r"Experiment logs directory .* exists and is not empty",
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the batches are those that were left
    r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",  # float16 may skip the first step
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # the value is the same in all processes
    r"The `srun` command is available on your system but is not used",  # one process needs none, several are refused
    r"Trainer was configured with a `?fast_dev_run`?",
    r"Grad strides do not match bucket view strides",  # DDP copies channels-last gradients; graphs do without DDP's
    r"The AccumulateGrad node's stream does not match",  # DDP's own nodes
)


_ADVERTISING = "lightning.pytorch.utilities.rank_zero"  # logger of the devices that were found, too


def quiet() -> None:
    """Leave these warnings, and what a new trainer says of itself, out; all others are shown."""
    logging.getLogger(_ADVERTISING).setLevel(logging.WARNING)
    for beginning in _NOT_FOR_THE_USER:
        warnings.filterwarnings("ignore", message=beginning)


@contextmanager
def only_first_says() -> Iterator[None]:
    """While in here, log warnings and errors alone if this is not the run's first process: that one says the rest."""
    root = logging.getLogger()
    before = root.level
    if not ranks.is_first():
        root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)


def short_warnings() -> None:
    """Show a warning as its message alone, without line ends and the place in the code that it comes from."""
    warnings.formatwarning = _short


def _short(message: Warning | str, *_: object, **__: object) -> str:
    return for_terminal(f"Warning: {' '.join(str(message).split())}", sys.stderr) + "\n"


@contextmanager
def said_once() -> Iterator[None]:
    """Leave out lines that were logged in the block before, word for word: of several folds each would say them."""
    added = [(handler, _only_new()) for handler in logging.getLogger().handlers]
    for handler, only_new in added:
        handler.addFilter(only_new)
    try:
        yield
    finally:
        for handler, only_new in added:
            handler.removeFilter(only_new)


def _only_new() -> Callable[[logging.LogRecord], bool]:
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        before, text = len(said), record.getMessage()
        said.add(text)
        return len(said) > before

    return is_new
