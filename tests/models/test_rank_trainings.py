"""Trainings of two processes whose steps are replayed are those whose steps are launched singly, through Lightning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_processes import free_port, run_all
from rank_trainings import WORLD

WORKER = Path(__file__).with_name("rank_trainings.py")


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_it_is_the_training_of_single_launches(accelerator, tmp_path):
    """With unlike shares, a step that is not finite, batches that no graph fits, gradients that add up, and resumed."""
    if accelerator == "gpu" and torch.cuda.device_count() < WORLD:
        pytest.skip(f"it takes {WORLD} GPUs")
    port = free_port()
    run_all(WORKER, [(rank, port, tmp_path, accelerator) for rank in range(WORLD)], timeout=600)
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(WORLD)]
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    close = exact if accelerator == "cpu" else {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True}
    for name in {name for name, _ in ranks[0]}:
        for ends in ranks:
            (plain, plain_metrics), (graphed, graphed_metrics) = ends[name, False], ends[name, True]
            assert plain_metrics["train/skipped_steps"] >= 1  # a gradient scaler may add its own
            torch.testing.assert_close(graphed, plain, **close)
            torch.testing.assert_close(graphed_metrics, plain_metrics, **close)
        torch.testing.assert_close(ranks[0][name, True][0], ranks[1][name, True][0], **exact)
    whole, resumed = ranks[0]["plain", True][0], ranks[0]["resumed", True][0]
    torch.testing.assert_close(resumed, whole, **close)
    for rank in range(WORLD):
        parts = (tmp_path / f"log_{rank}.txt").read_text().split("cuda_graph=")
        said = [(part.startswith("True"), "are replayed from CUDA graphs" in part) for part in parts[1:]]
        assert said and all(graphed == replayed for graphed, replayed in said)
