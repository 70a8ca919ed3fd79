"""The Dice nnU-Net watches during training: over all validation patches of an epoch at once, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from umamba.models.regions import RegionMasks


class PseudoDice(Metric):
    """Per-class Dice of hard predictions, counted over every voxel seen since the last reset.

    "Pseudo" because patches overlap and are not whole cases: fit to pick a checkpoint, not to be reported. A class
    that occurs in neither reference nor prediction is NaN. Counts are summed over DDP ranks.

    Args:
        num_classes: outputs of the network.
        ignore_label: value of voxels that do not count, or None.
        regions: label values of each output, if these are regions (predicted where the logit is above 0).
    """

    full_state_update = False
    true_positive: Tensor  # (K,) int64, as the two below; of regions (1 + R,), the first one never counted
    predicted: Tensor
    actual: Tensor

    def __init__(
        self, num_classes: int, ignore_label: int | None = None, regions: Sequence[Sequence[int]] = ()
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.masks = RegionMasks(regions, ignore_label) if regions else None
        for name in ("true_positive", "predicted", "actual"):
            self.add_state(name, torch.zeros(num_classes + bool(regions), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Args: logits (B, K, *S) float; label (B, *S) integer."""
        if self.masks is not None:
            self._update_regions(logits > 0, self.masks(label), label)
            return
        prediction, label = logits.argmax(1), label.long()
        if self.ignore_label is not None:
            counted = label != self.ignore_label
            prediction, label = prediction[counted], label[counted]
        prediction, label = prediction.flatten(), label.flatten()
        hits = prediction[prediction == label]
        self.true_positive += torch.bincount(hits, minlength=self.num_classes)
        self.predicted += torch.bincount(prediction, minlength=self.num_classes)
        self.actual += torch.bincount(label, minlength=self.num_classes)

    def _update_regions(self, prediction: Tensor, reference: Tensor, label: Tensor) -> None:
        """(B, R, *S) bool both."""
        if self.ignore_label is not None:
            prediction = prediction & (label != self.ignore_label).unsqueeze(1)
        axes = (0, *range(2, prediction.ndim))
        self.true_positive[1:] += (prediction & reference).sum(axes)
        self.predicted[1:] += prediction.sum(axes)
        self.actual[1:] += reference.sum(axes)

    def compute(self) -> Tensor:
        """(K,) float32: Dice of every class in [0, 1], the background's first, NaN where a class was never seen.

        Of regions (1 + R,): they have no background, its place holds NaN.

        With the background it has at least two elements: torchmetrics makes a scalar of a result with one.
        """
        return 2 * self.true_positive.float() / (self.predicted + self.actual).float()  # 0 / 0 is an absent class's NaN
