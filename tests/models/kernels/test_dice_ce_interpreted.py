"""The fused Dice and cross-entropy in Triton's interpreter: `TRITON_INTERPRET=1 pytest` of this file.

Triton reads the variable when it is imported, so `test_norm_act.py` runs these in a process of their own.
"""

from __future__ import annotations

import os

import pytest
import torch
from norm_inputs import channels_last, worst
from torch.autograd import grad as gradients

from umamba.models import losses
from umamba.models.loss_terms import Terms
from umamba.models.losses import DeepSupervision, DiceCELoss, resample_label

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set; test_norm_act.py runs these tests with it", allow_module_level=True)
pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")

IGNORE = 9


def make(shapes, batch=2, classes=5, ignore=False, dtype=torch.float32, label_dtype=torch.int16, scale=3.0):
    """Logits of every shape and a label of the first."""
    generator = torch.Generator().manual_seed(0)
    outputs = [(scale * torch.randn(batch, classes, *s, generator=generator)).to(dtype) for s in shapes]
    label = torch.randint(classes, (batch, *shapes[0]), generator=generator).to(label_dtype)
    if ignore:
        label[torch.rand(label.shape, generator=generator) < 0.3] = IGNORE
        label[-1].fill_(IGNORE)  # a sample in which nothing counts
    return outputs, label


def both(monkeypatch, loss, outputs, label):
    """Value and gradients of torch in float64 and of the kernels."""
    results = []
    for fused in (False, True):
        monkeypatch.setattr(losses, "loss_fused", lambda *inputs, fused=fused: fused)
        leaves = [o.detach().clone() if fused else o.detach().double() for o in outputs]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        if not fused:  # which torch's path would turn to float32
            monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        value = loss(leaves if len(leaves) > 1 else leaves[0], label)
        monkeypatch.undo()
        got = gradients(value, leaves)
        results.append((value.item(), got))
        if fused:
            assert all(g.dtype == o.dtype and g.stride() == o.stride() for g, o in zip(got, outputs, strict=True))
    return results


SHAPES = [
    [(12, 10, 14), (6, 5, 7), (3, 3, 4)],
    [(1, 9, 11), (1, 5, 6)],
    [(40, 33), (20, 17), (10, 9), (5, 5)],
    [(7,), (4,)],
    [(1,)],
    [(1, 1, 1), (1, 1, 1)],
]


@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_equals_torch(monkeypatch, shapes, batch_dice, ignore, last):
    outputs, label = make(shapes, ignore=ignore)
    if last:
        outputs = [channels_last(o) for o in outputs]
    loss = DeepSupervision(DiceCELoss(batch_dice, IGNORE if ignore else None))
    (exact, expected), (value, got) = both(monkeypatch, loss, outputs, label)
    assert value == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert worst(got, expected, scale=1e-8) < 1e-5
    if len(shapes) > 1:
        assert got[-1] is not None and not got[-1].any()


TERMS = {
    "ce": {"dice": 0.0}, "dice": {"cross_entropy": 0.0},
    "tversky": {"false_positives": 0.2, "false_negatives": 0.9, "dice": 2.0, "cross_entropy": 0.5},
    "weighted": {"class_weights": (0.1, 1.0, 0.0, 3.0, 2.0)},
}  # fmt: skip


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_what_sums_are_enough_for_equals_torch(monkeypatch, terms, batch_dice, ignore):
    outputs, label = make(SHAPES[2], ignore=ignore)
    loss = DeepSupervision(DiceCELoss(batch_dice, IGNORE if ignore else None, Terms(**terms)))
    (exact, expected), (value, got) = both(monkeypatch, loss, outputs, label)
    assert value == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert worst(got, expected, scale=1e-8) < 1e-5


@pytest.mark.parametrize("terms", [{"hardest_percent": 10.0}, {"gamma": 2.0}], ids=str)
def test_what_sums_are_not_enough_for_is_torchs(monkeypatch, terms):
    outputs, label = make(SHAPES[2])
    loss = DeepSupervision(DiceCELoss(False, None, Terms(**terms)))
    (exact, expected), (value, got) = both(monkeypatch, loss, outputs, label)
    assert value == pytest.approx(exact, rel=1e-6)
    assert worst(got, expected, scale=1e-8) < 1e-5


def test_batch_dice_is_summed_over_ranks(monkeypatch):
    """Here every rank but this one has seen twice as much."""
    outputs, label = make(SHAPES[0])
    values = []
    for fused in (False, True):
        monkeypatch.setattr(losses, "loss_fused", lambda *inputs, fused=fused: fused)
        monkeypatch.setattr(losses, "sum_over_ranks", lambda sums: torch.stack([1.5 * sums[0], 3 * sums[1]]))
        values.append([DeepSupervision(DiceCELoss(batch))(outputs, label).item() for batch in (True, False)])
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert abs(values[0][0] - values[0][1]) > 1e-3  # the ranks count in one of them alone


@pytest.mark.parametrize("classes", [2, 3, 31, 32, 120, 257, 1024])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_any_number_of_classes(monkeypatch, classes, last):
    outputs, label = make([(5, 7), (3, 4)], classes=classes)
    outputs = [channels_last(o) for o in outputs] if last else outputs
    (exact, expected), (value, got) = both(monkeypatch, DeepSupervision(DiceCELoss(False)), outputs, label)
    assert value == pytest.approx(exact, rel=1e-6)
    assert worst(got, expected, scale=1e-8) < 1e-5


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_types(monkeypatch, dtype, label_dtype):
    outputs, label = make([(6, 7), (3, 4), (2, 2)], dtype=dtype, label_dtype=label_dtype)
    (exact, expected), (value, got) = both(monkeypatch, DeepSupervision(DiceCELoss(True)), outputs, label)
    assert value == pytest.approx(exact, rel=1e-6)
    assert worst(got, expected, scale=1e-8) < {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]


@pytest.mark.parametrize("sizes", [(41, 21), (41, 11), (10, 3), (100, 7), (97, 13), (33, 32), (5, 9), (320, 160)])
def test_every_resolution_finds_torchs_voxel(sizes):
    """Each voxel is of a class of its own, as far as 1024 of them go."""
    from umamba.models.kernels.dice_ce import dice_ce_sums

    full, low = sizes
    label = torch.arange(full)[None]
    sums = dice_ce_sums([torch.zeros(1, 1024, low)], label)
    expected = torch.bincount(resample_label(label, (low,))[0], minlength=1024)
    assert torch.equal(sums[0, 0, 2], expected.float())


@pytest.mark.parametrize("spread", [0.0, 1e-4, 80.0])
def test_extreme_logits(monkeypatch, spread):
    outputs, label = make([(9, 9)], scale=spread)
    (exact, expected), (value, got) = both(monkeypatch, DiceCELoss(False), [outputs[0] + 1000], label)
    assert value == pytest.approx(exact, rel=1e-6)
    assert worst(got, expected, scale=1e-8) < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_logit_that_is_not_finite_shows_in_the_loss(monkeypatch, bad, ignored):
    outputs, label = make([(9, 9)])
    outputs[0][1, 2, 3, 4] = bad
    if ignored:
        label[1, 3, 4] = IGNORE
    monkeypatch.setattr(losses, "loss_fused", lambda *inputs: True)
    logits = outputs[0].requires_grad_()
    loss = DiceCELoss(False, IGNORE if ignored else None)(logits, label)
    assert loss.isnan()
    assert gradients(loss, logits)[0][1].isnan().any()


@pytest.mark.parametrize("value", [-1, 5, 300])
def test_a_label_that_is_no_class_shows_in_the_loss(monkeypatch, value):
    outputs, label = make([(9, 9), (5, 5), (3, 3)])
    label[1, 0, 0] = value
    monkeypatch.setattr(losses, "loss_fused", lambda *inputs: True)
    outputs[0].requires_grad_()
    loss = DeepSupervision(DiceCELoss(False))(outputs, label)
    assert loss.isnan()
    assert gradients(loss, outputs[0])[0].isnan().any()


def test_a_view_of_a_larger_map_and_a_label_between_others(monkeypatch):
    outputs, label = make([(9, 9), (5, 5)])
    wide = [torch.nn.functional.pad(o, (0, 3, 0, 2)) for o in outputs]
    views = [w[..., : o.shape[2], : o.shape[3]] for w, o in zip(wide, outputs, strict=True)]
    loss = DiceCELoss(False)
    twice = torch.stack([label, label], -1)[..., 0]
    monkeypatch.setattr(losses, "loss_fused", lambda *inputs: True)
    assert loss(views[0], twice).item() == loss(outputs[0], label).item()


def test_as_a_torch_operation(monkeypatch):
    """What torch.compile sees, on the CPU: the operation, its fakes and its gradients."""
    from umamba.models.kernels import dice_ce

    dice_ce.operation.register_kernel("cpu", lambda *inputs: dice_ce.operation._init_fn(*inputs))
    dice_ce.operation_backward.register_kernel("cpu", lambda *inputs: dice_ce.operation_backward._init_fn(*inputs))
    outputs, label = make([(9, 9), (5, 5), (3, 3)], ignore=True)
    outputs = [outputs[0].requires_grad_(), channels_last(outputs[1]).requires_grad_(), outputs[2].requires_grad_()]
    torch.library.opcheck(dice_ce.operation, (outputs, label, IGNORE, 2))
    monkeypatch.setattr(losses, "loss_fused", lambda *inputs: True)
    loss = DeepSupervision(DiceCELoss(True, IGNORE))
    expected = loss(outputs, label)
    value = torch.compile(loss, backend="aot_eager", fullgraph=True)(outputs, label)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    got, own = (gradients(v, outputs) for v in (value, expected))
    assert worst(got, own, scale=1e-8) < 1e-6


@pytest.mark.parametrize(
    "kind", [(5, torch.float32, True, torch.int16, True), (2, torch.float16, False, torch.uint8, False)]
)
def test_the_check_accepts_right_kernels_and_no_others(monkeypatch, kind):
    from umamba.models.kernels import dice_ce, loss_check
    from umamba.models.mamba.scan.selfcheck import TOLERANCE

    errors = loss_check.relative_errors(*kind, torch.device("cpu"))
    assert len(errors) == 6 and max(errors.values()) < TOLERANCE
    right = dice_ce.forward
    monkeypatch.setattr(dice_ce, "forward", lambda *inputs: (right(*inputs)[0] * 1.0001, inputs[0]))
    assert max(loss_check.relative_errors(*kind, torch.device("cpu")).values()) > TOLERANCE


def test_input_that_does_not_fit_is_named():
    from umamba.models.kernels.dice_ce import dice_ce_sums

    outputs, label = make([(9, 9), (5, 5)])
    with pytest.raises(ValueError, match=r"float16 or bfloat16\).*got logits \(2, 5, 9, 9\) in float64 on cpu"):
        dice_ce_sums([outputs[0].double()], label)
    with pytest.raises(ValueError, match=r"2 to 1024 classes.*got logits \(2, 1025, 9, 9\)"):
        dice_ce_sums([torch.zeros(2, 1025, 9, 9)], label)
    with pytest.raises(ValueError, match="integer label.*and a label .* in float32"):
        dice_ce_sums(outputs, label.float())
    with pytest.raises(ValueError, match="fewer than 2147483648 elements a sample"):
        dice_ce_sums([torch.empty(2, 4, 1, 1).expand(2, 4, 2**15, 2**14)], label)
