"""From logits on the preprocessed grid to classes on the image's own, a few planes at a time.

nnU-Net resamples the logits of every class to the original grid, linearly (across thick slices by the nearest one), and
takes the largest. The same label map needs far less: a linear interpolation lies between its corners, so where the
largest class is the same at all corners of a voxel it is the largest there too. Only voxels between two classes are
interpolated, and nothing of the size (classes, original grid) is ever held.

Of regions, a voxel gets the value of the last one whose probability (sigmoid) is above 0.5: whose logit is above 0. If
that is the same one at all corners, its logit is above 0 at the voxel and those of the regions after it are not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from umamba.inference.decision import Decision
from umamba.planning.configuration import Configuration
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties, spacing_of, target_of
from umamba.planning.resampling import Neighbours, separate_axis

_VOXELS_AT_ONCE = 1 << 21  # of the original grid
_BACKGROUND = {"probabilities": 1, "logits": 0}  # of what is kept, outside the cropped part
_OTHERS = {"probabilities": 0, "logits": np.finfo(np.float16).min}  # there, of the other classes, and of all regions
_VALUES_AT_ONCE = 1 << 22  # interpolated logits, 16 MiB


@dataclass(frozen=True)
class Taps:
    """Along one axis, the source voxels of each target voxel and their weights: two, or the nearest one.

    Attributes:
        indices: One or two (size_out,) int64.
        weights: Their float32 weights.
        identity: Whether every voxel stays what it is.
    """

    indices: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    identity: bool = False

    @classmethod
    def of(cls, size_in: int, size_out: int, *, nearest: bool, device: torch.device) -> Self:
        """Taps by nnU-Net's coordinates, in float64 until the weights are rounded."""
        found = Neighbours.of(size_in, size_out)
        same = size_in == size_out
        if nearest or same:
            indices, weights = [found.nearest], [np.ones(size_out)]
        else:
            indices, weights = [found.lower, found.upper], [1 - found.weight, found.weight]
        return cls(
            tuple(torch.from_numpy(index.astype(np.int64)).to(device) for index in indices),
            tuple(torch.from_numpy(weight.astype(np.float32)).to(device) for weight in weights),
            same,
        )

    def part(self, start: int, stop: int, first: int) -> Taps:
        """Taps of the target voxels [start, stop) alone, when the source begins with its voxel `first`."""
        return Taps(
            tuple(index[start:stop] - first for index in self.indices), tuple(w[start:stop] for w in self.weights)
        )


class Export:
    """Takes the logits of a case plane by plane and makes its label map, and what else is to be kept.

    Args:
        properties: Of the case, as preprocessing returned them.
        plan: The plan of the preprocessing.
        configuration: The configuration of the preprocessing.
        device: Where the logits will be.
        keep: "probabilities" (softmax, of regions sigmoid), "logits", both or neither.
        labels: Names of the classes of the label map, the others become background; of regions, those that are written
            as if there were no others. None for all.

    Attributes:
        geometry: Of the original image.
        label: (Z, Y, X) of the original image, uint8, or int16 where there is a value above 255; 0 outside the cropped
            part.
        kept: What was to be kept by name, (K, Z, Y, X) float16; surely background outside the cropped part.
    """

    def __init__(
        self,
        properties: CaseProperties,
        plan: Plan,
        configuration: Configuration,
        *,
        device: torch.device | str = "cpu",
        keep: Sequence[str] = (),
        labels: Collection[str] | None = None,
    ) -> None:
        spacing = spacing_of(properties.geometry, plan)
        separate = separate_axis(target_of(configuration, spacing), spacing)
        shape = properties.shape_after_crop
        if tuple(shape) == tuple(properties.shape):
            separate = None
        self.geometry = properties.geometry
        self.axes = [
            Taps.of(*sizes, nearest=axis == separate, device=torch.device(device))
            for axis, sizes in enumerate(zip(properties.shape, shape, strict=True))
        ]
        self.source_shape, self.shape = tuple(properties.shape), tuple(shape)
        self._lowest, self._highest = (self.axes[0].indices[i].cpu().numpy() for i in (0, -1))
        self._box = tuple(slice(start, stop) for start, stop in properties.box)
        self._order = plan.transpose_forward
        original = [properties.shape_before_crop[axis] for axis in plan.transpose_backward]
        self._decision = Decision.of(plan, labels)
        self.label = np.zeros(original, dtype=self._decision.values.dtype)
        self.kept = {name: np.full((plan.num_classes, *original), _OTHERS[name], dtype=np.float16) for name in keep}
        self._activation = torch.sigmoid if plan.regions else partial(torch.softmax, dim=0)
        if not plan.regions:
            for name, values in self.kept.items():
                values[0] = _BACKGROUND[name]
        self._held: Tensor | None = None  # planes that the next voxels may need
        self._first = 0  # of the planes that are held, or come next
        self._done = 0  # target planes

    @property
    def nbytes(self) -> int:
        """Bytes of the label map and of what is kept."""
        return self.label.nbytes + sum(values.nbytes for values in self.kept.values())

    @torch.inference_mode()
    def add(self, logits: Tensor) -> None:
        """Take the next planes, (K, n, Y, X) float32, and write what they decide."""
        expected = (self.source_shape[0] - self._first - self._held_planes, *self.source_shape[1:])
        if tuple(logits.shape[2:]) != expected[1:] or logits.shape[1] > expected[0]:
            raise ValueError(
                f"Logits have shape {tuple(logits.shape)}; the preprocessed case is {self.source_shape}, so expected "
                f"(K, up to {expected[0]}, {expected[1]}, {expected[2]})."
            )
        if self._held is not None:
            logits = torch.cat([self._held, logits], 1)
        stop = self._first + logits.shape[1]
        ready = int(np.searchsorted(self._highest, stop))
        at_once = max(1, _VOXELS_AT_ONCE // math.prod(self.shape[1:]))
        for start in range(self._done, ready, at_once):
            self._write(logits, start, min(start + at_once, ready))
        self._done = ready
        needed = int(self._lowest[ready]) if ready < len(self._lowest) else stop
        self._held = logits[:, needed - self._first :].clone() if needed < stop else None
        self._first = min(needed, stop)

    @property
    def _held_planes(self) -> int:
        return 0 if self._held is None else self._held.shape[1]

    def _write(self, logits: Tensor, start: int, stop: int) -> None:
        """Target planes [start, stop), of which `logits` hold all that they need."""
        axes = [self.axes[0].part(start, stop, self._first), *self.axes[1:]]
        begin = self._box[0].start
        place = (slice(begin + start, begin + stop), *self._box[1:])
        index = picked(self._decision.among(logits), axes, self._decision.pick)
        self.label.transpose(self._order)[place] = self._decision.label_of(index.cpu().numpy())
        if not self.kept:
            return
        for plane in range(stop - start):
            values = interpolated(logits, [axes[0].part(plane, plane + 1, 0), *axes[1:]])
            one = (slice(None), slice(begin + start + plane, begin + start + plane + 1), *self._box[1:])
            for name, kept in self.kept.items():
                given = self._activation(values) if name == "probabilities" else values
                kept.transpose(0, *(axis + 1 for axis in self._order))[one] = given.half().cpu().numpy()


def picked(logits: Tensor, axes: Sequence[Taps], pick: Callable[[Tensor], Tensor]) -> Tensor:
    """What is picked of the interpolated logits, per target voxel.

    Args:
        logits: (K, Z, Y, X) float32.
        axes: Of the target voxels, in the order of the logits' axes.
        pick: See `Decision`; where it picks the same at all corners of a voxel, it does there too.

    Returns:
        (Z', Y', X') of the type that `pick` gives.
    """
    low = high = pick(logits)
    for i, axis in enumerate(axes):
        if axis.identity:
            continue
        parts = [(low.index_select(i, index), high.index_select(i, index)) for index in axis.indices]
        low, high = parts[0]
        for other_low, other_high in parts[1:]:
            low, high = torch.minimum(low, other_low), torch.maximum(high, other_high)
    if all(len(axis.indices) == 1 for axis in axes):
        return low
    label = low.reshape(-1)
    undecided = (low != high).reshape(-1).nonzero()[:, 0]
    if not len(undecided):
        return low
    height, width = low.shape[1:]
    rows = _rows(logits)
    for voxels in undecided.split(max(1, _VALUES_AT_ONCE // len(logits))):
        where = (voxels // (height * width), voxels // width % height, voxels % width)
        values = _interpolate(rows, logits.shape[2:], axes, where)
        label[voxels] = pick(values.T.contiguous()).to(label.dtype)
    return label.view(low.shape)


def interpolated(logits: Tensor, axes: Sequence[Taps]) -> Tensor:
    """All interpolated logits of the target voxels, (K, Z', Y', X') float32; arguments as of `picked`."""
    sizes = [len(axis.indices[0]) for axis in axes]
    grid = torch.meshgrid(*(torch.arange(size, device=logits.device) for size in sizes), indexing="ij")
    values = _interpolate(_rows(logits), logits.shape[2:], axes, [at.reshape(-1) for at in grid])
    return values.T.reshape(len(logits), *sizes)


def _rows(logits: Tensor) -> Tensor:
    """(K, Z, Y, X) -> (voxels, K): the logits of a voxel lie together, so that they are fetched together."""
    return logits.reshape(len(logits), -1).T.contiguous()


def _interpolate(rows: Tensor, in_plane: Sequence[int], axes: Sequence[Taps], where: Sequence[Tensor]) -> Tensor:
    """Logits (n, K) of the target voxels whose three coordinates are `where`, (n,) each."""
    height, width = in_plane
    total = rows.new_zeros((len(where[0]), rows.shape[1]))
    for corner in itertools.product(*(range(len(axis.indices)) for axis in axes)):
        z, y, x = (axis.indices[tap][at] for axis, tap, at in zip(axes, corner, where, strict=True))
        wz, wy, wx = (axis.weights[tap][at] for axis, tap, at in zip(axes, corner, where, strict=True))
        total.addcmul_(rows.index_select(0, (z * height + y) * width + x), (wz * wy * wx)[:, None])
    return total
