"""Convolutions by planes are those of the volume; on the CPU, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from umamba.models.kernels import convolution
from umamba.models.kernels.convolution import Settings, convolve, convolve_planes
from umamba.models.kernels.formed import Recipe, label
from umamba.models.layers import Conv3d, ConvTranspose3d

LAYERS = {
    "3x3": (Conv3d, 3, 5, (1, 3, 3), 1, (0, 1, 1)),
    "strided": (Conv3d, 3, 5, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "one channel": (Conv3d, 1, 4, (1, 3, 3), 1, (0, 1, 1)),
    "same shape": (Conv3d, 4, 4, (1, 3, 3), 1, (0, 1, 1)),
    "transposed": (ConvTranspose3d, 3, 2, (1, 2, 2), (1, 2, 2), 0),
}
OF_VOLUMES = {
    "one voxel": (Conv3d, 3, 5, 1, 1, 0),
    "deep kernel": (Conv3d, 3, 5, 3, 1, 1),
    "stride along depth": (Conv3d, 3, 5, (1, 3, 3), 2, (0, 1, 1)),
    "padded along depth": (Conv3d, 3, 5, (1, 3, 3), 1, 1),
    "transposed along depth": (ConvTranspose3d, 3, 2, 2, 2, 0),
}


class Itself(Recipe):
    def make(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return tensors[0] * 2


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def layer_and_map(make, channels, out, kernel, stride, padding) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = make(channels, out, kernel, stride, padding).double()
    return layer, channels_last(torch.randn(2, channels, 3, 8, 6, dtype=torch.float64)).requires_grad_()


def gradients(y: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad(y, of, channels_last(torch.randn(y.shape, dtype=y.dtype)))


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch):
    monkeypatch.setattr(convolution, "fused", lambda x: True)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("formed", [False, True])
def test_values_and_gradients(name, formed, monkeypatch):
    layer, x = layer_and_map(*LAYERS[name])
    wanted = nn.Conv3d.forward(layer, x) if isinstance(layer, Conv3d) else nn.ConvTranspose3d.forward(layer, x)
    grads = gradients(wanted, x, layer.weight, layer.bias)
    assert Settings.of(layer).in_planes(x, layer.weight) is not None
    if formed:
        monkeypatch.setattr("umamba.models.kernels.formed.SMALLEST", 0)
        half = (x / 2).detach()
        label(x, Itself(), (half,))
        y = convolve(layer, x, layer.bias)
    else:
        y = convolve_planes(layer, x, layer.bias)
    assert y is not None
    if name != "one channel":  # whose layout torch has to guess; the GPU's library guesses it of the weight
        assert y.movedim(1, -1).is_contiguous()  # channels-last as before
    torch.testing.assert_close(y, wanted)
    found = gradients(y, x, layer.weight, layer.bias)
    for own, expected in zip(found, grads, strict=True):
        torch.testing.assert_close(own, expected)
    assert found[0].movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("name", OF_VOLUMES)
def test_what_planes_do_not_give_is_left(name):
    layer, x = layer_and_map(*OF_VOLUMES[name])
    assert convolve_planes(layer, x, layer.bias) is None


def test_maps_that_lie_otherwise_are_left():
    layer, x = layer_and_map(*LAYERS["3x3"])
    assert convolve_planes(layer, x.detach().contiguous(), layer.bias) is None
    assert convolve_planes(nn.Conv2d(3, 4, 1), torch.ones(1, 3, 4, 4), None) is None
