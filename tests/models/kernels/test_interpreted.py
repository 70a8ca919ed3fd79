"""The fused instance norm in Triton's interpreter: `TRITON_INTERPRET=1 pytest` of this file.

Triton reads the variable when it is imported, so `test_norm_act.py` runs these in a process of their own.
"""

from __future__ import annotations

import os

import pytest
import torch
from norm_inputs import EPS, SLOPE, channels_last, expected, make_inputs, worst

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set; test_norm_act.py runs these tests with it", allow_module_level=True)
pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")


@pytest.fixture
def interpreted(monkeypatch):
    from umamba.models.kernels import norm_act_launch

    monkeypatch.setattr(norm_act_launch, "WHOLE", 100)  # larger maps are cut into chunks
    return norm_act_launch


@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 5), (1, 33, 7, 9), (2, 3, 11, 13, 7), (1, 4, 1), (1, 1, 130)])
@pytest.mark.parametrize("residual", [False, True])
def test_agrees_with_float64(interpreted, shape, residual, last):
    *inputs, grad = make_inputs(shape, residual=residual)
    exact = expected(*inputs, grad)
    x, weight, bias, added = (None if t is None else t.float() for t in inputs)
    x = channels_last(x) if last else x
    out, stats = interpreted.forward(x, weight, bias, added, SLOPE, EPS)
    got = interpreted.backward(grad.float(), stats, x, weight, bias, added, SLOPE)
    assert out.stride() == x.stride()
    assert worst([out, *(t for t in got if t is not None)], exact) < 1e-5
    assert torch.equal(interpreted.output(x, weight, bias, stats, added, SLOPE), out)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 5), (1, 33, 7, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_formed_on_the_way_is_the_one_that_was_stored(interpreted, shape, dtype):
    x, weight, bias, source, grad = (channels_last(t) if t.dim() > 1 else t for t in make_inputs(shape, dtype=dtype))
    added, r_stats = interpreted.forward(source, bias, weight, None, 0.5, EPS)
    normed = interpreted.Normed(source, bias, weight, r_stats, 0.5)
    out, stats = interpreted.forward(x, weight, bias, added, SLOPE, EPS)
    assert torch.equal(interpreted.output(x, weight, bias, stats, normed, SLOPE), out)
    got = interpreted.backward(grad, stats, x, weight, bias, normed, SLOPE)
    expected = interpreted.backward(grad, stats, x, weight, bias, added, SLOPE)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 5), (1, 33, 7, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_norms_in_one_are_two(interpreted, shape, dtype):
    from umamba.models.kernels.norm_act import norm_act, norms_act

    leaves = [(channels_last(t) if t.dim() > 1 else t) for t in make_inputs(shape, dtype=dtype)]
    x, weight, bias, r, grad = leaves
    inputs = [t.detach().clone().requires_grad_() for t in (x, weight, bias, r, weight + 1, bias - 1)]
    x, weight, bias, r, r_weight, r_bias = inputs
    one = norms_act(x, weight, bias, None, r, r_weight, r_bias, SLOPE, EPS)
    two = norm_act(x, weight, bias, norm_act(r, r_weight, r_bias, eps=EPS), slope=SLOPE, eps=EPS)
    assert torch.equal(one, two)
    pairs = zip(*(torch.autograd.grad(y, inputs, grad) for y in (one, two)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["random", "constant"])
@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 3, 9, 17)])
@pytest.mark.parametrize("residual", [False, True])
def test_half_precision(interpreted, shape, kind, residual, dtype):
    *inputs, grad = make_inputs(shape, kind, residual, dtype)
    exact = expected(*inputs, grad)
    out, stats = interpreted.forward(*inputs, SLOPE, EPS)
    got = interpreted.backward(grad, stats, *inputs, SLOPE)
    assert out.dtype == dtype
    assert worst([out, *(t for t in got if t is not None)], exact) < 1e-2


@pytest.mark.parametrize("kind", ["constant", "huge", "tiny", "far from zero"])
def test_extreme_values(interpreted, kind):
    *inputs, grad = make_inputs((2, 3, 9, 17), kind)
    exact = expected(*inputs, grad)
    single = [t.float() for t in inputs]
    out, stats = interpreted.forward(*single, SLOPE, EPS)
    got = interpreted.backward(grad.float(), stats, *single, SLOPE)
    assert worst([out, *got], exact) < 1e-4 if kind == "far from zero" else 1e-5  # x itself is rounded at 500


def test_input_that_does_not_fit_is_named():
    from umamba.models.kernels.norm_act import norm_act

    ones = torch.ones(2)
    with pytest.raises(ValueError, match=r"float32, float16 or bfloat16, but got shape \(1, 2, 3\) in float64"):
        norm_act(torch.zeros(1, 2, 3, dtype=torch.float64), ones, ones)
    with pytest.raises(ValueError, match=r"fewer than 2147483648 elements an image, but got shape \(1, 4, 536870912\)"):
        norm_act(torch.empty(1, 4, 1).expand(1, 4, 2**29), torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match=r"must be \(4,\) .* they are \(2,\)"):
        norm_act(torch.zeros(1, 4, 3), ones, ones)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # the interpreter cuts bfloat16 off
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 5), (1, 33, 7, 9), (3, 40, 1, 3), (2, 64, 13, 12)])
@pytest.mark.parametrize("more", [7, 40])
def test_joining_and_parting_are_torchs(shape, more, biased, dtype):
    from umamba.models.kernels.concatenation_launch import joined, parted

    torch.manual_seed(0)
    x = channels_last(torch.randn(shape, dtype=dtype))
    other = channels_last(torch.randn(shape[0], more, *shape[2:], dtype=dtype))
    bias = torch.randn(shape[1]) if biased else None
    added = x if bias is None else x + bias.to(dtype).view(-1, *[1] * (x.dim() - 2))
    out = joined(x, other, bias)
    assert torch.equal(out, torch.cat([added, other], 1)) and out.movedim(1, -1).is_contiguous()
    grad = channels_last(torch.randn(out.shape, dtype=dtype))
    grad_x, grad_other, grad_bias = parted(grad, shape[1], bias)
    assert torch.equal(grad_x, grad[:, : shape[1]]) and torch.equal(grad_other, grad[:, shape[1] :])
    assert grad_x.movedim(1, -1).is_contiguous() and grad_other.movedim(1, -1).is_contiguous()
    if biased:
        exact = grad[:, : shape[1]].double().sum([0, *range(2, x.dim())])
        torch.testing.assert_close(grad_bias.double(), exact, rtol=1e-5, atol=1e-5)
    else:
        assert grad_bias is None


def test_joined_maps_in_a_graph_of_gradients(monkeypatch):
    """As the network does it, the upsampled map's bias included."""
    from umamba.models.kernels import concatenation

    monkeypatch.setattr(concatenation, "fused", lambda x: True)
    torch.manual_seed(0)
    x, skip = (channels_last(torch.randn(2, c, 3, 4, 5)).requires_grad_() for c in (4, 6))
    bias = torch.randn(4, requires_grad=True)
    grad = channels_last(torch.randn(2, 10, 3, 4, 5))
    got = concatenation.concatenate(x, skip, bias)
    expected = torch.cat([x + bias.view(-1, 1, 1, 1), skip], 1)
    assert torch.equal(got, expected)
    pairs = zip(*(torch.autograd.grad(y, (x, skip, bias), grad) for y in (got, expected)), strict=True)
    for own, other in pairs:
        torch.testing.assert_close(own, other)


def test_the_check_of_a_device_passes():
    from umamba.models.kernels.selfcheck import _concatenation_errors

    errors = _concatenation_errors(torch.device("cpu"))
    assert len(errors) == 4 and max(errors.values()) < 1e-6


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 34), (300, 40), (100, 33)])
def test_rows_are_padded_with_zeros(rows, columns):
    from umamba.models.mamba.kernels.widen import pad_rows

    table, wide = torch.randn(rows, columns), columns + -columns % 8
    out = torch.full((rows, wide), float("nan"), dtype=torch.float16)
    pad_rows[(-(-rows * wide // 128),)](table, out, rows, columns, wide, 128)
    assert torch.equal(out, torch.nn.functional.pad(table, (0, wide - columns)).half())
