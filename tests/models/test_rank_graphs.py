"""Ranks that replay their steps from CUDA graphs take the steps that DDP takes without; all of them do, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_graphs import ADDED_UP, NOT_FINITE, OPTIONS, SIZES, WORLD
from rank_processes import run_all

WORKER = Path(__file__).with_name("rank_graphs.py")


def run_ranks(folder: Path, kind: str) -> tuple[list[dict], list[str]]:
    """What the ranks found, if they got so far, and what they said."""
    run_all(WORKER, [(rank, folder, kind) for rank in range(WORLD)], timeout=600)
    paths = [folder / f"rank_{rank}.pt" for rank in range(WORLD)]
    found = [torch.load(path) for path in paths if path.exists()]
    return found, [(folder / f"log_{rank}.txt").read_text() for rank in range(WORLD)]


def check(found: list[dict], tolerance: float = 0.0) -> None:
    """Graphed and not are equal, and so are both ranks' gradients and weights; the step that is not finite is on both.

    Args:
        found: of each rank.
        tolerance: of graphed and not, as a share of a tensor's largest value; 0 where the numbers are the same.
    """
    for options in dict.fromkeys(key[:-1] for key in found[0]):
        for rank in found:
            plain, graphed = rank[(*options, False)], rank[(*options, True)]
            assert len(set(map(str, plain["losses"]))) == len(SIZES)
            torch.testing.assert_close(graphed["losses"], plain["losses"], equal_nan=True, rtol=tolerance, atol=0)
            steps = list(zip(plain["gradients"], graphed["gradients"], strict=True))
            assert len(steps) == len(SIZES) - 1
            for number, (own, other) in enumerate(steps, 1):
                assert all(g.isfinite().all() for g in own) is (number != NOT_FINITE)
                for gradient, expected in zip(other, own, strict=True):
                    check_tensor(gradient, expected, tolerance)
            for weight, expected in zip(graphed["weights"], plain["weights"], strict=True):
                check_tensor(weight, expected, tolerance)
        ends = [rank[(*options, True)] for rank in found]
        for key in ("gradients", "weights"):
            torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0, equal_nan=True)


def check_tensor(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=tolerance * largest)


def test_steps_are_those_of_ddp(tmp_path):
    """In float64, with unlike shares, gradients that add up, a step that is not finite and one that fits no graph."""
    assert ADDED_UP == 0 and SIZES[2] != SIZES[0]
    found, said = run_ranks(tmp_path, "again")
    assert len(found[0]) == 2 * len(OPTIONS)
    check(found)
    assert all(text.count("are replayed from CUDA graphs") == len(OPTIONS) for text in said)


def test_one_rank_that_cannot_capture_keeps_all_from_it(tmp_path):
    found, said = run_ranks(tmp_path, "fault")
    check(found)
    assert "another rank" in said[0] and "CUDA out of memory" in said[1]
    assert all("singly" in text and "are replayed" not in text for text in said)


def test_ranks_with_unlike_weights_are_refused(tmp_path):
    _, said = run_ranks(tmp_path, "unlike")
    assert all("different weights" in text for text in said)


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "tolerance"), [("double", 1e-9), ("half", 1e-2)])
def test_steps_on_gpus_are_those_of_ddp(kind, tolerance, tmp_path):
    if torch.cuda.device_count() < WORLD:
        pytest.skip(f"it takes {WORLD} GPUs")
    found, said = run_ranks(tmp_path, kind)
    check(found, tolerance)
    assert all(text.count("are replayed from CUDA graphs") == len(OPTIONS) for text in said)
