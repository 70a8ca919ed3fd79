"""The loss and the pseudo Dice of regions, against nnU-Net's equations written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umamba.models.losses import DeepSupervision, deep_supervision_weights, resample_label
from umamba.models.pseudo_dice import PseudoDice
from umamba.models.regions import DiceBCELoss, RegionMasks

BRATS = ((1, 2, 3), (2, 3), (3,))


def example(ignored: bool = False, shape: tuple[int, ...] = (2, 8, 6, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((shape[0], 3, *shape[1:]), generator=generator)
    label = torch.randint(0, 5 if ignored else 4, shape, generator=generator).to(torch.int16)
    return logits, label


def written_out(logits: torch.Tensor, label: torch.Tensor, batch_dice: bool, ignore_label: int | None) -> float:
    """nnU-Net's DC_and_BCE_loss by loops over samples and regions."""
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    label_map = label.numpy()
    counted = np.ones(label_map.shape, bool) if ignore_label is None else label_map != ignore_label
    entropy, sums = 0.0, np.zeros((len(p), len(BRATS), 2))
    for b, r in np.ndindex(len(p), len(BRATS)):
        target, inside = np.isin(label_map[b], BRATS[r])[counted[b]], p[b, r][counted[b]]
        entropy -= np.log(inside[target]).sum() + np.log(1 - inside[~target]).sum()
        sums[b, r] = (inside * target).sum(), inside.sum() + target.sum()
    if batch_dice:
        sums = sums.sum(0, keepdims=True)
    dice = np.mean((2 * sums[..., 0] + 1e-5) / (sums[..., 1] + 1e-5))
    return entropy / (counted.sum() * (len(BRATS) if ignore_label is None else 1)) - dice


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore_label", [None, 4])
def test_equals_nnunets_equations(batch_dice, ignore_label):
    logits, label = example(ignored=ignore_label is not None)
    loss = DiceBCELoss(BRATS, batch_dice, ignore_label)(logits, label)
    assert float(loss) == pytest.approx(written_out(logits, label, batch_dice, ignore_label), rel=1e-5)


def test_ignored_voxels_move_nothing():
    logits, label = example(ignored=True)
    logits.requires_grad_()
    loss = DiceBCELoss(BRATS, True, 4)
    loss(logits, label).backward()
    ignored = (label == 4).unsqueeze(1).expand_as(logits)
    assert not logits.grad[ignored].any() and logits.grad[~ignored].all()
    other = logits.detach().masked_fill(ignored, 77.0)
    assert float(loss(other, label)) == float(loss(logits.detach(), label))
    assert loss(logits.detach(), torch.full_like(label, 4)).isfinite()


def test_perfect_predictions_are_the_minimum():
    _, label = example()
    logits = 40.0 * (2 * RegionMasks(BRATS)(label).float() - 1)
    assert float(DiceBCELoss(BRATS, True)(logits, label)) == pytest.approx(-1, abs=1e-5)


def test_a_region_of_its_own_is_its_label():
    """Disjoint single labels: the masks are the one-hot labels without the background."""
    _, label = example()
    one_hot = torch.nn.functional.one_hot(label.long(), 4).movedim(-1, 1)[:, 1:].bool()
    assert torch.equal(RegionMasks([(1,), (2,), (3,)])(label), one_hot)


def test_deep_supervision_forms_regions_after_the_label_was_resampled():
    logits, label = example()
    outputs = [logits, logits[:, :, ::2, ::2, ::2], logits[:, :, ::4, ::3, ::2]]
    loss = DiceBCELoss(BRATS, False)
    weights = deep_supervision_weights(3)
    expected = sum(w * loss(o, resample_label(label, o.shape[2:])) for w, o in zip(weights, outputs, strict=True))
    assert float(DeepSupervision(loss)(outputs, label)) == pytest.approx(float(expected))


@pytest.mark.parametrize("ignore_label", [None, 4])
def test_pseudo_dice_of_regions(ignore_label):
    logits, label = example(ignored=ignore_label is not None)
    metric = PseudoDice(3, ignore_label, BRATS)
    for part in (slice(0, 1), slice(1, 2)):
        metric.update(logits[part], label[part])
    counted = np.ones(label.shape, bool) if ignore_label is None else label.numpy() != ignore_label
    for region, (values, found) in enumerate(zip(BRATS, metric.compute()[1:], strict=True)):
        p, t = logits[:, region].sigmoid().numpy()[counted] > 0.5, np.isin(label.numpy()[counted], values)
        assert float(found) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
    absent = PseudoDice(1, None, [(1, 2)])  # one region: still a vector, and NaN where nothing was seen
    absent.update(torch.full((1, 1, 4, 4), -1.0), torch.zeros((1, 4, 4), dtype=torch.int16))
    assert absent.compute().shape == (2,) and absent.compute().isnan().all()


def test_masks_move_with_the_module_and_are_no_weights():
    loss = DiceBCELoss(BRATS, False, 4)
    assert loss.state_dict() == {} and loss.to("meta").masks.table.device.type == "meta"
