"""Segmentation losses: nnU-Net's cross-entropy plus soft Dice and its relatives, over every deep-supervision output.

Source: nnU-Net (Isensee et al. 2021), online methods "training"; U-Mamba keeps them unchanged. What else a loss may be
made of, and where that comes from: `umamba.models.loss_terms`.

Under distributed training the mean of the ranks' losses is that of the whole batch, see `umamba.models.ranks`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umamba.models.kernels.choice import loss_fused
from umamba.models.loss_terms import MIN_DENOMINATOR, Terms
from umamba.models.ranks import count_ranks, rank_weight, sum_over_ranks

SMOOTH = 1e-5  # added to numerator and denominator of the soft Dice
NNUNET = Terms()


def soft_dice(
    logits: Tensor, label: Tensor, mask: Tensor | None = None, batch_dice: bool = False, terms: Terms = NNUNET
) -> Tensor:
    """Mean soft Dice, or other overlap, of the foreground classes, in [0, 1]; of ranks the mean of what they return.

    Args:
        logits: (B, K, *S) float, class 0 is background and left out.
        label: (B, *S) integer, values 0..K-1 wherever ``mask`` is true.
        mask: (B, *S) bool, voxels that count; None counts all.
        batch_dice: sum over the batch (and over ranks) before dividing, instead of one Dice per sample.
        terms: what the overlap is.

    Returns:
        A scalar, float32 at least.
    """
    probabilities = widened(logits).softmax(1)[:, 1:]  # (B, K-1, *S)
    classes = torch.arange(1, logits.shape[1], device=label.device).view(1, -1, *[1] * (logits.ndim - 2))
    target = label.unsqueeze(1) == classes  # (B, K-1, *S) bool
    return soft_dice_of(probabilities, target, None if mask is None else mask.unsqueeze(1), batch_dice, terms)


def soft_dice_of(
    probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool, terms: Terms = NNUNET
) -> Tensor:
    """Mean soft Dice, or other overlap, of classes or regions, in [0, 1]; of ranks the mean of what they return.

    Args:
        probabilities: (B, K, *S) float.
        target: (B, K, *S) bool.
        mask: (B, 1, *S) bool, voxels that count; None counts all.
        batch_dice: as of `soft_dice`.
        terms: as of `soft_dice`.
    """
    axes = tuple(range(2, probabilities.ndim))
    if mask is not None:
        probabilities = probabilities * mask
        target = target & mask
    intersection = (probabilities * target).sum(axes)  # (B, K)
    total = terms.total(intersection, probabilities.sum(axes), target.sum(axes))
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


class TermsLoss(nn.Module):
    """What the losses of classes and of regions have in common; arguments as of `DiceCELoss`."""

    class_weights: Tensor | None  # one for each output, float

    def __init__(self, batch_dice: bool, ignore_label: int | None = None, terms: Terms = NNUNET) -> None:
        super().__init__()
        self.batch_dice, self.ignore_label, self.terms = batch_dice, ignore_label, terms
        weights = None if terms.class_weights is None else torch.tensor(terms.class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def name(self) -> str:
        """What to call it in a log."""
        return self.terms.name()


class DiceCELoss(TermsLoss):
    """Cross-entropy (mean over counted voxels) minus the mean soft Dice: nnU-Net's loss, at best -1; or its relatives.

    Args:
        batch_dice: sum over the batch (and over ranks) before dividing, instead of one Dice per sample.
        ignore_label: value of voxels that do not count, or None.
        terms: what the two terms are, and weigh.
    """

    def fusible(self, outputs: Sequence[Tensor], label: Tensor) -> bool:
        """Whether `fused` takes these outputs, highest resolution first, and this label."""
        return self.terms.of_sums and loss_fused(outputs, label, self.ignore_label)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of one output.

        Args:
            logits: (B, K, *S) float, class 0 is background.
            label: (B, *S) integer, values 0..K-1 and `ignore_label`.

        Returns:
            A scalar, float32 at least; of several ranks this one's part of it.
        """
        if label.shape[1:] == logits.shape[2:] and self.fusible([logits], label):
            return self.fused([logits], label, (1.0,))
        label, mask = label.long(), None
        if self.ignore_label is not None:
            mask = label != self.ignore_label
            label = label.masked_fill(~mask, 0)
        terms = self.terms
        return terms.combined(
            self._cross_entropy(widened(logits), label, mask) if terms.cross_entropy else None,
            soft_dice(logits, label, mask, self.batch_dice, terms) if terms.dice else None,
        )

    def _cross_entropy(self, logits: Tensor, label: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None and self.terms.of_sums and self.class_weights is None:
            mean = F.cross_entropy(logits, label)
            return mean * rank_weight(label, mean.dtype)
        weight = None if self.class_weights is None else self.class_weights.to(logits.dtype)[label]
        return self.terms.mean(self.terms.focused(F.cross_entropy(logits, label, reduction="none")), mask, weight)

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
        cross_entropy = dice = None
        if self.terms.dice:
            total = self.terms.total(intersection, predicted, voxels)
            overlap, total = intersection[..., 1:], total[..., 1:]  # (R, B, K-1) each
            if self.batch_dice:
                overlap, total = _over_batch(overlap.transpose(0, 1), total.transpose(0, 1))  # (R, K-1) each
            dice = _dice(overlap, total).flatten(1).mean(1)  # (R,)
            dice = dice if self.batch_dice else dice * rank_weight(label, dice.dtype)
        if self.terms.cross_entropy:
            cross_entropy = self._mean_of_sums(entropy, voxels.detach(), outputs[:counted], label)
        losses = self.terms.combined(cross_entropy, dice)
        return (losses * _constant(tuple(weights[:counted]), label.device)).sum()

    def _mean_of_sums(self, entropy: Tensor, voxels: Tensor, outputs: Sequence[Tensor], label: Tensor) -> Tensor:
        """(R, B, K) each, sums of cross-entropy and number of voxels -> (R,), the mean of each output."""
        if self.class_weights is not None:
            count = sum_over_ranks((self.class_weights * voxels).sum((1, 2))).clamp_min(MIN_DENOMINATOR)
            return (self.class_weights * entropy).sum((1, 2)) / count * count_ranks()
        total = entropy.sum((1, 2))
        if self.ignore_label is None:
            counts = _constant(tuple(o.numel() / o.shape[1] for o in outputs), label.device)
            return total / counts * rank_weight(label, total.dtype)
        return total / sum_over_ranks(voxels.sum((1, 2))).clamp_min(1) * count_ranks()


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
        if isinstance(self.loss, DiceCELoss) and self.loss.fusible(outputs, label):
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
