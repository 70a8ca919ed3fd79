"""Which label a voxel gets from its logits: the largest class, or of regions that of the last one it lies in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from umamba.planning.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Decision:
    """From logits to label values.

    Attributes:
        pick: Logits (K, ...) float32 -> (...) uint8, or int16 from 256 outputs on: index into `values`.
        values: Label value of each index, uint8, or int16 where there is one above 255.
        outputs: Of the network, those that count; None for all.
    """

    pick: Callable[[Tensor], Tensor]
    values: np.ndarray
    outputs: tuple[int, ...] | None = None

    @classmethod
    def of(cls, plan: Plan, names: Collection[str] | None = None) -> Self:
        """The decision of a plan's classes or regions.

        Args:
            plan: Says what the outputs are.
            names: Of the classes to tell apart, all others become background; of the regions to look at, as if there
                were no others. None for all.
        """
        if plan.regions:
            chosen = [i for i, region in enumerate(plan.regions) if names is None or region.name in names]
            written = _values([0, *(plan.regions[i].written for i in chosen)])
            return cls(pick=last_above_zero, values=written, outputs=None if names is None else tuple(chosen))
        return cls(pick=largest, values=values_left(plan, plan.labels if names is None else names))

    def among(self, logits: Tensor) -> Tensor:
        """The logits that count."""
        return logits if self.outputs is None else logits[list(self.outputs)]

    def label_of(self, index: np.ndarray) -> np.ndarray:
        """The label values of what was picked."""
        return index if np.array_equal(self.values, np.arange(len(self.values))) else self.values[index]


def values_left(plan: Plan, names: Collection[str]) -> np.ndarray:
    """What becomes of each value of a label map that shall have some classes or regions alone, as in `Decision.of`."""
    if not plan.regions:
        kept = {plan.labels[name] for name in names}
        return _values([value if value in kept else 0 for value in range(plan.num_classes)])
    left = [0] * (1 + max(value for region in plan.regions for value in region.labels))
    for region in plan.regions:
        for value in region.labels if region.name in names else ():
            left[value] = region.written
    return _values(left)


def largest(logits: Tensor) -> Tensor:
    """The first of the largest, (K, ...) -> (...)."""
    dtype = _index_type(logits)
    if logits.device.type != "cpu":
        return logits.argmax(0).to(dtype)
    # torch's own takes some twenty times as long on a CPU.
    best, label = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=dtype)
    for k, values in enumerate(logits[1:], 1):
        torch.maximum(label, (values > best).to(dtype).mul_(k), out=label)
        torch.maximum(best, values, out=best)
    return label


def last_above_zero(logits: Tensor) -> Tensor:
    """The number, from 1 on, of the last output above 0; 0 where none is. (K, ...) -> (...)."""
    last = torch.zeros(logits.shape[1:], dtype=_index_type(logits), device=logits.device)
    for number, values in enumerate(logits, 1):
        last.masked_fill_(values > 0, number)
    return last


def _index_type(logits: Tensor) -> torch.dtype:
    return torch.uint8 if len(logits) < 256 else torch.int16


def _values(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint8 if max(values) <= 255 else np.int16)
