"""What a segmentation loss is made of: one term of overlap and one of single voxels, each with its settings.

    loss = cross_entropy * mean(w_y (1 - p_y)^gamma (-log p_y)) - dice * mean(overlap of the foreground classes)

p_y is the probability of a voxel's own class y. Where the parts come from:

- Dice and cross-entropy: nnU-Net (Isensee et al. 2021), `nnUNetTrainer`; one of them alone: `nnUNetTrainerCELoss`,
  `nnUNetTrainerDiceLoss`.
- the mean over the hardest voxels alone: `nnUNetTrainerTopk10Loss`, `nnUNetTrainerDiceTopK10Loss`; Wu et al.,
  arXiv 1605.06885, "online bootstrapping". Of an ignore label nnU-Net counts the ignored voxels, as zeros, among the
  per cent and in the mean; here they are of the voxels that count.
- the factor (1 - p)^gamma: the focal loss, Lin et al., arXiv 1708.02002, equation 4 (5 with class weights).
- false positives and negatives that weigh unlike: Tversky's index, Salehi et al., arXiv 1706.05721, equation 4;
  with a half each it is Dice.
- class weights: as `torch.nn.CrossEntropyLoss` has them, a mean weighted by the weights of the voxels that it is of.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from umamba.models.ranks import count_ranks, rank_weight, sum_over_ranks
from umamba.typed import has_type

MIN_DENOMINATOR = 1e-8
_UNIT = 1000  # per cent are counted in thousandths, in whole numbers, which are exact on any device
_OF_VOXELS, _OF_OVERLAP = ("hardest_percent", "gamma", "class_weights"), ("false_positives", "false_negatives")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Settings of a loss; the defaults are nnU-Net's Dice and cross-entropy.

    Attributes:
        dice: Weight of the overlap.
        cross_entropy: Weight of the cross-entropy, binary of regions.
        hardest_percent: The cross-entropy's mean is over so many per cent of the batch's voxels, its largest.
        gamma: Exponent that makes voxels count less the better they are predicted; 0, or 1 and more.
        class_weights: Of the cross-entropy: one for each class by its value, the background first, or for each region.
        false_positives: What a voxel of another class costs that the overlap has, beside a hit that counts 1.
        false_negatives: What a voxel of the class costs that it lacks.

    Raises:
        ValueError: A value is out of bounds, or would do nothing.
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    hardest_percent: float = 100.0
    gamma: float = 0.0
    class_weights: tuple[float, ...] | None = None
    false_positives: float = 0.5
    false_negatives: float = 0.5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, many = getattr(self, field.name), field.default is None
            numbers = value if isinstance(value, tuple) else (value,)
            if (
                isinstance(value, tuple) is not many
                or not numbers
                or not all(has_type(number, float) and number >= 0 for number in numbers)
            ) and value is not field.default:
                kind = "a list of numbers, 0 or more, with one for each class" if many else "a number, 0 or more"
                raise ValueError(f"loss.{field.name}={value}: expected {kind}.")
        if not 0 < self.hardest_percent <= 100:
            raise ValueError(f"loss.hardest_percent={self.hardest_percent}: expected more than 0 and at most 100.")
        if 0 < self.gamma < 1:
            raise ValueError(
                f"loss.gamma={self.gamma}: expected 0, or 1 and more; between them the gradient has no bound where a "
                "voxel is predicted with certainty."
            )
        if not self.false_positives + self.false_negatives:
            raise ValueError("loss.false_positives and loss.false_negatives are both 0: the overlap would always be 1.")
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError("loss.class_weights are all 0.")
        if not self.dice and not self.cross_entropy:
            raise ValueError("loss.dice and loss.cross_entropy are both 0, so there is nothing to learn from.")
        for term, settings in (("cross_entropy", _OF_VOXELS), ("dice", _OF_OVERLAP)):
            idle = [name for name in settings if getattr(self, name) != getattr(Terms, name)]
            if idle and not getattr(self, term):
                raise ValueError(f"loss.{idle[0]} is of the term loss.{term}, which is 0. Give that a weight as well.")

    @property
    def of_sums(self) -> bool:
        """Whether sums over the voxels of each class are all that it needs."""
        return self.hardest_percent == 100 and not self.gamma

    def total(self, intersection: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """The overlap's denominator; the overlap is 2 `intersection` / total. It may be formed of parts, and summed."""
        positives, negatives = self.false_positives, self.false_negatives
        if positives == negatives == 0.5:
            return predicted + actual
        return 2 * (positives * predicted + negatives * actual + (1 - positives - negatives) * intersection)

    def combined(self, cross_entropy: Tensor | None, overlap: Tensor | None) -> Tensor:
        """The loss; a term that weighs nothing is None, and not computed: NaN times 0 would be NaN."""
        if cross_entropy is None:
            assert overlap is not None  # one of the two weighs something
            return -_times(self.dice, overlap)
        loss = _times(self.cross_entropy, cross_entropy)
        return loss if overlap is None else loss - _times(self.dice, overlap)

    def focused(self, entropy: Tensor) -> Tensor:
        """The cross-entropy of voxels, less of those that are predicted well, if it is to be so."""
        return (-torch.expm1(-entropy)) ** self.gamma * entropy if self.gamma else entropy

    def mean(self, entropy: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """The mean of the voxels' cross-entropy; of several ranks this one's part of it.

        Each rank looks for the hardest voxels among its own.

        Args:
            entropy: (B, *S) float, or (B, R, *S) of regions, whose number nnU-Net does not divide by if voxels are
                ignored.
            mask: voxels that count, (B, *S) or (B, 1, *S) bool; None counts all.
            weight: of each voxel (B, *S); None for the same.

        Returns:
            A scalar.
        """
        if weight is not None:
            weight = weight if mask is None else weight * mask
            entropy = entropy * weight
        elif mask is not None:
            entropy = entropy * mask
        if self.hardest_percent < 100:
            total, count = self._hardest(entropy, mask, weight)
        elif weight is not None:
            total, count = entropy.sum(), weight.sum()
        elif mask is None:
            return entropy.mean() * rank_weight(entropy, entropy.dtype)
        else:
            total, count = entropy.sum(), mask.sum()
        return total / sum_over_ranks(count).clamp_min(1 if weight is None else MIN_DENOMINATOR) * count_ranks()

    def _hardest(self, entropy: Tensor, mask: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sum of the largest, and their number or the sum of their weights.

        How many are sorted out follows from the shape, for no step may wait.
        """
        share = round(self.hardest_percent * _UNIT)
        size = max(1, entropy.numel() * share // (100 * _UNIT))
        largest, places = entropy.flatten().topk(size, sorted=mask is not None)
        chosen = torch.ones(size, dtype=torch.bool, device=entropy.device)
        if mask is not None:  # those that count come first
            counted = mask.sum()
            chosen = torch.arange(size, device=entropy.device) < torch.minimum(
                (counted * share // (100 * _UNIT)).clamp_min(1), counted
            )
        weights = chosen if weight is None else weight.flatten()[places] * chosen
        return (largest * chosen).sum(), weights.sum()

    def name(self, regions: bool = False) -> str:
        """What to call it in a log, such as "Dice + cross-entropy"."""
        parts = []
        if self.dice:
            even = self.false_positives == self.false_negatives == 0.5
            costs = f"Tversky ({self.false_positives:g} false positives, {self.false_negatives:g} false negatives)"
            parts.append(_named(self.dice, "Dice" if even else costs))
        if self.cross_entropy:
            entropy = ("binary " if regions else "") + "cross-entropy"
            entropy = f"focal {entropy} (gamma {self.gamma:g})" if self.gamma else entropy
            if self.class_weights is not None:
                entropy += f" weighted {', '.join(f'{weight:g}' for weight in self.class_weights)}"
            hardest = f" of the hardest {self.hardest_percent:g} %" if self.hardest_percent < 100 else ""
            parts.append(_named(self.cross_entropy, entropy + hardest))
        return " + ".join(parts)


def _times(weight: float, value: Tensor) -> Tensor:
    return value if weight == 1 else weight * value


def _named(weight: float, term: str) -> str:
    return term if weight == 1 else f"{weight:g} {term}"
