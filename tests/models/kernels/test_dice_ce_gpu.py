"""The fused Dice and cross-entropy on a GPU: numbers, determinism, no waiting, CUDA graphs, torch.compile.

pytest -m gpu tests/models/kernels
"""

from __future__ import annotations

import pytest
import torch
from norm_inputs import channels_last, worst

from umamba.models import losses
from umamba.models.loss_terms import Terms
from umamba.models.losses import DeepSupervision, DiceCELoss

pytestmark = pytest.mark.gpu
IGNORE = 9
SHAPES = [
    [(40, 56, 40), (20, 28, 20), (10, 14, 10)],
    [(41, 57, 39), (21, 29, 20), (7, 15, 10)],
    [(320, 320), (160, 160), (80, 80)],
    [(1000,), (333,)],
]


def make(shapes, batch=2, classes=5, dtype=torch.float32, last=False, ignore=False):
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda"}
    outputs = [torch.randn(batch, classes, *s, dtype=dtype, **options) * 3 for s in shapes]
    outputs = [channels_last(o) for o in outputs] if last else outputs
    label = torch.randint(classes, (batch, *shapes[0]), dtype=torch.int16, **options)
    if ignore:
        label[torch.rand(label.shape, **options) < 0.3] = IGNORE
    return [o.requires_grad_() for o in outputs], label


SCALE = 2.0**16  # of the loss, as a gradient scaler's: float16 would lose gradients of a millionth


def run(loss, outputs, label):
    value = loss(outputs, label)
    return [value.detach(), *torch.autograd.grad(SCALE * value, outputs)]


def exactly(monkeypatch, loss, outputs, label):
    """`run` in torch's operations and float64, which they would turn to float32."""
    with monkeypatch.context() as patch:
        patch.setattr(losses, "loss_fused", lambda *inputs: False)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        return run(loss, [o.detach().double().requires_grad_() for o in outputs], label)


def never_waits_and_replays(loss, outputs, label, expected):
    """The host waits for nothing in a step, and a graph of it gives the same, to the last bit."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(loss, outputs, label)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(loss, outputs, label)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_equals_torch_and_itself(monkeypatch, shapes, batch_dice, ignore, dtype, last):
    outputs, label = make(shapes, dtype=dtype, last=last, ignore=ignore)
    loss = DeepSupervision(DiceCELoss(batch_dice, IGNORE if ignore else None))
    assert losses.loss_fused(outputs, label, loss.loss.ignore_label)
    got, again = run(loss, outputs, label), run(loss, outputs, label)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    assert all(g.stride() == o.stride() and g.dtype == o.dtype for g, o in zip(got[1:], outputs, strict=True))
    exact = exactly(monkeypatch, loss, outputs, label)
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-6, abs=1e-6)
    assert worst(got[1:], exact[1:], scale=1e-8 * SCALE) < (1e-5 if dtype == torch.float32 else 1e-2)


TERMS = {
    "dice": Terms(cross_entropy=0.0),
    "tversky": Terms(false_positives=0.2, false_negatives=0.9, dice=2.0, cross_entropy=0.5),
    "weighted": Terms(class_weights=(0.1, 1.0, 0.0, 3.0, 2.0)),
    "topk": Terms(dice=0.0, hardest_percent=10.0),
    "dice_topk": Terms(hardest_percent=10.0),
    "dice_focal": Terms(gamma=2.0),
}


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_relatives_equal_torch_and_are_captured(monkeypatch, terms, ignore):
    """Those that the kernels' sums are enough for, and those in torch's operations: no step may wait."""
    outputs, label = make(SHAPES[0], last=True, ignore=ignore)
    loss = DeepSupervision(DiceCELoss(True, IGNORE if ignore else None, terms)).cuda()
    assert loss.loss.fusible(outputs, label) == terms.of_sums
    exact = exactly(monkeypatch, loss, outputs, label)
    got = run(loss, outputs, label)
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-6, abs=1e-6)
    assert worst(got[1:], exact[1:], scale=1e-8 * SCALE) < 1e-4
    never_waits_and_replays(loss, outputs, label, got)


@pytest.mark.parametrize("classes", [2, 14, 120, 1024])
def test_any_number_of_classes(monkeypatch, classes):
    outputs, label = make([(10, 33, 35), (5, 17, 18), (3, 9, 9)], classes=classes, last=True)
    loss = DeepSupervision(DiceCELoss(False))
    got = run(loss, outputs, label)
    exact = exactly(monkeypatch, loss, outputs, label)
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert worst(got[1:], exact[1:], scale=1e-8 * SCALE) < 1e-5


@pytest.mark.parametrize("sizes", [(41, 21), (41, 11), (10, 3), (100, 7), (97, 13), (33, 32), (5, 9), (1000, 999)])
def test_every_resolution_finds_torchs_voxel(sizes):
    from umamba.models.kernels.dice_ce import dice_ce_sums

    full, low = sizes
    label = torch.arange(full, device="cuda")[None]
    sums = dice_ce_sums([torch.zeros(1, 1024, low, device="cuda")], label)
    expected = torch.bincount(losses.resample_label(label, (low,))[0], minlength=1024)
    assert torch.equal(sums[0, 0, 2], expected.float())


def test_the_host_never_waits_and_a_graph_can_be_made():
    outputs, label = make(SHAPES[0], last=True, dtype=torch.bfloat16)
    loss = DeepSupervision(DiceCELoss(False))
    never_waits_and_replays(loss, outputs, label, run(loss, outputs, label))


def test_compiled_as_one_graph():
    outputs, label = make(SHAPES[0], last=True)
    loss = DeepSupervision(DiceCELoss(True, IGNORE))
    expected = run(loss, outputs, label)
    got = run(torch.compile(loss, backend="aot_eager", fullgraph=True), outputs, label)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8 * SCALE) for a, b in zip(got, expected, strict=True))


def test_the_operation_describes_itself():
    from umamba.models.kernels.dice_ce import operation

    outputs, label = make(SHAPES[0])
    torch.library.opcheck(operation, ([o.detach() for o in outputs], label, None, 2))


def test_logits_beyond_32_bits(monkeypatch):
    """Of the batch; of a sample torch's path takes over."""
    outputs, label = make([(256, 256, 256)], classes=26, batch=5, dtype=torch.float16, last=True)
    assert outputs[0].numel() > 2**31
    losses_of_one = [run(DiceCELoss(False), outputs[0][i : i + 1], label[i : i + 1])[0] for i in range(5)]
    value, gradient = run(DiceCELoss(False), outputs[0], label)
    assert value.item() == pytest.approx(torch.stack(losses_of_one).mean().item(), rel=1e-6)
    assert gradient[-1].isfinite().all() and gradient[-1].any()
