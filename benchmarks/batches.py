"""Time the making of training patches on one core: each transform, the whole chain, and reading from the store.

    OMP_NUM_THREADS=1 python benchmarks/batches.py
    OMP_NUM_THREADS=1 python benchmarks/batches.py --peer "nnU-Net 2.1=OTHER_VENV/bin/python"

Times are CPU seconds of the process, so that other work on the machine counts little. With --peer, nnU-Net's own
augmentation (its trainer's get_training_transforms) is timed on the same images by an interpreter that has nnunetv2
installed, between the settings of this run. Writes docs/benchmarks/batches.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import blosc2
import matplotlib
import numpy as np
import torch
import torchio as tio
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from batches_peer import make_sample
from common import processor
from umamba.datamodules.augmentation.spatial import default_degrees, enlarged_patch_size, is_anisotropic
from umamba.datamodules.patches import PatchDataset
from umamba.drawing.palette import network_colour
from umamba.planning.arrays import storage_shapes
from umamba.planning.configuration import Configuration
from umamba.planning.store import Store

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks"
# Patch, channels, labels with background, and the CPU seconds that one patch may cost: with them 15 workers make 33
# batches of 9 hippocampus patches or 6 batches of 2 CT patches a second.
SETTINGS = {
    "hippocampus 3D": ((40, 56, 40), 1, 3, 0.05),
    "abdomen CT 3D": ((40, 224, 192), 1, 14, 1.2),
    "abdomen MR 2D": ((320, 320), 1, 14, None),
    "endoscopy 2D": ((384, 640), 3, 8, None),
    "cells 2D": ((512, 512), 3, 3, None),
}
ALWAYS = {"p": 1.0, "channel_p": 1.0}


def load_rules() -> dict[str, dict]:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return {rule: compose("train", overrides=[f"augmentation=nnunet_{rule}"]).augmentation for rule in ("21", "28")}


def build(config: dict, patch_size: tuple[int, ...]) -> tio.Transform:
    built = instantiate(config)
    transform = built if isinstance(built, tio.Transform) else built(patch_size=patch_size)
    transform.copy = False
    return transform


def _cpu_seconds(call: Callable[[int], object], count: int) -> list[float]:
    call(0)
    seconds = []
    for i in range(count):
        start = time.process_time()
        call(i + 1)
        seconds.append(time.process_time() - start)
    return seconds


def make_subject(image: np.ndarray, label: np.ndarray) -> tio.Subject:
    if label.ndim == 2:
        image, label = image[..., None], label[..., None]
    return tio.Subject(
        image=tio.ScalarImage(tensor=torch.from_numpy(image.copy())),
        label=tio.LabelMap(tensor=torch.from_numpy(label[None].copy())),
    )


def time_transforms(entries: dict, patch_size: tuple[int, ...], channels: int, labels: int, count: int) -> dict:
    """Median CPU seconds of each transform when it is drawn, for every channel."""
    enlarged = enlarged_patch_size(patch_size, default_degrees(patch_size))
    medians = {}
    for name, entry in entries.items():
        certain = {key: value for key, value in ALWAYS.items() if key in entry}
        if name == "rotation_scaling":
            certain = {"rotation_p": 1.0, "scaling_p": 1.0}
        transform = build({**entry, **certain}, patch_size)
        image, label = make_sample(enlarged if hasattr(transform, "input_size") else patch_size, channels, labels)

        def call(
            seed: int, transform: tio.Transform = transform, image: np.ndarray = image, label: np.ndarray = label
        ) -> None:
            torch.manual_seed(seed)
            transform(make_subject(image, label))

        medians[name] = float(np.median(_cpu_seconds(call, count)))
    return medians


def time_samples(entries: dict, patch_size: tuple[int, ...], channels: int, labels: int, count: int) -> list[float]:
    """CPU seconds of whole samples: drawn, read from compressed arrays, augmented with nnU-Net's probabilities."""
    flat = (1,) * (3 - len(patch_size))
    enlarged = enlarged_patch_size(patch_size, default_degrees(patch_size))
    shape = flat + tuple(n + 16 for n in enlarged)  # a block in the middle of larger arrays is read
    image, label = make_sample(shape, channels, labels)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {}
        for name, array in (("data", image), ("label", label)):
            path = str(Path(folder) / f"{name}.b2nd")
            chunks, blocks = storage_shapes(array.shape[-3:], patch_size, array.itemsize)
            lead = (1,) * (array.ndim - 3)
            blosc2.asarray(array, chunks=(*lead, *chunks), blocks=(*lead, *blocks), urlpath=path)
            arrays[name] = blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
        locations = {k: np.argwhere(label == k)[:10000] for k in range(1, labels)}
        case = SimpleNamespace(**arrays, class_locations=locations, annotated_locations=(), previous=None)
        configuration = SimpleNamespace(
            patch_size=patch_size, batch_size=9, spacing=(1.0,) * 3, spatial_dims=len(patch_size),
            use_mask_for_norm=(False,) * channels,
        )  # fmt: skip
        dataset = PatchDataset(
            cast(Store, SimpleNamespace(case=lambda identifier: case)),
            ["case"],
            configuration=cast(Configuration, configuration),
            transforms=[build(entry, patch_size) for entry in entries.values()],
        )
        return _cpu_seconds(dataset.__getitem__, count)


def run_peer(
    mode: str, python: str, name: str, patch_size: tuple[int, ...], channels: int, labels: int, count: int
) -> list:
    """What nnU-Net's own augmentation gives for each of `count` patches, in a process of its own; without reading."""
    degrees = default_degrees(patch_size)
    setting = {
        "patch_size": patch_size, "input_size": enlarged_patch_size(patch_size, degrees), "channels": channels,
        "labels": labels, "degrees": degrees, "in_plane": is_anisotropic(patch_size),
    }  # fmt: skip
    command = [python, str(Path(__file__).with_name("batches_peer.py")), mode, str(count)]
    result = subprocess.run(command, input=json.dumps({name: setting}), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])[name]


def write_report(result: dict) -> None:
    """The numbers as JSON, a table in Markdown and a bar chart."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "batches.json").write_text(json.dumps(result, indent=1) + "\n")
    chains = list(next(iter(result["settings"].values()))["samples"])
    lines = [
        "# Cost of a training patch", "",
        f"CPU milliseconds on one core of {result['machine']}, {result['versions']}; mean over {result['patches']} "
        "patches (95th percentile). Ours includes drawing and reading from the compressed store, nnU-Net's is its "
        "augmentation alone; the draws differ, so that a tenth either way says little. Within the budget 15 workers "
        "make 33 batches of 9 hippocampus patches or 6 batches of 2 CT patches a second.", "",
        f"Made by `{result['command']}`.", "",
        "| setting | patch | " + " | ".join(chains) + " | budget |",
        "|---" * (len(chains) + 3) + "|",
    ]  # fmt: skip
    for name, entry in result["settings"].items():
        cells = [f"{1e3 * np.mean(s):.0f} ({1e3 * np.percentile(s, 95):.0f})" for s in entry["samples"].values()]
        budget = f"< {1e3 * entry['budget']:.0f}" if entry["budget"] else ""
        size = " x ".join(map(str, [entry["channels"], *entry["patch_size"]]))
        lines.append(f"| {name} | {size} | {' | '.join(cells)} | {budget} |")
    for rule in ("21", "28"):
        names = list(next(iter(result["settings"].values()))["transforms"][rule])
        lines += ["", f"Each transform of nnunet_{rule} when it is drawn, for every channel (median, ms):", ""]
        lines += ["| setting | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for name, entry in result["settings"].items():
            medians = " | ".join(f"{1e3 * seconds:.1f}" for seconds in entry["transforms"][rule].values())
            lines.append(f"| {name} | {medians} |")
    (OUT / "batches.md").write_text("\n".join(lines) + "\n")
    figure, axis = plt.subplots(figsize=(9, 4), constrained_layout=True)
    width = 0.8 / len(chains)
    for i, chain in enumerate(chains):
        means = [1e3 * np.mean(entry["samples"][chain]) for entry in result["settings"].values()]
        bars = axis.bar(np.arange(len(means)) + i * width, means, width, label=chain, color=network_colour(i))
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
    axis.set_xticks(np.arange(len(result["settings"])) + 0.4 - width / 2, list(result["settings"]))
    axis.set(yscale="log", ylabel="processor time of a patch, ms (logarithmic)")
    axis.set_title("Drawing, reading and augmenting a training patch on one core; less is better", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(title="rule of augmentation", frameon=False)
    figure.savefig(OUT / "batches.png", dpi=120)


def main() -> None:
    """Run all settings and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=40, help="patches per setting")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="an nnU-Net to compare with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    rules, count = load_rules(), arguments.patches
    settings = {}
    for name, (patch_size, channels, labels, budget) in SETTINGS.items():
        samples = {f"ours, {rule[0]}.{rule[1]}": time_samples(rules[rule], patch_size, channels, labels, count)
                   for rule in rules}  # fmt: skip
        for peer, python in peers.items():
            samples[peer] = run_peer("time", python, name, patch_size, channels, labels, count)
        transforms = {rule: time_transforms(rules[rule], patch_size, channels, labels, 7) for rule in rules}
        settings[name] = {
            "patch_size": patch_size, "channels": channels, "labels": labels, "budget": budget,
            "samples": samples, "transforms": transforms,
        }  # fmt: skip
    write_report(
        {
            "machine": processor(),
            "versions": f"Python {platform.python_version()}, torch {torch.__version__}, torchio {tio.__version__}",
            "command": "python benchmarks/batches.py" + "".join(f' --peer "{peer}=..."' for peer in peers),
            "patches": count,
            "settings": settings,
        }
    )


if __name__ == "__main__":
    main()
