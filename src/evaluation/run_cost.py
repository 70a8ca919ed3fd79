"""What a scored run cost: size of its networks, time and memory of training and prediction."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from umamba.files import read_json
from umamba.models.cost import count_flops, count_parameters


def run_cost(networks: Sequence[nn.Module], input_shape: Sequence[int], run_dir: Path, inference: Path) -> dict:
    """Cost of a run: the networks' size, what training left in cost.json and prediction in inference.json.

    Args:
        networks: As predicted with, on any device.
        input_shape: (1, C, *patch).
        run_dir: Folder of the training run, with cost.json if it is at hand.
        inference: inference.json of the prediction.

    Returns:
        parameters, gflops (of one patch, see `count_flops`),
        seconds_per_epoch (median), train_peak_vram_gib, train_device, seconds_per_case (mean),
        inference_peak_vram_gib, inference_device; None where it was not measured.
    """
    train, predict = read_json(run_dir / "cost.json"), read_json(inference)
    seconds, epochs = list(predict.get("seconds", {}).values()), train.get("epoch_seconds")
    return {
        "parameters": sum(count_parameters(network) for network in networks),
        "gflops": sum(count_flops(copy.deepcopy(network).cpu(), input_shape) for network in networks) / 1e9,
        "seconds_per_epoch": median(epochs) if epochs else None,
        "train_peak_vram_gib": train.get("peak_vram_gib"),
        "train_device": train.get("device"),
        "seconds_per_case": sum(seconds) / len(seconds) if seconds else None,
        "inference_peak_vram_gib": predict.get("peak_vram_gib"),
        "inference_device": predict.get("device"),
    }


def mean_cost(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`run_cost` of several runs of one network: means of what was measured, and names of devices of the first."""
    mean: dict[str, Any] = {}
    for key, value in costs[0].items():
        known = [cost[key] for cost in costs if cost[key] is not None]
        numbers = known and not isinstance(known[0], str)
        mean[key] = sum(known) / len(known) if numbers else known[0] if known else value
    return mean
