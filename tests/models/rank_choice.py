"""A process of two trainings with two ranks each, one after the other: what the ranks agree on, into a file.

python tests/models/rank_choice.py 0 FOLDER    # the first rank of both
python tests/models/rank_choice.py 1 FOLDER    # the second rank of the first training; 2: of the second
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from umamba.models.kernels import choice
from umamba.models.ranks import alone, sum_over_ranks

KIND = (3, torch.float32, True, torch.int16, False)


def usable(_device: torch.device, classes: int, *_: Any) -> bool:
    """Three classes everywhere, four in the first process alone."""
    return classes == 3 or process == 0


def ask(classes: int) -> bool:
    return choice._loss_checked("cpu", None, classes, *KIND[1:])


def train(training: int, rank: int) -> list[list[Any]]:
    """What both questions and a sum that comes after them give, twice."""
    meet = f"file://{folder}/meet_{training}"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    if rank == 1:
        with alone():  # as a rank whose capture has gone well while another's failed
            ask(3)
    found = [[ask(3), ask(4), float(sum_over_ranks(torch.tensor(float(rank + 1))))] for _ in range(2)]
    distributed.destroy_process_group()
    return found


if __name__ == "__main__":
    process, folder = int(sys.argv[1]), Path(sys.argv[2])
    choice._loss_usable = usable  # type: ignore[assignment]
    if process == 0:
        by_itself = [ask(3), ask(4)]
        torch.save([by_itself, *train(0, 0), *train(1, 0)], folder / "found_0.pt")
    else:
        torch.save(train(process - 1, 1), folder / f"found_{process}.pt")
