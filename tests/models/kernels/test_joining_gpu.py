"""Maps joined and parted on a GPU, and weights cast at once; pytest -m gpu tests/models/kernels."""

from __future__ import annotations

import pytest
import torch
from norm_inputs import channels_last
from torch import Tensor, nn

from umamba.models import unet
from umamba.models.kernels.concatenation import concatenate
from umamba.models.umamba import UMamba

pytestmark = pytest.mark.gpu
TOPOLOGY = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features_per_stage": (8, 16, 32),
    "kernel_sizes": ((1, 3, 3), 3, 3), "strides": (1, (1, 2, 2), 2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def same_passes(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias_dtype", [torch.float32, None], ids=["bias in float32", "bias in the map's"])
@pytest.mark.parametrize(
    ("shape", "more"), [((2, 5, 3, 4, 5), 5), ((1, 33, 97, 91), 7), ((2, 32, 20, 56, 48), 32), ((3, 320, 20, 20), 320)]
)
def test_it_is_an_addition_and_a_concatenation(shape, more, bias_dtype, dtype):
    torch.manual_seed(0)
    x = channels_last(torch.randn(shape, device="cuda", dtype=dtype)).requires_grad_()
    skip = channels_last(torch.randn(shape[0], more, *shape[2:], device="cuda", dtype=dtype)).requires_grad_()
    bias = torch.randn(shape[1], device="cuda", dtype=bias_dtype or dtype, requires_grad=True)
    out = concatenate(x, skip, bias)
    assert torch.equal(out, torch.cat([x + bias.to(dtype).view(-1, *[1] * (x.dim() - 2)), skip], 1))
    grad = channels_last(torch.randn_like(out))
    passes = [torch.autograd.grad(concatenate(x, skip, bias), (x, skip, bias), grad) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*passes, strict=True))
    grad_x, grad_skip, grad_bias = passes[0]
    assert torch.equal(grad_x, grad[:, : shape[1]]) and torch.equal(grad_skip, grad[:, shape[1] :])
    exact = grad[:, : shape[1]].double().sum([0, *range(2, x.dim())])
    tolerance = 1e-5 if grad_bias.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(grad_bias.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    network.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        outputs = network(x)
    sum((output.float() * output.detach().float().cos()).mean() for output in outputs).backward()
    return [*(output.detach() for output in outputs), *(p.grad for p in network.parameters())]


@pytest.mark.parametrize("mamba", ["none", "encoder"])
def test_weights_cast_at_once_are_autocasts(mamba, monkeypatch):
    torch.manual_seed(0)
    network = UMamba(mamba=mamba, **TOPOLOGY).cuda()
    x = torch.randn(2, 1, 8, 32, 32, device="cuda")
    got = gradients(network, x)
    monkeypatch.setattr(unet, "casts_at_once", lambda x: False)
    for own, other in zip(got, gradients(network, x), strict=True):
        assert own.dtype == other.dtype
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)
