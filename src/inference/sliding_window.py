"""Sliding-window inference as nnU-Net does it: half-overlapping patches, Gaussian weights, optional mirroring.

Source: nnU-Net (Isensee et al. 2021), "inference"; U-Mamba runs it without mirroring.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

log = logging.getLogger(__name__)

SIGMA_SCALE = 1 / 8  # Gaussian sigma in units of the patch edge
HALF_PRECISION_BYTES = 4 * 2**30  # logits of a case larger than this are accumulated in float16, as nnU-Net always does


def window_starts(size: int, patch: int, step: float = 0.5) -> list[int]:
    """Start indices of the windows along one axis: evenly spaced, at most ``step * patch`` apart, covering it all.

    Raises:
        ValueError: the axis is shorter than the patch (pad first), or ``step`` is outside (0, 1].
    """
    if size < patch:
        raise ValueError(f"An axis of {size} voxels is shorter than the patch's {patch}; pad the image first.")
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], got {step}.")
    num = math.ceil((size - patch) / (step * patch)) + 1
    spacing = (size - patch) / (num - 1) if num > 1 else 0.0
    return [round(spacing * i) for i in range(num)]


@lru_cache(maxsize=4)
def gaussian_weights(patch_size: tuple[int, ...]) -> Tensor:
    """(*patch) float32 weights, 1 at the centre, sigma = patch / 8, never 0."""
    impulse = np.zeros(patch_size)
    impulse[tuple(size // 2 for size in patch_size)] = 1
    weights = gaussian_filter(impulse, [size * SIGMA_SCALE for size in patch_size], mode="constant")
    weights /= weights.max()
    weights[weights == 0] = weights[weights > 0].min()
    return torch.from_numpy(weights.astype(np.float32))


def pad_to_patch(image: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Zero-pad the last axes symmetrically to at least the patch; also returns the slices that cut it off again."""
    padding: list[int] = []
    inner: list[slice] = []
    for size, patch in zip(image.shape[-len(patch_size) :], patch_size, strict=True):
        missing = max(0, patch - size)
        before = missing // 2
        padding = [before, missing - before, *padding]  # F.pad counts from the last axis
        inner.append(slice(before, before + size))
    return (F.pad(image, padding) if any(padding) else image), tuple(inner)


def predict_sliding_window(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    *,
    device: torch.device | str = "cpu",
    step: float = 0.5,
    mirror: bool = False,
    window_batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Logits of a whole preprocessed case.

    Args:
        network: (B, C, *patch) float32 on ``device`` -> logits (B, K, *patch).
        image: (C, Z, Y, X) float32. A two-dimensional patch is moved over every slice along Z.
        patch_size: (z, y, x) or (y, x), voxels.
        num_classes: K.
        device: where the network runs. Accumulation happens there if it fits, else in main memory.
        step: largest distance between windows, as a share of the patch.
        mirror: average over all flips of the spatial axes (test-time augmentation; off in the paper).
        window_batch: windows per forward pass.
        progress: called with (windows done, windows in all).

    Returns:
        (K, Z, Y, X) float32 (float16 above 4 GiB), on the CPU or ``device``.
    """
    device = torch.device(device)
    patch_size = tuple(patch_size)
    image, inner = pad_to_patch(image, patch_size)
    windows = list(_windows(image.shape[1:], patch_size, step))
    weights = gaussian_weights(patch_size)

    num_values = num_classes * math.prod(image.shape[1:])
    dtype = torch.float16 if 4 * num_values > HALF_PRECISION_BYTES else torch.float32
    store = _accumulation_device(device, num_values * dtype.itemsize + 8 * image.numel())
    image = image.to(store)
    weights = weights.to(store)
    logits = torch.zeros((num_classes, *image.shape[1:]), dtype=dtype, device=store)
    weight_sum = torch.zeros(image.shape[1:], dtype=torch.float32, device=store)
    for start in range(0, len(windows), window_batch):
        batch = windows[start : start + window_batch]
        patches = torch.stack([image[(slice(None), *window)] for window in batch]).to(device)
        for window, output in zip(batch, _forward(network, patches, mirror).to(store), strict=True):
            logits[(slice(None), *window)] += (output.float() * weights).to(dtype)
            weight_sum[window] += weights
        if progress is not None:
            progress(min(start + window_batch, len(windows)), len(windows))
    logits /= weight_sum.to(dtype)
    crop = (slice(None),) * (logits.ndim - len(inner)) + inner
    return logits[crop]


def _windows(shape: Sequence[int], patch_size: tuple[int, ...], step: float) -> Iterator[tuple[int | slice, ...]]:
    """Index tuples into (Z, Y, X); with a two-dimensional patch the first entry is the slice number."""
    axes = [
        [slice(start, start + patch) for start in window_starts(size, patch, step)]
        for size, patch in zip(shape[-len(patch_size) :], patch_size, strict=True)
    ]
    if len(patch_size) == 2:
        axes.insert(0, list(range(shape[0])))
    return itertools.product(*axes)


def _forward(network: Callable[[Tensor], Tensor], patches: Tensor, mirror: bool) -> Tensor:
    """(B, K, *patch) logits, averaged over all flips of the spatial axes where ``mirror``."""
    spatial = range(2, patches.ndim)
    flips = [axes for n in range(len(spatial) + 1) for axes in itertools.combinations(spatial, n)] if mirror else [()]
    total = network(patches.flip(flips[0]) if flips[0] else patches).float()
    for axes in flips[1:]:
        total += network(patches.flip(axes)).flip(axes).float()
    return total / len(flips)


def _accumulation_device(device: torch.device, needed_bytes: int) -> torch.device:
    """``device`` if the accumulators fit into half of its free memory, else the CPU."""
    if device.type != "cuda" or needed_bytes < torch.cuda.mem_get_info(device)[0] / 2:
        return device
    log.info("Accumulating %.1f GiB of logits in main memory: they do not fit on %s.", needed_bytes / 2**30, device)
    return torch.device("cpu")
