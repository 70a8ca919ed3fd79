"""Orders and the Mamba layer against loops over tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from umamba.models.mamba.block import Mamba
from umamba.models.mamba.gated_conv import GatedConv
from umamba.models.mamba.layer import ORDERS, MambaLayer
from umamba.models.mamba.orders import AxisScan, bidirectional, tri_oriented
from umamba.models.mamba.ssd import SSD, chunked_scan

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple)


@given(shape=shapes, data=st.data())
@settings(max_examples=50, deadline=None)
def test_restore_undoes_arrange(shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.none() | st.permutations(range(len(shape))).map(tuple))
    scan = AxisScan(axes=axes, reverse=data.draw(st.booleans()))
    tokens = torch.arange(int(np.prod(shape)) * 2.0).reshape(1, -1, 2)
    arranged = scan.arrange(tokens, shape)
    assert sorted(arranged[0, :, 0].tolist()) == tokens[0, :, 0].tolist()
    assert torch.equal(scan.restore(arranged, shape), tokens)


def test_third_direction_of_tri_oriented_runs_through_the_slices() -> None:
    shape = (2, 3, 2)
    positions = torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float)[None]  # raster (D, H, W)
    directions = [d.arrange(positions, shape)[0].int().tolist() for d in tri_oriented(3)]
    assert directions[0] == positions[0].int().tolist()
    assert directions[1] == positions[0].int().tolist()[::-1]
    assert directions[2] == [[d, h, w] for h in range(3) for w in range(2) for d in range(2)]
    columns = tri_oriented(2)[2].arrange(positions[:, :6, 1:], (3, 2))[0].int().tolist()
    assert columns == [[h, w] for w in range(2) for h in range(3)]


def test_tokens_that_do_not_fill_the_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 tokens do not fill spatial shape \(2, 3\)"):
        tri_oriented(2)[2].arrange(torch.zeros(1, 5, 1), (2, 3))


def mamba_by_loop(weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Gu & Dao's algorithm 2 in float64, one token after the other: (L, d) -> (L, d)."""
    length = len(tokens)
    inner, states = weights["A_log"].shape
    rank = weights["dt_proj.weight"].shape[1]
    u, z = np.split(tokens @ weights["in_proj.weight"].T, 2, axis=1)
    taps = weights["conv1d.weight"].shape[2]
    past = np.concatenate([np.zeros((taps - 1, inner)), u])
    u = (
        np.stack([(past[t : t + taps].T * weights["conv1d.weight"][:, 0]).sum(1) for t in range(length)])
        + weights["conv1d.bias"]
    )
    u = u / (1 + np.exp(-u))
    state, out = np.zeros((inner, states)), np.zeros((length, inner))
    for t in range(length):
        dt, b, c = np.split(weights["x_proj.weight"] @ u[t], [rank, rank + states])
        delta = np.log1p(np.exp(weights["dt_proj.weight"] @ dt + weights["dt_proj.bias"]))
        state = np.exp(-delta[:, None] * np.exp(weights["A_log"])) * state + (delta * u[t])[:, None] * b
        out[t] = state @ c + weights["D"] * u[t]
    return (out * z / (1 + np.exp(-z))) @ weights["out_proj.weight"].T


def numpy_weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_layer_is_norm_then_the_sum_over_directions(order: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = 6
    layer = MambaLayer(channels, spatial_dims=len(shape), order=order)
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.uniform_(-0.5, 0.5)
    x = torch.randn(1, channels, *shape)
    positions = list(itertools.product(*map(range, shape)))
    by_slices = sorted(positions, key=lambda p: (*p[1:], p[0]))
    paths = {
        "raster": [positions],
        "bidirectional": [positions, positions[::-1]],
        "tri_oriented": [positions, positions[::-1], by_slices],
    }[order]
    expected = np.zeros((channels, *shape))
    volume = x[0].double().numpy()
    for mixer, path in zip(layer.mixers, paths, strict=True):
        tokens = np.stack([volume[(slice(None), *p)] for p in path])
        tokens = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
        tokens = tokens * layer.norm.weight.detach().numpy() + layer.norm.bias.detach().numpy()
        for position, value in zip(path, mamba_by_loop(numpy_weights(mixer), tokens), strict=True):
            expected[(slice(None), *position)] += value
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=2e-6)


def test_channel_tokens_scan_over_the_channels() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(6, spatial_dims=2, channel_tokens=True)
    x = torch.randn(1, 5, 2, 3)  # five tokens of width six
    tokens = nn.functional.layer_norm(x.flatten(2), (6,))[0].double().numpy()
    expected = mamba_by_loop(numpy_weights(layer.mixers[0]), tokens).reshape(5, 2, 3)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=2e-6)


def test_directions_share_the_outer_projections_only() -> None:
    layer = MambaLayer(4, spatial_dims=2, order=bidirectional)
    forward, backward = layer.mixers
    assert forward.in_proj is backward.in_proj and forward.out_proj is backward.out_proj
    assert forward.dt_proj is not backward.dt_proj and forward.A_log is not backward.A_log
    layer(torch.randn(1, 4, 3, 3)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("mixer", [Mamba, SSD, GatedConv])
def test_every_mixer_is_causal(mixer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = mixer(8)
    x = torch.randn(1, 20, 8)
    changed = x.clone()
    changed[:, 12:] += 1
    with torch.no_grad():
        before, after = module(x), module(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-6, rtol=0)
    assert (before[:, 12:] - after[:, 12:]).abs().min() > 0


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (7, 4), (16, 4), (70, 4), (300, 4), (13, 64)])
def test_chunked_ssd_scan_is_the_recurrence(length: int, chunk: int) -> None:
    """Lengths of one chunk, a part of one, and enough for three levels of chunks of chunks."""
    torch.manual_seed(length)
    heads, width, states = 2, 3, 5
    x = torch.randn(2, length, heads, width, dtype=torch.float64, requires_grad=True)
    log_decay = -torch.rand(2, length, heads, dtype=torch.float64)
    b, c = torch.randn(2, 2, length, states, dtype=torch.float64)
    state, expected = torch.zeros(2, heads, width, states, dtype=torch.float64), []
    for t in range(length):
        state = state * log_decay[:, t].exp()[..., None, None] + x[:, t, ..., None] * b[:, t, None, None]
        expected.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]))
    expected = torch.stack(expected, 1)
    result = chunked_scan(x, log_decay, b, c, chunk)
    torch.testing.assert_close(result, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((result * weight).sum(), x)[0], torch.autograd.grad((expected * weight).sum(), x)[0]
    )


def test_strong_decay_over_long_chunks_stays_finite() -> None:
    x = torch.randn(1, 256, 1, 2, requires_grad=True)
    log_decay = torch.full((1, 256, 1), -50.0, requires_grad=True)
    b, c = torch.randn(2, 1, 256, 4)
    result = chunked_scan(x, log_decay, b, c, 64)
    gradients = torch.autograd.grad(result.sum(), (x, log_decay))
    assert all(t.isfinite().all() for t in (result, *gradients))


def test_gated_conv_is_its_equation() -> None:
    torch.manual_seed(0)
    module = GatedConv(3)
    x = torch.randn(1, 6, 3)
    u, z = (x[0] @ module.in_proj.weight.T).double().chunk(2, dim=1)
    rows = []
    for t in range(6):
        taps = [(u[t - 3 + k] if t - 3 + k >= 0 else 0 * u[0]) * module.conv1d.weight[:, 0, k] for k in range(4)]
        rows.append(sum(taps) + module.conv1d.bias)
    u = torch.stack(rows)
    expected = (u * u.sigmoid() * z * z.sigmoid()).float() @ module.out_proj.weight.T
    torch.testing.assert_close(module(x)[0], expected)


def test_ssd_block_starts_as_the_reference() -> None:
    """Steps in [1e-3, 1e-1] and decays in [1, 16], one per head of 64 channels."""
    torch.manual_seed(0)
    block = SSD(320)
    assert (block.head_dim, len(block.D)) == (64, 10)
    steps, decays = nn.functional.softplus(block.dt_bias), block.A_log.exp()
    assert steps.min() >= 1e-3 and steps.max() <= 1e-1 + 1e-6
    assert decays.min() >= 1 and decays.max() <= 16
    assert SSD(24).head_dim == 16  # 48 channels: the largest head that divides both 48 and 64
