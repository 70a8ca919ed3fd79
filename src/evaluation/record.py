"""What a table of scores was made with and what it cost, as run.json beside the tables; the report reads these."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from src.evaluation.pairs import Pair
from src.files import write_text
from src.models.cost import count_flops, count_parameters


def run_record(
    config: Mapping[str, Any],
    configuration: str,
    checkpoints: Sequence[Path | str],
    *,
    protocol: str,
    task: str,
    labels: Mapping[str, int],
    options: Mapping[str, Any],
    cost: Mapping[str, Any],
    pairs: Sequence[Pair] = (),
) -> dict[str, Any]:
    """Facts about a scored run, as plain data.

    Args:
        config: The resolved configuration of the training.
        configuration: Of the plan, "2d", "3d_fullres", ...
        checkpoints: Scored; several are an ensemble.
        protocol: As in the scores.
        task: "semantic" or "instances".
        labels: Class name -> value.
        options: What was done beyond the plain prediction, such as {"mirror": True}.
        cost: Of `run_cost`.
        pairs: The scored files, for figures.
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
        "labels": dict(labels),
        "checkpoints": [str(Path(path).resolve()) for path in checkpoints],
        "options": dict(options),
        "cost": dict(cost),
        "pairs": [
            {
                "case": pair.case,
                "prediction": str(pair.prediction.resolve()),
                "reference": str(pair.reference.resolve()),
                "images": [str(path.resolve()) for path in pair.images],
            }
            for pair in pairs
        ],
    }


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
    train, predict = _load(run_dir / "cost.json"), _load(inference)
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


def save_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "run.json", json.dumps(record, indent=1) + "\n")


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
