"""Run nnU-Net's own training augmentation; by an interpreter that has nnunetv2 installed.

    python benchmarks/batches_peer.py time PATCHES < settings.json > seconds.json             # for batches.py
    python benchmarks/batches_peer.py describe PATCHES < settings.json > descriptions.json    # for augmentation.py

Also holds the test images and the description of a patch, so that both sides use the same ones; needs NumPy and SciPy
alone for that.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage as ndi


@functools.cache
def make_sample(
    input_size: tuple[int, ...], channels: int, labels: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image (C, *S) float32 and a map (*S) int16 of smooth blobs, about half of it background."""
    rng = np.random.default_rng(seed)
    fields = [ndi.gaussian_filter(rng.normal(size=input_size), 6) for _ in range(labels)]
    fields[0] += 1.5 * np.std(fields[0])
    label = np.argmax(fields, axis=0).astype(np.int16)
    image = rng.normal(size=(channels, *input_size)) * 0.3 + label / labels
    return image.astype(np.float32), label


def _chain(patch_size: list[int], degrees: float, in_plane: bool) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    """nnU-Net's transforms for the patch, and how a sample is put into them."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    limit = degrees / 180 * np.pi
    axes = tuple(range(len(patch_size)))
    try:
        import batchgeneratorsv2  # noqa: F401  (nnU-Net 2.5 and later)
    except ImportError:
        turn, still = (-limit, limit), (0, 0)
        rotation = {"x": turn, "y": still if in_plane or len(axes) == 2 else turn, "z": still if in_plane else turn}
        chain = nnUNetTrainer.get_training_transforms(patch_size, rotation, None, axes, in_plane)
        return lambda image, label: chain(data=image[None].copy(), seg=label[None, None].astype(np.float32))
    import torch

    chain = nnUNetTrainer.get_training_transforms(patch_size, (-limit, limit), None, axes, in_plane)
    return lambda image, label: chain(
        image=torch.from_numpy(image.copy()), segmentation=torch.from_numpy(label[None].copy())
    )


def describe(image: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Numbers that each transform moves in its own way: grey values, roughness per axis, shares of the labels.

    Args:
        image: (C, *S).
        label: (*S); -1 and 0 are background.
    """
    grey = {"mean": image.mean(), "std": image.std(), "min": image.min(), "max": image.max()}
    rough = {f"roughness {a}": np.square(np.diff(image, axis=a + 1)).mean() for a in range(label.ndim)}
    share = {f"share of label {k}": (label == k).mean() for k in (1, 2)}
    # Untouched patches are equal but for rounding, which must not pass for a difference.
    return {name: round(float(value), 4) for name, value in {**grey, **rough, **share}.items()}


def _as_patch(result: dict) -> tuple[np.ndarray, np.ndarray]:
    """(C, *S) and (*S) of what either version of nnU-Net returns."""
    if "image" in result:
        return np.asarray(result["image"]), np.asarray(result["segmentation"])[0]
    return np.asarray(result["data"])[0], np.asarray(result["target"])[0, 0]


def main() -> None:
    """Do every setting; writes CPU seconds, or a description, per patch."""
    mode, count = sys.argv[1], int(sys.argv[2])
    results: dict[str, list[Any]] = {}
    for name, setting in json.load(sys.stdin).items():
        image, label = make_sample(tuple(setting["input_size"]), setting["channels"], setting["labels"])
        chain = _chain(setting["patch_size"], setting["degrees"], setting["in_plane"])
        np.random.seed(0)
        chain(image, label)
        results[name] = []
        for _ in range(count):
            start = time.process_time()
            patch = chain(image, label)
            seconds = time.process_time() - start
            results[name].append(seconds if mode == "time" else describe(*_as_patch(patch)))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
