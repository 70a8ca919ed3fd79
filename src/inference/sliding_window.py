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
    window_batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Logits of a whole preprocessed case.

    Sums and weights are float32 whatever their size: the weights at a patch's corners (4e-11) vanish in float16.

    Args:
        network: (B, C, *patch) float32 on ``device`` -> logits (B, K, *patch); see `ensemble`.
        image: (C, Z, Y, X) float32. A two-dimensional patch is moved over every slice along Z.
        patch_size: (z, y, x) or (y, x), voxels.
        num_classes: K.
        device: where the network runs. Accumulation happens there if it fits, else in main memory.
        step: largest distance between windows, as a share of the patch.
        window_batch: windows per forward pass.
        progress: called with (windows done, windows in all).

    Returns:
        (K, Z, Y, X) float32, on the CPU or ``device``.

    Raises:
        FloatingPointError: a logit is NaN or infinite; the message says in which window and voxel.
    """
    device = torch.device(device)
    patch_size = tuple(patch_size)
    needed = accumulator_bytes(image.shape[1:], patch_size, num_classes)
    image, inner = pad_to_patch(image, patch_size)
    windows = list(_windows(image.shape[1:], patch_size, step))
    store = _accumulation_device(device, needed + 4 * image.numel())
    image = image.to(store)
    weights = gaussian_weights(patch_size).to(store)
    logits = torch.zeros((num_classes, *image.shape[1:]), device=store)
    weight_sum = torch.zeros(image.shape[1:], device=store)
    finite = torch.ones(len(windows), dtype=torch.bool, device=store)  # looked at once, for every look stops the GPU
    for start in range(0, len(windows), window_batch):
        batch = windows[start : start + window_batch]
        patches = torch.stack([image[(slice(None), *window)] for window in batch]).to(device)
        for number, output in enumerate(network(patches).float().to(store), start):
            window = windows[number]
            finite[number] = output.isfinite().all()
            logits[(slice(None), *window)] += output * weights
            weight_sum[window] += weights
        if progress is not None:
            progress(min(start + window_batch, len(windows)), len(windows))
    if not finite.all():
        window = windows[int((~finite).nonzero()[0])]
        raise FloatingPointError(_where_not_finite(image, logits, window, inner, int((~finite).sum()), len(windows)))
    logits /= weight_sum
    crop = (slice(None),) * (logits.ndim - len(inner)) + inner
    return logits[crop]


def ensemble(networks: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Mean of the logits of several networks, patch by patch: no case's logits are held twice."""
    if len(networks) == 1:
        return networks[0]

    def forward(patches: Tensor) -> Tensor:
        total = networks[0](patches).float()
        for network in networks[1:]:
            total = total + network(patches).float()
        return total / len(networks)

    return forward


def mirrored(network: Callable[[Tensor], Tensor], axes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Mean of a network's logits over all flips of some axes of the patch (test-time augmentation; off in the paper).

    Args:
        network: (B, C, *patch) -> (B, K, *patch).
        axes: Of the patch, 0 for its first.
    """
    spatial = [axis + 2 for axis in axes]
    flips = [flipped for n in range(len(spatial) + 1) for flipped in itertools.combinations(spatial, n)]

    def forward(patches: Tensor) -> Tensor:
        total = network(patches).float()
        for flipped in flips[1:]:
            total = total + network(patches.flip(flipped)).flip(flipped).float()
        return total / len(flips)

    return forward


def accumulator_bytes(shape: Sequence[int], patch_size: Sequence[int], num_classes: int) -> int:
    """Bytes of the sums of logits and of weights for an image of this shape (Z, Y, X), padded to the patch."""
    lead = len(shape) - len(patch_size)
    padded = [*shape[:lead], *map(max, shape[lead:], patch_size)]
    return 4 * (num_classes + 1) * math.prod(padded)


def _windows(shape: Sequence[int], patch_size: tuple[int, ...], step: float) -> Iterator[tuple[int | slice, ...]]:
    """Index tuples into (Z, Y, X); with a two-dimensional patch the first entry is the slice number."""
    axes: list[Sequence[int | slice]] = [
        [slice(start, start + patch) for start in window_starts(size, patch, step)]
        for size, patch in zip(shape[-len(patch_size) :], patch_size, strict=True)
    ]
    if len(patch_size) == 2:
        axes.insert(0, range(shape[0]))
    return itertools.product(*axes)


def _where_not_finite(
    image: Tensor, logits: Tensor, window: tuple[int | slice, ...], inner: tuple[slice, ...], bad: int, windows: int
) -> str:
    """The message about the first window with a logit that is not finite; voxels in the image before it was padded."""
    region = logits[(slice(None), *window)]
    k, *voxel = (int(index) for index in (~region.isfinite()).nonzero()[0])
    starts = [part.start if isinstance(part, slice) else part for part in window]
    if len(voxel) < len(starts):
        voxel.insert(0, 0)
    offsets = [0] * (len(starts) - len(inner)) + [part.start for part in inner]
    start = tuple(s - o for s, o in zip(starts, offsets, strict=True))
    place = tuple(s + v for s, v in zip(start, voxel, strict=True))
    kind = "holds only finite values" if image[(slice(None), *window)].isfinite().all() else "is itself not finite"
    return (
        f"the network's logits are NaN or infinite in {bad} of {windows} window(s), first in the one at {start}, for "
        f"class {k} at voxel {place} (z, y, x of the preprocessed image, whose part there {kind}). Look at the image's "
        "values there, or predict in float32 if the network was trained in half precision"
    )


def _accumulation_device(device: torch.device, needed_bytes: int) -> torch.device:
    """``device`` if the accumulators fit into half of its free memory, else the CPU."""
    if device.type != "cuda" or needed_bytes < torch.cuda.mem_get_info(device)[0] / 2:
        return device
    log.info("Accumulating %.1f GiB of logits in main memory: they do not fit on %s.", needed_bytes / 2**30, device)
    return torch.device("cpu")
