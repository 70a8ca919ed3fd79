"""Ranks that replay their steps from CUDA graphs take the steps that they take without; all of them do, or none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_graphs import OPTIONS, WORLD

WORKER = Path(__file__).with_name("rank_graphs.py")


def run_ranks(folder: Path, device: str) -> tuple[list[dict], list[str]]:
    """What the ranks found, and what they said."""
    commands = [[sys.executable, str(WORKER), str(rank), str(folder), device] for rank in range(WORLD)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=180) for process in processes] == [0] * WORLD
    finally:
        for process in processes:
            process.kill()
    names = [f"rank_{rank}.pt" for rank in range(WORLD)], [f"log_{rank}.txt" for rank in range(WORLD)]
    return [torch.load(folder / name) for name in names[0]], [(folder / name).read_text() for name in names[1]]


def check(found: list[dict]) -> None:
    """Graphed and not are equal, and so are both ranks' weights."""
    for options in OPTIONS:
        for rank in found:
            (losses, weights), (graphed_losses, graphed_weights) = rank[(*options, False)], rank[(*options, True)]
            assert graphed_losses == pytest.approx(losses, rel=1e-4) and len(set(losses)) == len(losses)
            for plain, graphed in zip(weights, graphed_weights, strict=True):
                torch.testing.assert_close(graphed, plain, rtol=1e-3, atol=1e-4)
        for one, other in zip(found[0][(*options, True)][1], found[1][(*options, True)][1], strict=True):
            assert torch.equal(one, other)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_one_rank_that_cannot_capture_keeps_all_from_it(tmp_path):
    found, said = run_ranks(tmp_path, "cpu")
    check(found)
    assert "another rank" in said[0] and "CUDA out of memory" in said[1]
    assert not any("are replayed" in text for text in said)


@pytest.mark.gpu
def test_steps_are_those_of_single_launches(tmp_path):
    if torch.cuda.device_count() < WORLD:
        pytest.skip(f"it takes {WORLD} GPUs")
    found, said = run_ranks(tmp_path, "cuda")
    check(found)
    assert all(text.count("are replayed from CUDA graphs") == len(OPTIONS) for text in said)
