"""From the folder of a finished run to its record, see `umamba.evaluation.report.records`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch

from umamba.evaluation.record import is_scored
from umamba.evaluation.report.record_faults import OWN_HASH, hash_of, rounded, steady_hash
from umamba.evaluation.report.records import VERSION
from umamba.evaluation.table_text import read_scores
from umamba.evaluation.tables import metrics_of
from umamba.evidence.manifest import Wanted
from umamba.files import content_hash, load_json, read_json
from umamba.raw.image_marks import of_files
from umamba.run.folder import last_checkpoint

_DECIMALS = 6  # of scores
_NOT_KEPT = ("checkpoints", "checkpoints_sha256", "images", "pairs", "scores_sha256", "cost", "version")  # of run.json


def make_record(wanted: Wanted, folder: Path, attempts: Sequence[Mapping[str, Any]], code: str) -> dict[str, Any]:
    """The record of a run that has been trained and scored.

    Args:
        wanted: What it is.
        folder: Of the run, as train.py leaves it.
        attempts: What every start of it took, see `umamba.evidence.entry`.
        code: `umamba.run.provenance.code_hash` of the code that ran.

    Raises:
        OSError: Something of it is missing.
        ValueError: Its scores are not those of its last checkpoint, or it is of another seed.
    """
    last = last_checkpoint(folder)
    if not is_scored(last, folder / "tables"):
        raise ValueError(f"{folder / 'tables'} has no scores of {last}.")
    run = load_json(folder / "tables" / "run.json")
    if run["seed"] != wanted.seed:
        raise ValueError(f"{folder} holds a run of seed {run['seed']}, not {wanted.seed}.")
    scores = read_scores(folder / "tables" / "scores.csv")
    provenance = load_json(folder / "provenance.json")
    checkpoint = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    cases = checkpoint.get("cases") or {}
    training = run["members"][0]["training"]
    kept = {key: value for key, value in run.items() if key not in _NOT_KEPT}
    tested = {case: [image["content"] for image in images] for case, images in run["images"].items()}
    record = {
        "version": VERSION,
        "dataset": wanted.dataset,
        "title": wanted.title,
        "network": wanted.network,
        "seed": wanted.seed,
        "overrides": list(wanted.overrides),
        "revision": provenance.get("git_revision"),
        "code": code,
        "config_hash": steady_hash(training),
        "plan_hash": steady_hash(run["plan"]),
        "data_hash": content_hash([*of_files([cases.get("trained_on"), cases.get("files")]), run["cases"], tested]),
        "trained_cases": len(cases.get("trained_on") or {}) or None,
        "python": provenance.get("python"),
        "versions": provenance.get("versions"),
        "cost": _cost(run["cost"], folder, attempts),
        "attempts": [{key: value for key, value in one.items() if key not in ("host", "pid")} for one in attempts],
        "run": kept,
        "scores": _compact(scores),
    }
    return {**record, OWN_HASH: hash_of(record)}


def _cost(measured: Mapping[str, Any], folder: Path, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What run.json says and what the runner measured; hours and energy are shares where a GPU was shared."""
    path = folder / "cost.json"
    epochs = read_json(path).get("epoch_seconds", [])
    steps = attempts[-1].get("step")
    per_epoch = steps / len(epochs) if steps and epochs else None
    energy = [one["energy_wh"] for one in attempts if one.get("energy_wh") is not None]
    hours = [one["gpu_seconds"] / 3600 for one in attempts if one.get("gpu_seconds") is not None]
    reasons = sorted({one["no_energy"] for one in attempts if one.get("no_energy")})
    seconds = sum(one["seconds"] for one in attempts)
    return {
        **{key: rounded(value) for key, value in measured.items()},
        "steps": steps,
        "seconds_per_step": rounded(median(epochs) / per_epoch) if per_epoch else None,
        "seconds": round(seconds, 1),
        "gpu_hours": round(sum(hours), 5) if len(hours) == len(attempts) else None,
        "runs_per_gpu": rounded(sum(one["seconds"] * one["packed"] for one in attempts) / max(seconds, 0.1)),
        "energy_wh": round(sum(energy), 2) if len(energy) == len(attempts) else None,
        "energy_reason": "; ".join(reasons) or None,
    }


def _compact(scores: pd.DataFrame) -> dict[str, Any]:
    """Scores by case and class as columns and rows; what is missing is null."""
    columns = ["case", "class", *metrics_of(scores), *(["nsd_tolerance"] if "nsd_tolerance" in scores else [])]
    rows = [
        [None if isinstance(v, float) and math.isnan(v) else round(v, _DECIMALS) if isinstance(v, float) else v
         for v in row]
        for row in scores[columns].itertuples(index=False)
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}
