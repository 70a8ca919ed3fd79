"""Region-based training: one output and one sigmoid a region, cross-entropy and soft Dice of each.

Source: nnU-Net's DC_and_BCE_loss (Isensee et al.). With an ignore label it divides the sum of the cross-entropy over
regions and counted voxels by the number of counted voxels, without one by regions times voxels; so does this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba.models.loss_terms import Terms
from umamba.models.losses import NNUNET, TermsLoss, soft_dice_of, widened


class RegionMasks(nn.Module):
    """A label map as one mask a region: (B, *S) integer -> (B, R, *S) bool.

    Args:
        regions: label values of each region.
        ignore_label: value of voxels that are in no region, or None.
    """

    table: Tensor  # (values, R) bool

    def __init__(self, regions: Sequence[Sequence[int]], ignore_label: int | None = None) -> None:
        super().__init__()
        highest = max([*(max(values) for values in regions), ignore_label or 0])
        table = torch.zeros((highest + 1, len(regions)), dtype=torch.bool)
        for number, values in enumerate(regions):
            table[list(values), number] = True
        self.register_buffer("table", table, persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """Args: label (B, *S) integer, of values that are in a region, 0 or to be ignored."""
        return self.table[label.long()].movedim(-1, 1)


class DiceBCELoss(TermsLoss):
    """Binary cross-entropy minus the mean soft Dice of the regions: nnU-Net's loss of region-based training.

    Args:
        regions: label values of each of the network's outputs.
        batch_dice: sum over the batch (and over DDP ranks) before dividing, instead of one Dice per sample.
        ignore_label: value of voxels that do not count, or None.
        terms: what the two terms are, and weigh; class weights are relative to their mean.
    """

    def __init__(
        self, regions: Sequence[Sequence[int]], batch_dice: bool, ignore_label: int | None = None, terms: Terms = NNUNET
    ) -> None:
        super().__init__(batch_dice, ignore_label, terms)
        self.masks = RegionMasks(regions, ignore_label)
        if self.class_weights is not None:
            self.class_weights /= self.class_weights.mean()

    @property
    def name(self) -> str:
        """What to call it in a log."""
        return self.terms.name(regions=True)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of one output.

        Args:
            logits: (B, R, *S) float, one channel a region.
            label: (B, *S) integer, of values that are in a region, 0 or `ignore_label`.

        Returns:
            A scalar, float32 at least; of several ranks this one's part of it.
        """
        logits, target = widened(logits), self.masks(label)  # (B, R, *S) both
        mask = None if self.ignore_label is None else (label != self.ignore_label).unsqueeze(1)  # (B, 1, *S)
        entropy = dice = None
        if self.terms.cross_entropy:
            entropy = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
            entropy = self.terms.focused(entropy)
            if self.class_weights is not None:
                entropy = entropy * self.class_weights.to(logits.dtype).view(-1, *[1] * (logits.ndim - 2))
            entropy = self.terms.mean(entropy, mask)
        if self.terms.dice:
            dice = soft_dice_of(logits.sigmoid(), target, mask, self.batch_dice, self.terms)
        return self.terms.combined(entropy, dice)
