"""What a table of scores was made with and what it cost, as run.json beside the tables; the report reads these."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import src.models.mamba.block as mamba_block
from src.evaluation.tables import write_text

SCAN_OPERATIONS = 9  # per token, channel and state (Liu et al., VMamba, arXiv 2401.10166, its code)


def run_record(
    config: Mapping[str, Any],
    configuration: str,
    checkpoints: Sequence[Path | str],
    *,
    protocol: str,
    task: str,
    options: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """Facts about a scored run, as plain data.

    Args:
        config: The resolved configuration of the training.
        configuration: Of the plan, "2d", "3d_fullres", ...
        checkpoints: Scored; several are an ensemble.
        protocol: As in the scores.
        task: "semantic" or "instances".
        options: What was done beyond the plain prediction, such as {"mirror": True}.
        cost: Of `run_cost`.
    """
    name = config.get("task_name") or Path(str(checkpoints[0])).stem
    return {
        "network": config.get("model_name") or name,
        "dataset": config.get("data_name") or Path(str(config.get("data", {}).get("dataset_dir", name))).name,
        "configuration": configuration,
        "fold": config.get("fold"),
        "seed": config.get("seed"),
        "protocol": protocol,
        "task": task,
        "checkpoints": [str(path) for path in checkpoints],
        "options": dict(options),
        "cost": dict(cost),
    }


def run_cost(networks: Sequence[nn.Module], input_shape: Sequence[int], run_dir: Path, inference: Path) -> dict:
    """Cost of a run: the networks' size, what training left in cost.json and prediction in inference.json.

    Args:
        networks: As predicted with, on any device.
        input_shape: (1, C, *patch).
        run_dir: Folder of the training run, with cost.json if it is at hand.
        inference: inference.json of the prediction.

    Returns:
        parameters, gflops (of one patch, see `gflops`),
        seconds_per_epoch (median), train_peak_vram_gib, train_device, seconds_per_case (mean),
        inference_peak_vram_gib, inference_device; None where it was not measured.
    """
    train, predict = _load(run_dir / "cost.json"), _load(inference)
    seconds, epochs = list(predict.get("seconds", {}).values()), train.get("epoch_seconds")
    return {
        "parameters": sum(p.numel() for network in networks for p in network.parameters()),
        "gflops": sum(gflops(network, input_shape) for network in networks),
        "seconds_per_epoch": median(epochs) if epochs else None,
        "train_peak_vram_gib": train.get("peak_vram_gib"),
        "train_device": train.get("device"),
        "seconds_per_case": sum(seconds) / len(seconds) if seconds else None,
        "inference_peak_vram_gib": predict.get("peak_vram_gib"),
        "inference_device": predict.get("device"),
    }


def gflops(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Work of one forward pass in 1e9 operations, a multiply-add counted as two.

    Convolutions and matrix products as torch counts them, selective scans by VMamba's formula; norms and activations
    are not counted. Nothing is computed: shapes alone are followed.

    Args:
        network: In eval mode, on any device.
        input_shape: (N, C, *S).
    """
    shadow = copy.deepcopy(network).cpu()  # kernels for a GPU cannot follow shapes alone
    counter, scans = FlopCounterMode(display=False), 0

    def counted_scan(u: Tensor, delta: Tensor, A: Tensor, *_: object) -> Tensor:
        nonlocal scans
        scans += SCAN_OPERATIONS * u.numel() * A.shape[1]
        return u

    # The scan itself would be followed block by block, which takes minutes for a million tokens.
    with mock.patch.object(mamba_block, "selective_scan", counted_scan), FakeTensorMode(allow_non_fake_inputs=True):
        with counter, torch.no_grad():
            shadow(torch.empty(tuple(input_shape)))
    return (counter.get_total_flops() + scans) / 1e9


def save_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "run.json", json.dumps(record, indent=1) + "\n")


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
