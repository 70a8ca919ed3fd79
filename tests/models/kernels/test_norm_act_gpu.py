"""The fused instance norm on a GPU: numbers, determinism, layouts, and a network with and without it.

pytest -m gpu tests/models/kernels
"""

from __future__ import annotations

import pytest
import torch
from norm_inputs import EPS, SLOPE, channels_last, expected, make_inputs, worst

from umamba.models.kernels import choice, formed
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet

pytestmark = pytest.mark.gpu


def run(x, weight, bias, residual, grad):
    from umamba.models.kernels.norm_act import norm_act

    leaves = [t.clone().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    out = norm_act(*leaves[:3], leaves[3] if residual is not None else None, slope=SLOPE)
    assert out.stride() == x.stride() and out.dtype == x.dtype
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("kind", ["random", "constant", "huge", "tiny"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 5), (1, 33, 97, 91), (2, 64, 20, 28, 24), (1, 4, 1)])
def test_agrees_with_float64_and_with_itself(shape, kind, last, dtype):
    for residual in (False, True):
        inputs = [t if t is None else t.cuda() for t in make_inputs(shape, kind, residual, dtype)]
        exact = expected(*inputs)
        if last:
            inputs[0] = channels_last(inputs[0])
        got, again = run(*inputs), run(*inputs)
        assert worst(got, exact) < (1e-5 if dtype == torch.float32 else 1e-2)
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_a_network_with_and_without_it(monkeypatch):
    """In float32, with the convolutions' rounding that of float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features_per_stage": (8, 16, 32)}
    network = PlainConvUNet(**arguments, kernel_sizes=((1, 3, 3), 3, 3), strides=(1, (1, 2, 2), 2))
    x = torch.randn(2, 1, 10, 33, 35)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    results = []
    for usable in (True, False):
        if not usable:
            monkeypatch.setattr(choice, "_usable", lambda *device: False)
        network = PlainConvUNet(**arguments, kernel_sizes=((1, 3, 3), 3, 3), strides=(1, (1, 2, 2), 2))
        network.load_state_dict(state)
        outputs = network.cuda()(x.cuda())
        sum(o.square().mean() for o in outputs).backward()
        assert all(p.grad is not None for p in network.parameters())
        gradients = [p.grad for n, p in network.named_parameters() if not n.endswith("conv.bias")]
        results.append([*(o.detach() for o in outputs), torch.cat([g.flatten() for g in gradients])])
        assert list(network.state_dict()) == list(state)
    assert results[0][0].stride(1) == 1 and results[1][0].stride(-1) == 1  # cropped views of both layouts
    assert worst(*results) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 33, 3, 4, 5), (1, 64, 97, 91), (2, 32, 20, 28, 24)])
def test_the_output_formed_again_is_the_output(shape, dtype):
    from umamba.models.kernels.norm_act_launch import Normed, backward, forward, output

    for residual in (False, True):
        x, *others = (None if t is None else t.cuda() for t in make_inputs(shape, "random", residual, dtype)[:4])
        for inputs in ((x, *others), (channels_last(x), *others)):
            out, stats = forward(*inputs, SLOPE, EPS)
            assert torch.equal(output(*inputs[:3], stats, inputs[3], SLOPE), out)
            stored, r_stats = forward(out, *inputs[1:3], None, SLOPE, EPS)
            normed = Normed(out, *inputs[1:3], r_stats, SLOPE)
            formed_from = (output(*inputs[:3], stats, r, SLOPE) for r in (stored, normed))
            assert torch.equal(*formed_from)
            gradients = (backward(stored, stats, *inputs[:3], r, SLOPE) for r in (stored, normed))
            assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mamba", ["none", "encoder"])
def test_maps_formed_again_change_nothing_but_the_memory(mamba, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.manual_seed(0)
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features_per_stage": (32, 64, 64)}
    network = UMamba(**arguments, kernel_sizes=((1, 3, 3), 3, 3), strides=(1, (1, 2, 2), 2), mamba=mamba).cuda()
    x = torch.randn(2, 1, 24, 64, 64, device="cuda")

    def step():
        network.zero_grad()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", dtype):
            outputs = network(x)
        kept = torch.cuda.memory_allocated() - before
        sum(o.float().square().mean() for o in outputs).backward()
        return [*(o.detach() for o in outputs), *(p.grad.clone() for p in network.parameters())], kept

    got, kept = step()
    monkeypatch.setattr(formed, "SMALLEST", float("inf"))
    expected, kept_without = step()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert kept < 0.9 * kept_without


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 64, 97, 91), (2, 32, 20, 28, 24), (1, 5, 3, 4, 5)])
def test_two_norms_in_one_are_two(shape, dtype):
    from umamba.models.kernels.norm_act import norm_act, norms_act

    x, weight, bias, r, grad = (t.cuda() for t in make_inputs(shape, dtype=dtype))
    x, r, grad = (channels_last(t) for t in (x, r, grad))
    inputs = [t.detach().clone().requires_grad_() for t in (x, weight, bias, r, weight + 1, bias - 1)]
    x, weight, bias, r, r_weight, r_bias = inputs
    one = norms_act(x, weight, bias, None, r, r_weight, r_bias, SLOPE, EPS)
    two = norm_act(x, weight, bias, norm_act(r, r_weight, r_bias, eps=EPS), slope=SLOPE, eps=EPS)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2  # a map of few positions is summed in another order
    for a, b in zip(
        (one, *torch.autograd.grad(one, inputs, grad)), (two, *torch.autograd.grad(two, inputs, grad)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
