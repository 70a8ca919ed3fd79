"""The scan's kernels, as they stand in the source, against the recurrence in float64; without a GPU."""

from __future__ import annotations

import importlib

import pytest
import torch
from kernel_emulation import KERNELS, emulated
from scan_inputs import make_inputs, relative, value_and_gradients
from torch.nn import functional as F

from umamba.models.mamba.scan.reference import reference_scan

CUTS = {"one chunk": 80, "chunks that the kernels join": 12, "chunks that carry joins": 2}  # tokens of each
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@pytest.fixture(params=[False, True], ids=["copies at once", "copies late"])
def kernels(request):
    """The module with this name, its kernels run by the emulation on one multiprocessor, so that a program of the
    backward pass has several chunks and blocks of channels.
    """
    with emulated(request.param):
        resident = importlib.import_module(f"{KERNELS}.resident")
        resident.NOMINAL = resident.NOMINAL._replace(multiprocessors=1)
        yield lambda name: importlib.import_module(f"{KERNELS}.{name}")


def cut(kernels, length, tokens, block):
    return kernels("tiling").Tiling(tokens, -(-length // tokens), block)


@pytest.mark.parametrize("tokens", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    ("shape", "block"), [((2, 70, 40, 16), 32), ((1, 79, 100, 5), 64), ((1, 75, 3, 64), 32), ((1, 70, 32, 1), 32)]
)
def test_scan_agrees_with_the_recurrence(kernels, shape, block, tokens):
    inputs = make_inputs(*shape)
    weight = torch.randn(shape[:3], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = value_and_gradients(reference_scan, inputs, weight)
    given = [inputs[name].float() for name in NAMES]
    tiling = cut(kernels, shape[1], tokens, block)
    out, kept = kernels("scan_forward").scan_forward(*given, True, tiling=tiling)
    got = kernels("scan_backward").scan_backward(weight.float(), *given, True, kept, tiling=tiling)
    results = (out, got.u, got.delta, got.A, *got.small.chunk(2, -1), got.skip, got.z, got.bias)
    assert all(relative(a, b) < 1e-5 for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("tokens", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(("rank", "dtype"), [(1, torch.float32), (3, torch.float16), (4, torch.float32)])
def test_step_sizes_projected_inside_and_gradients_in_place(kernels, rank, tokens, dtype):
    """As the fused block does it: step input, B and C side by side in float32, maps in any precision, two of three
    overwritten by their gradients and the third by the output.
    """
    batch, length, channels, states = 2, 70, 48, 16
    generator = torch.Generator().manual_seed(rank)
    inputs = make_inputs(batch, length, channels, states)
    inputs |= {name: inputs[name].to(dtype).double() for name in ("u", "z")}
    small = torch.randn(batch, length, rank + 2 * states, dtype=torch.float64, generator=generator)
    projection = torch.randn(channels, rank, dtype=torch.float64, generator=generator)
    weight = torch.randn(batch, length, channels, dtype=torch.float64, generator=generator).to(dtype).double()

    def scan(u, small, projection, A, D, z, delta_bias, delta_softplus):
        step, B, C = small.split([rank, states, states], -1)
        return reference_scan(u, step @ projection.t(), A, B, C, D, z, delta_bias, delta_softplus)

    exact = {"u": inputs["u"], "small": small, "projection": projection}
    exact |= {name: inputs[name] for name in ("A", "D", "z", "delta_bias")}
    expected = value_and_gradients(scan, exact, weight)
    step, B, C = small.float().split([rank, states, states], -1)
    u, z, y = (t.to(dtype) for t in (inputs["u"], inputs["z"], weight))
    A, D, bias = (inputs[n].float() for n in ("A", "D", "delta_bias"))
    given = (u, step, A, B, C, D, z, bias, True)
    tiling = cut(kernels, length, tokens, 32)
    out, kept = kernels("scan_forward").scan_forward(*given, weight=projection.float(), tiling=tiling)
    got = kernels("scan_backward").scan_backward(
        y, *given, kept, weight=projection.float(), in_place=True, tiling=tiling
    )
    assert got.u is u and got.z is z and relative(y, out.double()) < 1e-3
    results = (y, u, got.small, got.weight, got.A, got.skip, z, got.bias)
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    assert all(relative(a, b) < limit for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_convolution_and_its_gradients_in_place(kernels, dtype):
    conv = kernels("conv")
    batch, length, channels, width = 2, 70, 40, 4
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, batch, length, channels, dtype=torch.float64, generator=generator).to(dtype).double()
    weight = torch.randn(channels, 1, width, dtype=torch.float64, generator=generator)
    bias = torch.randn(channels, dtype=torch.float64, generator=generator)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=width - 1, groups=channels)[..., :length]
    y = F.silu(y).transpose(1, 2)
    expected = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    given = x.detach().to(dtype)
    weight, bias = weight.detach().float(), bias.detach().float()
    edges = given.new_empty(conv.edge_shape(given, channels, width))
    out = conv.conv_silu(given, weight, bias, edges)
    again = torch.empty_like(out)
    gradients = conv.conv_silu_backward(grad.to(dtype), given, edges, weight, bias, again)
    assert torch.allclose(again, out, rtol=1e-5 if dtype == torch.float32 else 1e-3, atol=1e-6)
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    assert all(relative(a, b) < limit for a, b in zip((out, given, *gradients), expected, strict=True))
