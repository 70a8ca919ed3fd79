"""The loss against its formula written out in NumPy, and the laws of deep supervision."""

import numpy as np
import pytest
import torch

from umamba.models.losses import DeepSupervision, DiceCELoss, deep_supervision_weights, resample_label, soft_dice
from umamba.models.pseudo_dice import PseudoDice
from umamba.models.regions import DiceBCELoss


def reference_loss(logits: np.ndarray, label: np.ndarray, batch_dice: bool) -> float:
    """Cross-entropy minus soft Dice, voxel by voxel in float64."""
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    num_classes = logits.shape[1]
    target = np.stack([label == k for k in range(num_classes)], 1)
    cross_entropy = -np.log((p * target).sum(1)).mean()
    axes = (0, 2, 3) if batch_dice else (2, 3)
    numerator = 2 * (p * target).sum(axes) + 1e-5
    denominator = (p + target).sum(axes) + 1e-5
    return cross_entropy - (numerator / denominator)[..., 1:].mean()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_loss_equals_the_formula(batch_dice: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 5, generator=generator)
    label = torch.randint(0, 4, (3, 6, 5), generator=generator, dtype=torch.int16)
    got = DiceCELoss(batch_dice)(logits, label).item()
    assert got == pytest.approx(reference_loss(logits.double().numpy(), label.numpy(), batch_dice), rel=1e-5)


def test_perfect_prediction_reaches_minus_one() -> None:
    label = torch.tensor([[[0, 1], [2, 1]]])
    logits = 50.0 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    assert DiceCELoss(False)(logits, label).item() == pytest.approx(-1, abs=1e-5)


def test_ignored_voxels_do_not_count() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 8, generator=generator)
    label = torch.randint(0, 3, (2, 8), generator=generator)
    label[:, 5:] = 9
    other = logits.clone()
    other[:, :, 5:] = 100 * torch.randn(2, 3, 3, generator=generator)
    loss = DiceCELoss(True, ignore_label=9)
    assert loss(logits, label).item() == pytest.approx(loss(other, label).item(), rel=1e-6)
    assert loss(logits, label).item() == pytest.approx(
        DiceCELoss(True)(logits[:, :, :5], label[:, :5]).item(), rel=1e-5
    )


def test_soft_dice_is_symmetric_in_the_classes() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 10, generator=generator)
    label = torch.randint(0, 3, (2, 10), generator=generator)
    swapped = torch.tensor([0, 2, 1])[label]
    assert torch.allclose(soft_dice(logits, label), soft_dice(logits[:, [0, 2, 1]], swapped))


def test_weights_halve_end_in_zero_and_sum_to_one() -> None:
    assert deep_supervision_weights(1) == (1.0,)
    assert deep_supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))


def test_labels_are_resampled_at_half_pixel_centres() -> None:
    label = torch.arange(6).view(1, 6)
    assert resample_label(label, (3,)).tolist() == [[1, 3, 5]]  # centres 0.5, 2.5, 4.5 of the finer grid round up
    assert resample_label(label, (2,)).tolist() == [[1, 4]]


def test_deep_supervision_is_the_weighted_sum() -> None:
    generator = torch.Generator().manual_seed(3)
    outputs = [torch.randn(2, 3, 8 // 2**i, 8 // 2**i, generator=generator) for i in range(3)]
    label = torch.randint(0, 3, (2, 8, 8), generator=generator)
    loss = DiceCELoss(False)
    expected = 2 / 3 * loss(outputs[0], label) + 1 / 3 * loss(outputs[1], resample_label(label, (4, 4)))
    assert DeepSupervision(loss)(outputs, label).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("ignored", [None, 9])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("regions", [None, [[1, 2], [2]]])
def test_losses_are_compiled_as_one_graph(regions: list | None, batch_dice: bool, ignored: int | None) -> None:
    generator = torch.Generator().manual_seed(4)
    outputs = [torch.randn(2, 2 if regions else 3, 8 // 2**i, 6, generator=generator) for i in range(3)]
    label = torch.randint(0, 3, (2, 8, 6), generator=generator)
    label[:, 3] = 0 if ignored is None else ignored
    loss = DeepSupervision(DiceBCELoss(regions, batch_dice, ignored) if regions else DiceCELoss(batch_dice, ignored))
    torch._dynamo.reset()  # which limits how often one function is compiled
    compiled = torch.compile(loss, backend="eager", fullgraph=True)  # a break of the graph is an error
    assert compiled(outputs, label).item() == pytest.approx(loss(outputs, label).item(), rel=1e-6)


def test_pseudo_dice_counts_over_batches_and_marks_absent_classes() -> None:
    metric = PseudoDice(num_classes=4, ignore_label=7)
    first = torch.tensor([[0, 1, 1, 7]])
    second = torch.tensor([[2, 2, 0, 1]])
    predicted = [torch.tensor([[0, 1, 2, 3]]), torch.tensor([[2, 0, 0, 1]])]
    for label, prediction in zip((first, second), predicted, strict=True):
        metric.update(torch.nn.functional.one_hot(prediction, 4).movedim(-1, 1).float(), label)
    dice = metric.compute()[1:]
    # class 1: 2 hits, 2 predicted, 3 actual; class 2: 1 hit, 2 predicted, 2 actual; class 3: only where ignored
    assert dice[:2].tolist() == pytest.approx([2 * 2 / 5, 2 * 1 / 4])
    assert dice[2].isnan()


def test_pseudo_dice_of_one_class_is_not_squeezed() -> None:
    metric = PseudoDice(num_classes=2)
    label = torch.tensor([[0, 1, 1, 0]])
    metric.update(torch.nn.functional.one_hot(torch.tensor([[0, 1, 0, 0]]), 2).movedim(-1, 1).float(), label)
    assert metric.compute().tolist() == pytest.approx([2 * 2 / 5, 2 * 1 / 3])
