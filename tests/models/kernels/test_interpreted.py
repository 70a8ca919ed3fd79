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
