"""What benchmarks/inference.py measures of a row: the folder predicted twice, and the seconds of each phase."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from inference_sets import ROWS, images_of
from umamba.inference.folders import cases_in_folder
from umamba.inference.predictor import Predictor
from umamba.raw.readers import write_label


def measure(name: str, checkpoint: Path, work: Path, device: str) -> dict[str, Any]:
    """In a process of its own: predict the folder twice, then phase by phase."""
    begun = time.perf_counter()
    predictor = Predictor.from_checkpoint(checkpoint, device)
    started = time.perf_counter() - begun
    cuda = predictor.device.type == "cuda"
    images = work / images_of(name)
    cases = cases_in_folder(images, ROWS[name].images[3], len(predictor.plan.channel_names))
    seconds = []
    for repeat in range(2):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        predictor.predict_cases(cases, work / f"{name}_{repeat}")
        seconds.append(time.perf_counter() - begun)
    row = {
        "row": name,
        "cases": len(cases),
        "load_s": started,
        "first_s": seconds[0],
        "seconds": seconds[1],
        "cases_per_s": len(cases) / seconds[1],
        "main_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }
    return row | {"phases": phases(predictor, cases[:5], work)}


def phases(predictor: Predictor, cases: list, work: Path) -> dict[str, float]:
    """Seconds per case of reading, preprocessing, the network with its sums, the way back, and writing."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if predictor.device.type == "cuda":
            torch.cuda.synchronize()
        spent[name] = spent.get(name, 0) + (time.perf_counter() - begun) / len(cases)

    for case in cases:
        with timed("read"):
            image, geometry = predictor._read(case.images)
        with timed("preprocess"):
            data, properties = predictor._preprocess(image, geometry)
        with timed("network"):
            for _ in predictor._logits(data):
                pass
        with timed("segment"):
            done = predictor._segment(data, properties)
        with timed("write"):
            write_label(done.label, work / f"phase{predictor.plan.file_ending}", geometry)
    spent["export"] = max(0.0, spent.pop("segment") - spent["network"])
    return spent
