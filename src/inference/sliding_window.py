"""Sliding-window inference as nnU-Net does it: half-overlapping patches, Gaussian weights, optional mirroring.

Windows go row by row along the first axis, and a plane that no later row reaches is finished: only as many planes of
sums are held as a patch has, whatever the size of the case, and no case's logits are ever held at once.

Source: nnU-Net (Isensee et al. 2021), "inference"; U-Mamba runs it without mirroring.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from umamba.typed import has_type

STEP = 0.5  # largest distance between windows, as a share of the patch
SIGMA_SCALE = 1 / 8  # Gaussian sigma in units of the patch edge
_GIVEN_AT_ONCE = 1 << 27  # bytes of finished logits, or one plane

Window = tuple[int | slice, ...]


def window_starts(size: int, patch: int, step: float = STEP) -> list[int]:
    """Start indices of the windows along one axis: evenly spaced, at most ``step * patch`` apart, covering it all.

    Args:
        size: Voxels of the axis.
        patch: Voxels of a window.
        step: Largest distance of two windows, as a share of the patch.

    Returns:
        Ascending, from 0 to ``size - patch``.

    Raises:
        ValueError: the axis is shorter than the patch (pad first), or ``step`` is outside (0, 1].
    """
    if size < patch:
        raise ValueError(f"An axis of {size} voxels is shorter than the patch's {patch}; pad the image first.")
    check_step(step)
    num = math.ceil((size - patch) / (step * patch)) + 1
    spacing = (size - patch) / (num - 1) if num > 1 else 0.0
    return [round(spacing * i) for i in range(num)]


def check_step(step: float) -> None:
    """See that windows overlap or touch (else ValueError)."""
    if not has_type(step, float) or not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], a share of the patch, got {step!r}.")


@lru_cache(maxsize=4)
def gaussian_weights(patch_size: tuple[int, ...]) -> Tensor:
    """What a window's logits count at each of its voxels, as in nnU-Net: a Gaussian of sigma = patch / 8.

    Args:
        patch_size: Voxels of a window along each axis.

    Returns:
        (*patch_size) float32, 1 at the centre, above 0 everywhere.
    """
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


@torch.inference_mode()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    *,
    device: torch.device | str = "cpu",
    step: float = STEP,
    window_batch: int = 1,
) -> Iterator[Tensor]:
    """Logits of a whole preprocessed case, a few planes of its first axis at a time.

    Sums and weights are float32 whatever their size: the weights at a patch's corners (4e-11) vanish in float16.

    Args:
        network: (B, C, *patch) float32 on ``device`` -> logits (B, K, *patch); see `ensemble`.
        image: (C, Z, Y, X) float32. A two-dimensional patch is moved over every slice along Z. The sums are held where
            the image is.
        patch_size: (z, y, x) or (y, x), voxels.
        num_classes: K.
        device: where the network runs.
        step: largest distance between windows, as a share of the patch.
        window_batch: windows per forward pass.

    Yields:
        (K, n, Y, X) float32 where the image is: the next n finished planes, a tensor of its own.

    Raises:
        FloatingPointError: a logit is NaN or infinite; the message says where.
    """
    patch_size = tuple(patch_size)
    image, inner = pad_to_patch(image, patch_size)
    inner = (slice(0, image.shape[1]), *inner)[-3:]
    rows = list(_rows(image.shape[1:], patch_size, step, window_batch))
    weights = gaussian_weights(patch_size).to(image.device)
    weights = weights.view(-1, *weights.shape[-2:])  # (z or 1, y, x)
    depth = _depth(image.shape[1:], patch_size, step, window_batch)
    sums = torch.empty(0)  # of plane z at z % depth; made when the layout of the maps is known
    weight_sums = torch.zeros((depth, *image.shape[2:]), device=image.device)
    at_once = max(1, _GIVEN_AT_ONCE // (4 * num_classes * math.prod(image.shape[2:])))
    given = 0
    for windows, finished in rows:
        for start in range(0, len(windows), window_batch):
            batch = windows[start : start + window_batch]
            patches = torch.stack([image[(slice(None), *window)] for window in batch])
            outputs = network(patches.to(device)).to(image.device)
            if not sums.numel():
                sums = _zeros_like_maps(outputs, (num_classes, depth, *image.shape[2:]))
            for (first, *in_plane), output in zip(batch, outputs, strict=True):
                planes = output if len(patch_size) == 3 else output[:, None]  # (K, z or 1, y, x)
                begin = first.start if isinstance(first, slice) else first
                for held, own in _in_ring(begin, len(weights), depth):
                    sums[(slice(None), held, *in_plane)].addcmul_(planes[:, own], weights[own])
                    weight_sums[(held, *in_plane)] += weights[own]
        last = min(finished, inner[0].stop)
        for start in range(max(given, inner[0].start), last, at_once):
            for held, own in _in_ring(start, min(at_once, last - start), depth):
                logits = (sums[:, held] / weight_sums[held])[:, :, inner[1], inner[2]]
                if not logits.isfinite().all():
                    where = _where_not_finite(image, logits, start + own.start, inner, patch_size)
                    raise FloatingPointError(where)
                yield logits
        for held, _ in _in_ring(given, finished - given, depth):
            sums[:, held], weight_sums[held] = 0, 0
        given = finished


def ensemble(networks: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Mean of the logits of several networks, patch by patch: no case's logits are held twice."""
    if len(networks) == 1:
        return networks[0]

    def forward(patches: Tensor) -> Tensor:
        total = networks[0](patches).to(torch.float32, copy=True)
        for network in networks[1:]:
            total += network(patches)
        return total.div_(len(networks))

    return forward


def mirrored(network: Callable[[Tensor], Tensor], axes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Mean of a network's logits over all flips of some axes of the patch (test-time augmentation; off in the paper).

    Args:
        network: (B, C, *patch) -> (B, K, *patch).
        axes: Of the patch, 0 for its first.
    """
    spatial = [axis + 2 for axis in axes]
    flips = [flipped for n in range(len(spatial) + 1) for flipped in itertools.combinations(spatial, n)]
    if len(flips) == 1:
        return network

    def forward(patches: Tensor) -> Tensor:
        total = network(patches).to(torch.float32, copy=True)
        for flipped in flips[1:]:
            total += network(patches.flip(flipped)).flip(flipped)
        return total.div_(len(flips))

    return forward


def sum_bytes(
    shape: Sequence[int], patch_size: Sequence[int], num_classes: int, step: float = STEP, window_batch: int = 1
) -> int:
    """Bytes of the sums of logits and of weights that `sliding_window` holds for an image of this shape (Z, Y, X)."""
    lead = len(shape) - len(patch_size)
    padded = [*shape[:lead], *map(max, shape[lead:], patch_size)]
    depth = _depth(padded, tuple(patch_size), step, window_batch)
    return 4 * (num_classes + 1) * depth * math.prod(padded[1:])


def _zeros_like_maps(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(K, Z, Y, X) float32 zeros in the layout of a network's maps: where their channels lie together, these do too."""
    if maps.stride(1) == 1 and maps.shape[1] > 1:
        return torch.zeros((*shape[1:], shape[0]), device=maps.device).movedim(-1, 0)
    return torch.zeros(shape, device=maps.device)


def _depth(shape: Sequence[int], patch_size: tuple[int, ...], step: float, window_batch: int) -> int:
    """Planes whose sums are held at a time: those of a patch, or the slices whose windows fill a batch."""
    if len(patch_size) == 3:
        return patch_size[0]
    per_slice = math.prod(len(window_starts(*sizes, step)) for sizes in zip(shape[1:], patch_size, strict=True))
    return min(shape[0], math.ceil(window_batch / per_slice))


def _rows(
    shape: Sequence[int], patch_size: tuple[int, ...], step: float, window_batch: int
) -> Iterator[tuple[list[Window], int]]:
    """Windows that share their planes, as index tuples into (Z, Y, X), and the first plane that later ones reach."""
    axes: list[Sequence[int | slice]] = [
        [slice(start, start + patch) for start in window_starts(size, patch, step)]
        for size, patch in zip(shape[-len(patch_size) :], patch_size, strict=True)
    ]
    if len(patch_size) == 2:
        depth = _depth(shape, patch_size, step, window_batch)
        for start in range(0, shape[0], depth):
            slices = range(start, min(start + depth, shape[0]))
            yield list(itertools.product(slices, *axes)), slices.stop
        return
    starts = [*window_starts(shape[0], patch_size[0], step)[1:], shape[0]]
    for planes, finished in zip(axes[0], starts, strict=True):
        yield list(itertools.product([planes], *axes[1:])), finished


def _in_ring(start: int, count: int, depth: int) -> Iterator[tuple[slice, slice]]:
    """Where the planes [start, start + count) lie in a ring of `depth` >= count planes, in one piece or two.

    Yields:
        Planes of the ring, and which of the `count` planes those are.
    """
    first = start % depth
    ahead = min(count, depth - first)
    if ahead:
        yield slice(first, first + ahead), slice(0, ahead)
    if count > ahead:
        yield slice(0, count - ahead), slice(ahead, count)


def _where_not_finite(
    image: Tensor, logits: Tensor, plane: int, inner: tuple[slice, ...], patch_size: tuple[int, ...]
) -> str:
    """The message about the first logit that is not finite; voxels in the image before it was padded."""
    k, z, *in_plane = (int(index) for index in (~logits.isfinite()).nonzero()[0])
    padded = (plane + z, *(index + part.start for index, part in zip(in_plane, inner[1:], strict=True)))
    voxel = tuple(index - part.start for index, part in zip(padded, inner, strict=True))
    reach = (1, *patch_size)[-3:]
    around = image[(slice(None), *(slice(max(0, i - n + 1), i + n) for i, n in zip(padded, reach, strict=True)))]
    kind = "holds only finite values" if around.isfinite().all() else "is itself not finite"
    return (
        f"the network's logits are NaN or infinite, first for class {k} at voxel {voxel} (z, y, x of the preprocessed "
        f"image, which {kind} within a patch of it). Look at the image's values there, or predict with "
        "precision=32-true if the network was trained in half precision"
    )
