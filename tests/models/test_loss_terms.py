"""Every choice of configs/loss against its formula, written out or computed by another project."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceFocalLoss, FocalLoss, TverskyLoss
from torch import Tensor, nn

from umamba.models.build_loss import segmentation_loss
from umamba.models.loss_terms import Terms
from umamba.models.losses import DeepSupervision, DiceCELoss, deep_supervision_weights, resample_label

IGNORED = 9
REGIONS = ((1, 2), (2,), (1,))
CHOICES: dict[str, dict] = {
    "dice_ce": {}, "ce": {"dice": 0.0}, "dice": {"cross_entropy": 0.0}, "topk": {"dice": 0.0, "hardest_percent": 10.0},
    "dice_topk": {"hardest_percent": 10.0}, "focal": {"dice": 0.0, "gamma": 2.0}, "dice_focal": {"gamma": 2.0},
    "tversky": {"cross_entropy": 0.0, "false_positives": 0.3, "false_negatives": 0.7},
    "all": {
        "dice": 2.0, "cross_entropy": 0.5, "hardest_percent": 30.0, "gamma": 1.5, "class_weights": [1.0, 2.0, 0.5],
        "false_positives": 0.2, "false_negatives": 0.9,
    },
    "weighted": {"class_weights": [0.1, 1.0, 3.0]},
}  # fmt: skip

OF_ANY_OUTPUTS = [
    pytest.param(name, regions, id=f"{name}-{'regions' if regions else 'classes'}")
    for name, terms in CHOICES.items()
    for regions in ((), REGIONS)
    if not (regions and "hardest_percent" in terms)  # which are refused
]


def example(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (2, 5, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(shape[0], 3, *shape[1:], generator=generator, dtype=dtype)
    return logits, torch.randint(0, 3, shape, generator=generator)


def make(batch_dice: bool = False, ignore_label: int | None = None, regions=(), **terms) -> nn.Module:
    return segmentation_loss(num_classes=3, batch_dice=batch_dice, ignore_label=ignore_label, regions=regions, **terms)


def written_out(logits: Tensor, label: Tensor, batch_dice: bool, terms: dict) -> float:
    """Softmax losses by loops over voxels, samples and classes, with Python's numbers."""
    chosen = {"dice": 1.0, "cross_entropy": 1.0, "hardest_percent": 100.0, "gamma": 0.0, "class_weights": None,
              "false_positives": 0.5, "false_negatives": 0.5} | terms  # fmt: skip
    samples = [
        [(math.exp(v[y]) / sum(map(math.exp, v)), [math.exp(one) / sum(map(math.exp, v)) for one in v], y)
         for v, y in zip(sample.flatten(1).T.tolist(), own.flatten().tolist(), strict=True) if y != IGNORED]
        for sample, own in zip(logits, label, strict=True)
    ]  # fmt: skip
    weights = chosen["class_weights"] or [1.0, 1.0, 1.0]
    voxels = [
        (-weights[y] * (1 - p) ** chosen["gamma"] * math.log(p), weights[y]) for sample in samples for p, _, y in sample
    ]
    kept = max(1, int(len(voxels) * chosen["hardest_percent"] / 100))
    hardest = sorted(voxels, reverse=True)[:kept]
    entropy = sum(value for value, _ in hardest) / sum(weight for _, weight in hardest)
    overlaps = []
    for group in [[voxel for sample in samples for voxel in sample]] if batch_dice else samples:
        for k in (1, 2):
            hits = sum(p[k] for _, p, y in group if y == k)
            positives = sum(p[k] for _, p, y in group if y != k)
            negatives = sum(1 - p[k] for _, p, y in group if y == k)
            costs = chosen["false_positives"] * positives + chosen["false_negatives"] * negatives
            overlaps.append((hits + 0.5e-5) / (hits + costs + 0.5e-5))
    return chosen["cross_entropy"] * entropy - chosen["dice"] * sum(overlaps) / len(overlaps)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", CHOICES)
def test_equals_the_formula(name: str, batch_dice: bool, ignore: bool) -> None:
    logits, label = example()
    if ignore:
        label[:, ::2] = IGNORED
    loss = make(batch_dice, IGNORED if ignore else None, **CHOICES[name])
    assert loss(logits, label).item() == pytest.approx(written_out(logits, label, batch_dice, CHOICES[name]), rel=1e-6)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize(("name", "regions"), OF_ANY_OUTPUTS)
def test_gradients(name: str, ignore: bool, regions) -> None:
    logits, label = example(shape=(2, 4, 3))
    if ignore:
        label[:, ::2] = IGNORED
    loss = make(True, IGNORED if ignore else None, regions, **CHOICES[name])
    assert torch.autograd.gradcheck(lambda x: loss(x, label), logits.requires_grad_())
    (gradient,) = torch.autograd.grad(loss(logits, label), logits)
    if ignore:
        assert not gradient[:, :, ::2].any() and gradient[:, :, 1::2].any()


@pytest.mark.parametrize("name", CHOICES)
def test_nothing_breaks_at_certainty_or_where_all_is_ignored(name: str) -> None:
    _, label = example(torch.float32)
    right = F.one_hot(label, 3).movedim(-1, 1).float()
    for logits in (200 * right, -200 * right, torch.zeros_like(right)):
        logits.requires_grad_()
        loss = make(**CHOICES[name])(logits, label)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
    loss = make(True, IGNORED, **CHOICES[name])(logits, torch.full_like(label, IGNORED))
    assert torch.isfinite(loss) and not torch.autograd.grad(loss, logits)[0].any()


def test_focal_and_tversky_are_monais() -> None:
    logits, label = example()
    target = F.one_hot(label, 3).movedim(-1, 1)
    focal = FocalLoss(gamma=2.0, use_softmax=True)(logits, target)  # a mean over classes too, of which one is not 0
    assert make(**CHOICES["focal"])(logits, label).item() == pytest.approx(3 * focal.item())
    tversky = TverskyLoss(include_background=False, softmax=True, alpha=0.3, beta=0.7, smooth_nr=0.5e-5,
                          smooth_dr=0.5e-5)(logits, target)  # fmt: skip
    assert 1 + make(**CHOICES["tversky"])(logits, label).item() == pytest.approx(tversky.item())
    both = DiceFocalLoss(include_background=False, softmax=True, gamma=2.0, lambda_focal=0.0, smooth_nr=1e-5,
                         smooth_dr=1e-5)(logits, target)  # fmt: skip
    assert 1 + make(**CHOICES["dice_focal"])(logits, label).item() == pytest.approx(3 * focal.item() + both.item())
    masks = torch.stack([torch.isin(label, torch.tensor(values)) for values in REGIONS], 1).double()
    regions = FocalLoss(gamma=2.0)(logits, masks)
    assert make(regions=REGIONS, **CHOICES["focal"])(logits, label).item() == pytest.approx(regions.item())


def test_class_weights_are_torchs() -> None:
    logits, label = example(torch.float32)
    label[0] = IGNORED
    weights = [0.1, 1.0, 3.0]
    loss = make(ignore_label=IGNORED, dice=0.0, class_weights=weights)
    expected = F.cross_entropy(logits, label, torch.tensor(weights), ignore_index=IGNORED)
    assert loss(logits, label).item() == pytest.approx(expected.item())
    logits, label = example(torch.float32)
    masks = torch.stack([torch.isin(label, torch.tensor(values)) for values in REGIONS], 1).float()
    expected = F.binary_cross_entropy_with_logits(logits, masks, torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1)) / 2
    assert make(regions=REGIONS, dice=0.0, class_weights=[1, 2, 3])(logits, label).item() == pytest.approx(
        expected.item()
    )


def test_the_hardest_voxels_are_nnunets() -> None:
    """Where nothing is ignored: a tenth of the voxels, rounded down, and the mean of these."""
    logits, label = example(torch.float32, (2, 7, 9))
    per_voxel = F.cross_entropy(logits, label, reduction="none")
    expected = per_voxel.flatten().topk(int(per_voxel.numel() * 10 / 100), sorted=False).values.mean()
    assert make(**CHOICES["topk"])(logits, label).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("percent", [10.0, 100.0])
def test_equal_class_weights_change_nothing(percent: float) -> None:
    logits, label = example()
    without = make(hardest_percent=percent)(logits, label).item()
    assert make(hardest_percent=percent, class_weights=[3.0, 3.0, 3.0])(logits, label).item() == pytest.approx(without)


def test_ignored_voxels_are_not_among_the_hardest_or_their_number() -> None:
    logits, label = example(torch.float32, (1, 40))
    whole = make(**CHOICES["topk"])(logits, label)
    padded = torch.cat([logits, 50 * torch.randn(1, 3, 60)], 2)
    ignored = F.pad(label, (0, 60), value=IGNORED)
    assert make(ignore_label=IGNORED, **CHOICES["topk"])(padded, ignored).item() == pytest.approx(whole.item())


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize(("name", "regions"), OF_ANY_OUTPUTS)
def test_deep_supervision_weighs_all_alike_in_one_graph(name: str, regions, ignore: bool) -> None:
    logits, label = example(torch.float32, (2, 8, 6))
    label[:, 3] = IGNORED if ignore else 0
    outputs = [logits, logits[:, :, ::2, ::2], logits[:, :, ::4, ::3]]
    loss = make(False, IGNORED if ignore else None, regions, **CHOICES[name])
    weights = deep_supervision_weights(3)
    expected = sum(w * loss(o, resample_label(label, o.shape[2:])) for w, o in zip(weights, outputs, strict=True))
    assert DeepSupervision(loss)(outputs, label).item() == pytest.approx(expected.item(), rel=1e-6)
    torch._dynamo.reset()  # which limits how often one function is compiled
    compiled = torch.compile(DeepSupervision(loss), backend="eager", fullgraph=True)  # a break of the graph is an error
    assert compiled(outputs, label).item() == pytest.approx(expected.item(), rel=1e-6)


def test_sums_of_classes_are_enough_for_what_is_fused() -> None:
    """Held against torch's operations, with these very terms, in the tests of the kernels."""
    for name in ("dice_ce", "ce", "dice", "tversky", "weighted"):
        loss = make(**CHOICES[name])
        assert isinstance(loss, DiceCELoss) and loss.terms.of_sums
    assert not any(make(**CHOICES[name]).terms.of_sums for name in ("topk", "dice_topk", "focal", "dice_focal", "all"))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"dice": -1.0}, r"loss\.dice=-1\.0: expected a number, 0 or more"),
        ({"dice": True}, r"loss\.dice=True"),
        ({"gamma": float("nan")}, r"loss\.gamma=nan"),
        ({"dice": None}, r"loss\.dice=None"),
        ({"dice": 0.0, "cross_entropy": 0.0}, "are both 0"),
        ({"hardest_percent": 0.0}, "more than 0 and at most 100"),
        ({"hardest_percent": 110.0}, "more than 0 and at most 100"),
        ({"gamma": 0.5}, "0, or 1 and more"),
        ({"cross_entropy": 0.0, "gamma": 2.0}, r"loss\.gamma is of the term loss\.cross_entropy, which is 0"),
        ({"cross_entropy": 0.0, "class_weights": [1, 1, 1]}, "class_weights is of the term"),
        ({"dice": 0.0, "false_negatives": 0.7}, r"false_negatives is of the term loss\.dice"),
        ({"false_positives": 0.0, "false_negatives": 0.0}, "the overlap would always be 1"),
        ({"class_weights": 2.0}, "a list of numbers, 0 or more, with one for each class"),
        ({"class_weights": []}, "a list of numbers"),
        ({"class_weights": [0, 0, 0]}, "are all 0"),
        ({"class_weights": [1.0, 2.0]}, "has 2 numbers.*expected 3, one for each of the classes by its value"),
        ({"class_weights": [1.0], "regions": REGIONS}, "has 1 numbers.*expected 3, one for each of the regions"),
        ({"hardest_percent": 10.0, "regions": REGIONS}, "exclude each other, and this data set has regions"),
        ({"gama": 2.0}, r"loss\.gama: there is no such key\. There are dice, cross_entropy"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(terms: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**terms)


def test_names() -> None:
    assert make().name == "Dice + cross-entropy" and make(regions=REGIONS).name == "Dice + binary cross-entropy"
    assert make(**CHOICES["topk"]).name == "cross-entropy of the hardest 10 %"
    assert make(**CHOICES["tversky"]).name == "Tversky (0.3 false positives, 0.7 false negatives)"
    assert Terms(dice=2.0, gamma=2.0, class_weights=(1, 2)).name() == (
        "2 Dice + focal cross-entropy (gamma 2) weighted 1, 2"
    )


def test_settings_are_compared_by_value() -> None:
    assert functools.partial(Terms, gamma=2.0)() == Terms(gamma=2) != Terms()
