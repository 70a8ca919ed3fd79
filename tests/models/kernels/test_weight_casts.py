"""Weights that are cast at once give what autocast's own casts give, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umamba.models.gradient_exchange import GradientExchange
from umamba.models.kernels import weight_casts
from umamba.models.kernels.weight_casts import cast_all, casts_at_once
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet

TOPOLOGY = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features_per_stage": (4, 8, 8),
    "kernel_sizes": ((1, 3, 3), 3, 3), "strides": (1, (1, 2, 2), 2), "deep_supervision": True,
}  # fmt: skip


@pytest.fixture
def at_once(monkeypatch) -> Iterator[list[int]]:
    """As on a GPU; counts the passes. With torch's own convolutions: oneDNN's leave bf16 gradients unwritten."""
    passes: list[int] = []

    def recorded(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        passes.append(len(tensors))
        return cast_all(tensors, dtype)

    monkeypatch.setattr(weight_casts, "fused", lambda x: True)
    monkeypatch.setattr(weight_casts, "cast_all", recorded)
    with torch.backends.mkldnn.flags(enabled=False):
        yield passes


def gradients(network: nn.Module, x: Tensor) -> list[Tensor | None]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(x)
    sum((output.float() * output.detach().float().cos()).sum() for output in outputs).backward()
    return [*(output.detach() for output in outputs), *(p.grad for p in network.parameters())]


@pytest.mark.parametrize("make", [PlainConvUNet, lambda **options: UMamba(mamba="none", **options)], ids=["cnn", "res"])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_outputs_and_gradients_are_autocasts(at_once, make, last, monkeypatch):
    torch.manual_seed(0)
    network = make(**TOPOLOGY)
    if last:
        network.to(memory_format=torch.channels_last_3d)
    network.encoder_stages[0].requires_grad_(False)
    weights = [id(p) for p in network.parameters()]
    x = torch.randn(2, 1, 4, 12, 12)
    got = gradients(network, x)
    assert len(at_once) == 2 and [id(p) for p in network.parameters()] == weights
    monkeypatch.setattr(weight_casts, "fused", lambda x: False)
    expected = gradients(network, x)
    assert len(at_once) == 2
    for own, other in zip(got, expected, strict=True):
        assert (own is None and other is None) or torch.equal(own, other)
        assert own is None or own.dtype == other.dtype


def test_a_region_that_is_run_again_casts_for_itself(at_once):
    torch.manual_seed(0)
    network = PlainConvUNet(**TOPOLOGY)
    x = torch.randn(2, 1, 4, 12, 12)
    expected = gradients(network, x)
    stage = network.encoder_stages[1]
    plain = stage.forward
    stage.forward = lambda t: checkpoint(plain, t, use_reentrant=False)
    for own, other in zip(gradients(network, x), expected, strict=True):
        assert torch.equal(own, other)


def test_an_error_on_the_way_leaves_the_weights(at_once):
    network = PlainConvUNet(**TOPOLOGY)
    weights = list(network.parameters())

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("on the way")

    network.decoder_stages[0].forward = fail
    with pytest.raises(RuntimeError, match="on the way"), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 4, 12, 12))
    assert all(a is b for a, b in zip(network.parameters(), weights, strict=True))


def test_when(at_once, monkeypatch):
    x = torch.randn(1)
    assert not casts_at_once(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert casts_at_once(x)
        with torch.no_grad():
            assert not casts_at_once(x)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        assert not casts_at_once(x)
        layer = nn.Linear(1, 1)
        with GradientExchange(layer, lambda: True).standing_in():
            assert casts_at_once(x) and not isinstance(layer.weight, nn.Parameter)
        assert not casts_at_once(x) and isinstance(layer.weight, nn.Parameter)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_layout(device):
    """Axes of size 1, whose strides are anything; a bias; one with gaps."""
    tensors = [
        torch.randn(5, 3, 1, 1, 1, device=device).to(memory_format=torch.channels_last_3d),
        torch.randn(5, 3, 3, 3, device=device).to(memory_format=torch.channels_last),
        torch.randn(4, 3, 2, 2, 2, device=device),
        torch.randn(7, device=device),
        torch.randn(8, device=device)[::2],
        torch.randn(2, 3, device=device)[1:],
        torch.randn(3, 1, device=device).expand(3, 4),
    ]
    for copy, t in zip(cast_all(tensors, torch.bfloat16), tensors, strict=True):
        assert copy.dtype == torch.bfloat16 and torch.equal(copy, t.to(torch.bfloat16))
    assert cast_all([], torch.float32) == []
