"""Segmentation losses of nnU-Net: cross-entropy plus soft Dice, over every deep-supervision output.

Source: nnU-Net (Isensee et al. 2021), online methods "training"; U-Mamba keeps them unchanged.

Under distributed training the mean of the ranks' losses is that of the whole batch, see `umamba.models.ranks`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba.models.kernels.choice import loss_fused
from umamba.models.ranks import count_ranks, rank_weight, sum_over_ranks

SMOOTH = 1e-5  # added to numerator and denominator of the soft Dice
MIN_DENOMINATOR = 1e-8


def soft_dice(logits: Tensor, label: Tensor, mask: Tensor | None = None, batch_dice: bool = False) -> Tensor:
    """Mean soft Dice of the foreground classes, in [0, 1]; of several ranks, the mean of what they return.

    Args:
        logits: (B, K, *S) float, class 0 is background and left out.
        label: (B, *S) integer, values 0..K-1 wherever ``mask`` is true.
        mask: (B, *S) bool, voxels that count; None counts all.
        batch_dice: sum over the batch (and over ranks) before dividing, instead of one Dice per sample.

    Returns:
        A scalar, float32 at least.
    """
    probabilities = widened(logits).softmax(1)[:, 1:]  # (B, K-1, *S)
    classes = torch.arange(1, logits.shape[1], device=label.device).view(1, -1, *[1] * (logits.ndim - 2))
    target = label.unsqueeze(1) == classes  # (B, K-1, *S) bool
    return soft_dice_of(probabilities, target, None if mask is None else mask.unsqueeze(1), batch_dice)


def soft_dice_of(probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool) -> Tensor:
    """Mean soft Dice of classes or regions, in [0, 1]; of several ranks, the mean of what they return.

    Args:
        probabilities: (B, K, *S) float.
        target: (B, K, *S) bool.
        mask: (B, 1, *S) bool, voxels that count; None counts all.
        batch_dice: as of `soft_dice`.
    """
    axes = tuple(range(2, probabilities.ndim))
    if mask is not None:
        probabilities = probabilities * mask
        target = target & mask
    intersection = (probabilities * target).sum(axes)  # (B, K)
    total = probabilities.sum(axes) + target.sum(axes)
    if batch_dice:
        intersection, total = _over_batch(intersection, total)
        return _dice(intersection, total).mean()
    dice = _dice(intersection, total).mean()
    return dice * rank_weight(target, dice.dtype)


def widened(logits: Tensor) -> Tensor:
    """The logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _over_batch(intersection: Tensor, total: Tensor) -> Tensor:
    """(B, ...) each -> (2, ...), summed over the batch and over ranks."""
    sums = torch.stack([intersection, total]).sum(1)
    return sum_over_ranks(sums)


def _dice(intersection: Tensor, total: Tensor) -> Tensor:
    return (2 * intersection + SMOOTH) / (total + SMOOTH).clamp_min(MIN_DENOMINATOR)


class DiceCELoss(nn.Module):
    """Cross-entropy (mean over counted voxels) minus the mean soft Dice: nnU-Net's loss, at best -1.

    Args:
        batch_dice: sum over the batch (and over ranks) before dividing, instead of one Dice per sample.
        ignore_label: value of voxels that do not count, or None.
    """

    def __init__(self, batch_dice: bool, ignore_label: int | None = None) -> None:
        super().__init__()
        self.batch_dice = batch_dice
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of one output.

        Args:
            logits: (B, K, *S) float, class 0 is background.
            label: (B, *S) integer, values 0..K-1 and `ignore_label`.

        Returns:
            A scalar, float32 at least; of several ranks this one's part of it.
        """
        if label.shape[1:] == logits.shape[2:] and loss_fused([logits], label, self.ignore_label):
            return self.fused([logits], label, (1.0,))
        label = label.long()
        if self.ignore_label is None:
            cross_entropy = F.cross_entropy(widened(logits), label)
            cross_entropy = cross_entropy * rank_weight(label, cross_entropy.dtype)
            return cross_entropy - soft_dice(logits, label, None, self.batch_dice)
        mask = label != self.ignore_label
        label = label.masked_fill(~mask, 0)
        per_voxel = F.cross_entropy(widened(logits), label, reduction="none") * mask
        cross_entropy = per_voxel.sum() / sum_over_ranks(mask.sum()).clamp_min(1) * count_ranks()
        return cross_entropy - soft_dice(logits, label, mask, self.batch_dice)

    def fused(self, outputs: Sequence[Tensor], label: Tensor, weights: Sequence[float]) -> Tensor:
        """The weighted sum of the losses of several outputs, in Triton.

        An output that weighs nothing is not read: what it holds cannot make the loss NaN, and its gradient is zero.

        Args:
            outputs: (B, K, *S_i) float each, highest resolution first.
            label: (B, *S_0) integer; it is resampled to each output's shape, see `resample_label`.
            weights: One for each output; those that are 0 come last.

        Returns:
            A float32 scalar; of several ranks this one's part of it.
        """
        from umamba.models.kernels.dice_ce import dice_ce_sums  # imports Triton

        counted = sum(weight > 0 for weight in weights)  # the last ones, if any, weigh nothing
        sums = dice_ce_sums(outputs, label, self.ignore_label, counted)
        intersection, predicted, voxels, entropy = sums.unbind(2)  # (R, B, K) each
        overlap, total = intersection[..., 1:], (predicted + voxels)[..., 1:]  # (R, B, K-1) each
        if self.batch_dice:
            overlap, total = _over_batch(overlap.transpose(0, 1), total.transpose(0, 1))  # (R, K-1) each
        dice = _dice(overlap, total).flatten(1).mean(1)  # (R,)
        if self.ignore_label is None:
            counts = _constant(tuple(o.numel() / o.shape[1] for o in outputs[:counted]), label.device)
            losses = entropy.sum((1, 2)) / counts * rank_weight(label, dice.dtype)
        else:
            counts = sum_over_ranks(voxels.detach().sum((1, 2))).clamp_min(1)
            losses = entropy.sum((1, 2)) / counts * count_ranks()
        losses = losses - (dice if self.batch_dice else dice * rank_weight(label, dice.dtype))
        return (losses * _constant(tuple(weights[:counted]), label.device)).sum()


@functools.lru_cache(maxsize=64)  # a process sees a handful; made once, since the host waits for the device each time
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a validation may be what asks first
        return torch.tensor(values, device=device)


class DeepSupervision(nn.Module):
    """Weighted sum of one loss over a network's outputs, against labels resampled to each output's shape.

    The weights halve with every lower resolution, the lowest gets 0, and they sum to 1. Labels are resampled by
    nearest neighbour with half-pixel centres.

    Args:
        loss: Of an output (B, K, *S) and a label (B, *S), to a scalar.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """The loss of all outputs.

        Args:
            outputs: (B, K, *S) float, or a list of such, highest resolution first.
            label: (B, *S) integer, of the first output's shape.

        Returns:
            A scalar; of a single output its plain loss.
        """
        if isinstance(outputs, Tensor):
            return self.loss(outputs, label)
        weights = deep_supervision_weights(len(outputs))
        if isinstance(self.loss, DiceCELoss) and loss_fused(outputs, label, self.loss.ignore_label):
            return self.loss.fused(outputs, label, weights)
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for weight, output in zip(weights, outputs, strict=True):
            total = total + weight * self.loss(output, resample_label(label, output.shape[2:]))
        return total


def deep_supervision_weights(num_outputs: int) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4, ... with the last set to 0, normalised to sum 1; a single output has weight 1."""
    if num_outputs == 1:
        return (1.0,)
    raw = [0.5**i for i in range(num_outputs - 1)] + [0.0]
    return tuple(weight / sum(raw) for weight in raw)


def resample_label(label: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *S) integer label resampled to (B, *shape) by nearest neighbour with half-pixel centres."""
    if tuple(label.shape[1:]) == tuple(shape):
        return label
    return F.interpolate(label.unsqueeze(1).float(), tuple(shape), mode="nearest-exact").squeeze(1).to(label.dtype)
