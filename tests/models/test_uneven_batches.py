"""Ranks with unlike shares of a batch take the step that one process takes with the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from rank_gradients import OPTIONS, SIZES, gradients, make, whole_batch
from rank_processes import run_all

WORKER = Path(__file__).with_name("rank_gradients.py")


@pytest.mark.parametrize("world", SIZES)
def test_the_gradient_and_the_loss_are_those_of_the_whole_batch(world, tmp_path):
    run_all(WORKER, [(rank, world, tmp_path) for rank in range(world)], timeout=600)
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(world)]
    for size in SIZES[world]:
        for options in OPTIONS:
            network, loss_function = make(*options)
            image, label = whole_batch(size, options[1])
            loss = loss_function(network(image), label)
            loss.backward()
            assert loss.dtype == torch.float64
            training, validation, found = zip(*(rank[size, *options] for rank in ranks), strict=True)
            for losses in (training, validation):
                torch.testing.assert_close(sum(losses) / world, loss.detach(), rtol=1e-12, atol=1e-12)
            expected = gradients(network)
            for own in found:
                assert len(own) == len(expected) > 10
                for got, wanted in zip(own, expected, strict=True):
                    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_the_mean_of_what_the_ranks_would_have_alone_is_another_loss():
    """The check above tells one from the other: what plain averaging would give is far away."""
    network, loss_function = make(False, None)
    image, label = whole_batch(7, None)
    whole = loss_function(network(image), label)
    parts = [loss_function(copy.deepcopy(network)(image[r::2]), label[r::2]) for r in range(2)]
    assert abs(sum(parts) / 2 - whole) > 1e-4
