"""The fused instance norm on a GPU: numbers, determinism, layouts, and a network with and without it.

pytest -m gpu tests/models/kernels
"""

from __future__ import annotations

import pytest
import torch
from norm_inputs import SLOPE, channels_last, expected, make_inputs, worst

from umamba.models.kernels import choice
from umamba.models.unet import PlainConvUNet

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


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
