"""nnU-Net's two networks on the shared frame."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umamba.models.blocks import ResidualBlock
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

FLAT = {"kernel_sizes": ((1, 3, 3), 3, 3), "strides": (1, (1, 2, 2), 2)}


@pytest.mark.parametrize(
    ("spatial_dims", "stages", "expected"),
    [(3, 6, 101_867_334), (2, 7, 105_934_932)],  # counted on dynamic-network-architectures 0.4.2
)
def test_parameters_of_the_residual_encoder(spatial_dims: int, stages: int, expected: int) -> None:
    cap = 320 if spatial_dims == 3 else 512
    flat = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    with torch.device("meta"):
        network = ResidualEncoderUNet(
            spatial_dims=spatial_dims,
            in_channels=1,
            out_channels=14,
            features_per_stage=[min(32 * 2**s, cap) for s in range(stages)],
            kernel_sizes=((1, 3, 3), *((3, 3, 3),) * 5) if spatial_dims == 3 else (3,) * stages,
            strides=flat if spatial_dims == 3 else (1,) + (2,) * (stages - 1),
        )
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("network_class", [PlainConvUNet, ResidualEncoderUNet])
def test_shapes_gradients_and_divisor(network_class: type[nn.Module]) -> None:
    network = network_class(
        spatial_dims=3, in_channels=2, out_channels=3, features_per_stage=(4, 6, 8), patch_size=(4, 8, 12), **FLAT
    )
    assert network.required_divisor == (2, 4, 4)
    outputs = network(torch.randn(2, 2, 4, 8, 12))
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 4, 8, 12), (2, 3, 4, 4, 6)]
    sum(o.square().mean() for o in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_first_output_sees_the_whole_network_and_nothing_but_it() -> None:
    """A network whose convolutions copy the first channel is, block by block, norm and activation: checked by hand."""
    network = PlainConvUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features_per_stage=(1, 1), kernel_sizes=(1, 1), strides=(1, 2)
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("conv.weight") or name.startswith("upsamples"):
                parameter.fill_(0 if name.endswith("bias") else 1)
        network.heads[0].weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        network.heads[0].bias.copy_(torch.tensor([0.0, 0.5]))
    x = torch.tensor([[1.0, 2.0, 3.0, 5.0], [0.0, 1.0, 2.0, 2.0], [4.0, 0.0, 1.0, 1.0], [2.0, 2.0, 0.0, 3.0]])

    def block(values: torch.Tensor) -> torch.Tensor:
        values = (values - values.mean()) / torch.sqrt(values.var(correction=0) + 1e-5)
        return torch.where(values > 0, values, 0.01 * values)

    top = block(block(x))
    bottom = block(block(top[::2, ::2]))  # a 1x1 convolution with stride 2 reads every second voxel
    up = bottom.repeat_interleave(2, 0).repeat_interleave(2, 1)  # all-ones kernel 2, stride 2
    result = block(block(up + top))  # the first decoder convolution adds its two channels
    expected = torch.stack([result, 0.5 - 2 * result])
    torch.testing.assert_close(network(x[None, None])[0][0], expected)


def test_residual_block_adds_its_shortcut_before_the_activation() -> None:
    """With the last norm zeroed a block is the activation of its shortcut: the identity, pooled, or projected."""
    x = torch.randn(1, 3, 8, 8)
    for out_channels, stride, shortcut in ((3, 1, "pool"), (3, 2, "pool"), (5, 2, "pool"), (5, 2, "conv")):
        block = ResidualBlock(2, 3, out_channels, (3, 3), (stride, stride), shortcut)
        nn.init.zeros_(block.conv2.norm.weight)
        if shortcut == "conv":
            skip = block.shortcut(x)
            assert [n for n, _ in block.shortcut.named_parameters()] == ["weight", "bias"]
        else:
            skip = x if stride == 1 else nn.functional.avg_pool2d(x, 2)
            if out_channels != 3:
                convolved = nn.functional.conv2d(skip, block.shortcut.projection.conv.weight)
                skip = nn.functional.instance_norm(convolved)
        torch.testing.assert_close(block(x), nn.functional.leaky_relu(skip, 0.01))
