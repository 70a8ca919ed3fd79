"""Time the augmentation of whole batches on a device, and compare it with the CPU's: `augmentation.py --device cuda`.

For each setting batches are made as workers make them (drawn, read from memory, put together) and augmented on the
device. Written for each, as means over the batches: the worker's CPU time, the host's time to launch all, the time
until the device is done, the sum of its kernels and their number, what is copied to it, the peak memory, and the
largest difference to the same batches augmented by the workers (noise left out, whose numbers differ by intention).
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import default_collate

from batches import SETTINGS, build, load_rules
from batches_peer import make_sample
from umamba.datamodules.augmentation.device.chain import DeviceChain, PendingBatch
from umamba.datamodules.augmentation.spatial import default_degrees, enlarged_patch_size
from umamba.datamodules.patches import PatchDataset
from umamba.files import write_json, write_text
from umamba.planning.configuration import Configuration
from umamba.planning.store import Store

BATCH = {"hippocampus 3D": 7, "abdomen CT 3D": 2, "abdomen MR 2D": 30, "endoscopy 2D": 13, "cells 2D": 12}
WARM_UP = 3
COMPARED = 8  # batches
COLUMNS = (
    "worker_ms", "host_ms", "device_ms", "kernel_ms", "launches", "copied_mib", "peak_mib", "largest_difference",
    "labels_that_differ",
)  # fmt: skip


def make_dataset(rule: dict, name: str, *, on_device: bool = True) -> PatchDataset:
    """Patches of one image in memory, all of them for the device, or finished."""
    patch_size, channels, labels, _ = SETTINGS[name]
    flat = (1,) * (3 - len(patch_size))
    enlarged = enlarged_patch_size(patch_size, default_degrees(patch_size))
    image, label = make_sample(flat + tuple(n + 16 for n in enlarged), channels, labels)
    locations = {k: np.argwhere(label == k)[:10000] for k in range(1, labels)}
    case = SimpleNamespace(data=image, label=label, class_locations=locations, annotated_locations=(), previous=None)
    configuration = SimpleNamespace(
        patch_size=patch_size, batch_size=BATCH[name], spacing=(1.0,) * 3, spatial_dims=len(patch_size),
        use_mask_for_norm=(False,) * channels,
    )  # fmt: skip
    transforms = [build(entry, patch_size) for entry in rule.values()]
    return PatchDataset(
        cast(Store, SimpleNamespace(case=lambda identifier: case)),
        ["case"],
        configuration=cast(Configuration, configuration),
        transforms=transforms,
        chain=DeviceChain(transforms, patch_size),
        first_on_device=torch.tensor(0) if on_device else None,
    )


def make_batch(dataset: PatchDataset, number: int) -> list[dict[str, Any]]:
    size = dataset.configuration.batch_size
    return [dataset[number * size + i] for i in range(size)]


def pending_batch(dataset: PatchDataset, number: int) -> PendingBatch:
    assert dataset.chain is not None
    return dataset.chain.collate(make_batch(dataset, number))["pending"]


def compare(rule: dict, name: str, device: torch.device) -> dict[str, float]:
    """How the device's batches differ from those that workers finish with the same draws."""
    silent = {key: {**entry, "std": [0, 0]} if key == "noise" else entry for key, entry in rule.items()}
    workers, handed = make_dataset(silent, name, on_device=False), make_dataset(silent, name)
    assert handed.chain is not None
    differences, wrong = [], []
    for number in range(COMPARED):
        expected = default_collate(make_batch(workers, number))
        batch = handed.chain.apply(pending_batch(handed, number).to(device))
        differences.append(float((batch["image"].cpu() - expected["image"]).abs().max()))
        wrong.append(float((batch["label"].cpu() != expected["label"]).float().mean()))
    return {"largest_difference": max(differences), "labels_that_differ": float(np.mean(wrong))}


def measure(rule: dict, name: str, batches: int, device: torch.device) -> dict[str, Any]:
    """The numbers of one setting."""
    dataset = make_dataset(rule, name)
    chain = dataset.chain
    assert chain is not None
    start = time.process_time()
    made = [pending_batch(dataset, number) for number in range(WARM_UP + batches)]
    found: dict[str, Any] = {"worker_ms": 1e3 * (time.process_time() - start) / len(made)}
    found |= compare(rule, name, device)
    found["copied_mib"] = float(np.mean([pending.parcel.size for pending in made])) / 2**20
    if device.type != "cuda":
        start = time.perf_counter()
        for pending in made[WARM_UP:]:
            chain.apply(pending)
        return found | {"host_ms": 1e3 * (time.perf_counter() - start) / batches}
    made = [pending.pin_memory() for pending in made]
    for pending in made:  # kernels are built, and launches described
        chain.apply(pending.to(device))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    host, whole = [], []
    for pending in made[WARM_UP:]:
        start = time.perf_counter()
        batch = chain.apply(pending.to(device))
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        whole.append(time.perf_counter() - start)
        del batch
    found |= {"host_ms": 1e3 * float(np.mean(host)), "device_ms": 1e3 * float(np.mean(whole))}
    found |= {"peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for pending in made[WARM_UP:]:
            chain.apply(pending.to(device))
        torch.cuda.synchronize()
    kernels = [(e.self_device_time_total / 1e3, e.count) for e in profiler.key_averages() if "Memcpy HtoD" not in e.key]
    found |= {"kernel_ms": sum(ms for ms, _ in kernels) / batches, "launches": sum(n for _, n in kernels) / batches}
    return found


def time_on_device(device: torch.device, batches: int, out: Path) -> None:
    """Time all settings and write augmentation_device.{json,md} into a folder."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows: dict[str, dict[str, Any]] = {}
    for rule, entries in load_rules().items():
        for setting in SETTINGS:
            rows[f"nnunet_{rule}, {setting}"] = measure(entries, setting, batches, device)
            lines = [
                "# Augmentation on the device", "",
                f"Means over {batches} batches on {name}, torch {torch.__version__}; what the columns are says the "
                "head of `benchmarks/augmentation_device.py`.", "",
                f"Made by `python benchmarks/augmentation.py --device {device.type}`.", "",
                "| setting, batch | " + " | ".join(key.replace("_", " ") for key in COLUMNS) + " |",
                "|---" * (len(COLUMNS) + 1) + "|",
            ]  # fmt: skip
            for title, row in rows.items():
                cells = [f"{row[key]:.3g}" if key in row else "" for key in COLUMNS]
                lines.append(f"| {title}, {BATCH[title.split(', ')[1]]} | {' | '.join(cells)} |")
            write_json({"device": name, "torch": torch.__version__, "batches": batches, "rows": rows},
                       out / "augmentation_device.json")  # fmt: skip
            write_text("\n".join(lines) + "\n", out / "augmentation_device.md")
            print(lines[-1], flush=True)
