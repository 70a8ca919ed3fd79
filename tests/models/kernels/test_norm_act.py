"""The fused kernels in Triton's interpreter, and what decides whether it runs; neither needs a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from norm_inputs import channels_last
from torch import nn
from triton_interpreter import run_interpreted

from umamba.models.kernels import choice
from umamba.models.kernels.pooling import mean_of_boxes
from umamba.models.layers import AveragePool, InstanceNorm3d
from umamba.models.unet import PlainConvUNet


@pytest.mark.parametrize("file", ["test_interpreted.py", "test_dice_ce_interpreted.py"])
def test_the_kernels_in_tritons_interpreter(file):
    run_interpreted(Path(__file__).with_name(file))


def test_a_failed_check_is_said_once_and_torch_runs(monkeypatch, caplog):
    from umamba.models.mamba.scan import selfcheck

    monkeypatch.setattr(selfcheck, "check", lambda device, errors: "the kernels are wrong on this GPU")
    choice._usable.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not choice.kernels_usable("cuda", 0)
        assert not choice.kernels_usable("cuda", 0)
    choice._usable.cache_clear()
    assert [r.message for r in caplog.records] == [
        "Instance norm falls back to torch's own, which is slower: the kernels are wrong on this GPU."
    ]


def test_on_a_cpu_all_is_torchs_own():
    torch.manual_seed(0)
    x, residual = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    norm, act = InstanceNorm3d(3, affine=True), nn.LeakyReLU(0.01)
    same = nn.InstanceNorm3d(3, affine=True)
    assert not choice.fused(x)
    assert torch.equal(norm(x, None, residual, act), act(same(x) + residual))
    assert choice.in_preferred_layout(x) is x and choice.weight_in_preferred_layout(x) is x


def test_a_network_keeps_its_names_and_weights_on_the_way_between_devices():
    network = PlainConvUNet(
        spatial_dims=3, in_channels=1, out_channels=2, features_per_stage=(2, 4), kernel_sizes=(3, 3), strides=(1, 2)
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = [id(p) for p in network.parameters()]
    after = network.to("cpu", torch.float32).state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert [id(p) for p in network.parameters()] == parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (2, 2), (3, 1)])
def test_pooling_of_channels_last_maps(stride, channels, dtype):
    size = [2 * step for step in (2, 3, 4)[-len(stride) :]]
    size = [n * step for n, step in zip(size, stride, strict=True)]
    x = channels_last(torch.randn(2, channels, *size)).to(dtype).requires_grad_()
    pooled = mean_of_boxes(x, stride)
    expected = AveragePool(stride)(x.float()).to(dtype)  # torch has none in half precision on the CPU
    torch.testing.assert_close(pooled, expected)
    assert choice.is_channels_last(pooled)
    grad = torch.randn_like(pooled)
    (got,), (gradient,) = (torch.autograd.grad(y, x, grad) for y in (pooled, expected))
    torch.testing.assert_close(got, gradient)
    assert choice.is_channels_last(got)


def test_layout_follows_another_map():
    last = channels_last(torch.randn(2, 3, 4, 5))
    assert choice.is_channels_last(choice.with_layout_of(torch.randn(2, 6, 4, 5), last))
    assert choice.with_layout_of(last, torch.randn(2, 3, 4, 5)).is_contiguous()
    assert choice.with_layout_of(last, last) is last
