"""Ranks take the same kernels for their loss, whatever one of them did before the others were there."""

from __future__ import annotations

from pathlib import Path

import torch
from rank_processes import run_all

WORKER = Path(__file__).with_name("rank_choice.py")


def test_ranks_ask_each_other_in_every_training(tmp_path):
    """Else the one that asks is answered by the other's next sum: a wrong loss, or ranks that wait for ever."""
    run_all(WORKER, [(process, tmp_path) for process in range(3)], timeout=120)
    (by_itself, *first), second, third = (torch.load(tmp_path / f"found_{process}.pt") for process in range(3))
    assert by_itself == [True, True]
    assert first == second + third == 4 * [[True, False, 3.0]]
