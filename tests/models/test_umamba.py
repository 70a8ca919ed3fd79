"""U-Mamba: published sizes, published behaviour, wrong arguments."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from umamba.models.blocks import ResidualBlock
from umamba.models.mamba.layer import MambaLayer
from umamba.models.umamba import UMamba, blocks_per_stage, mamba_stages
from umamba.models.unet import PlainConvUNet


def topology(spatial_dims: int = 2, features: tuple[int, ...] = (4, 6, 8), **changes: object) -> dict:
    n = len(features)
    arguments = {
        "spatial_dims": spatial_dims,
        "in_channels": 1,
        "out_channels": 3,
        "features_per_stage": features,
        "kernel_sizes": (3,) * n,
        "strides": (1,) + (2,) * (n - 1),
    }
    return arguments | changes


def planned(spatial_dims: int, stages: int, channels: int, labels: int, patch: tuple[int, ...]) -> dict:
    """A setting of the paper's Table 2: in 3D the first kernel and the first and last stride are flat."""
    cap = 320 if spatial_dims == 3 else 512
    plan = topology(spatial_dims, tuple(min(32 * 2**s, cap) for s in range(stages)), patch_size=patch)
    if spatial_dims == 3:
        plan["kernel_sizes"] = ((1, 3, 3),) + ((3, 3, 3),) * (stages - 1)
        plan["strides"] = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    return plan | {"in_channels": channels, "out_channels": labels}


SETTINGS = {
    "ct_3d": planned(3, 6, 1, 14, (40, 224, 192)),
    "mr_3d": planned(3, 6, 1, 14, (48, 160, 224)),
    "mr_2d": planned(2, 7, 1, 14, (320, 320)),
    "endoscopy": planned(2, 7, 3, 8, (384, 640)),
    "cells": planned(2, 8, 3, 3, (512, 512)),
}
PUBLISHED = {  # nnU-Net CNN, Bot paper, Enc paper, Bot repo, Enc repo: counted on the original implementations
    "ct_3d": (30_713_158, 57_832_166, 59_105_766, 41_945_158, 42_842_798),
    "mr_3d": (30_713_158, 57_832_166, 59_105_766, 41_945_158, 42_842_798),
    "mr_2d": (33_489_940, 63_344_180, 67_333_428, 47_533_012, 47_015_538),
    "endoscopy": (33_481_456, 63_335_696, 67_324_944, 47_524_592, 47_680_592),
    "cells": (46_327_157, 86_150_037, 91_835_029, 64_797_301, 64_014_261),
}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("setting", SETTINGS)
def test_parameter_counts_are_the_published_ones(setting: str) -> None:
    plan = SETTINGS[setting]
    with torch.device("meta"):
        counts = [count(PlainConvUNet(**plan))]
        for variant in ("paper", "repo"):
            counts += [count(UMamba(**plan, variant=variant, mamba=mamba)) for mamba in ("bottleneck", "encoder")]
    assert tuple(counts) == PUBLISHED[setting]


def mamba_parameters(d: int) -> int:
    """LayerNorm and Mamba of width d, from the equations (d_state 16, d_conv 4, expand 2)."""
    inner, rank = 2 * d, math.ceil(d / 16)
    projections = d * 2 * inner + inner * (rank + 32) + rank * inner + inner + inner * d
    return 2 * d + projections + 5 * inner + 16 * inner + inner


@pytest.mark.parametrize("variant", ["paper", "repo"])
@pytest.mark.parametrize("setting", ["ct_3d", "cells"])
def test_control_is_bot_less_its_layer(setting: str, variant: str) -> None:
    plan = SETTINGS[setting]
    with torch.device("meta"):
        bot, none = (UMamba(**plan, variant=variant, mamba=mamba) for mamba in ("bottleneck", "none"))
        assert count(UMamba(**plan, variant=variant, mamba="bottleneck", mixer="none")) == count(none)
    assert count(bot) - count(none) == mamba_parameters(plan["features_per_stage"][-1])
    assert not any(isinstance(m, MambaLayer) for m in none.modules())


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"),
    [
        (6, (2, 2, 2, 1, 1, 1), (2, 2, 2, 1, 1)),
        (7, (2, 2, 2, 2, 1, 1, 1), (2, 2, 2, 2, 1, 1)),
        (8, (2, 2, 2, 2, 1, 1, 1, 1), (2, 2, 2, 2, 1, 1, 1)),
    ],
)
def test_repo_block_counts(stages: int, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> None:
    assert blocks_per_stage(stages, "repo") == (encoder, decoder)


@pytest.mark.parametrize(("stages", "expected"), [(5, (0, 2, 4)), (6, (1, 3, 5)), (7, (0, 2, 4, 6))])
def test_repo_2d_has_a_layer_on_every_second_stage_and_the_deepest(stages: int, expected: tuple[int, ...]) -> None:
    assert mamba_stages("encoder", stages, every_second=True) == expected


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("variant", ["paper", "repo"])
@pytest.mark.parametrize("mamba", ["encoder", "bottleneck", "none", [0, 2]])
def test_shapes_and_a_gradient_for_every_parameter(spatial_dims: int, variant: str, mamba: object) -> None:
    size = (8, 16, 12)[:spatial_dims]
    network = UMamba(**topology(spatial_dims, patch_size=size), variant=variant, mamba=mamba)
    outputs = network(torch.randn(2, 1, *size))
    assert [tuple(o.shape) for o in outputs] == [(2, 3, *size), (2, 3, *(s // 2 for s in size))]
    sum(o.square().mean() for o in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_without_deep_supervision_unused_heads_are_frozen_and_the_logits_the_same() -> None:
    torch.manual_seed(0)
    network = UMamba(**topology(), deep_supervision=False)
    x = torch.randn(1, 1, 16, 16)
    logits = network(x)
    logits.mean().backward()
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["heads.0.weight", "heads.0.bias"]
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    network.deep_supervision = True
    torch.testing.assert_close(network(x)[0], logits)


@pytest.mark.parametrize("arguments", [{"variant": "paper"}, {"variant": "repo", "mamba": "bottleneck"}])
def test_any_input_size_is_padded_at_the_far_end_and_cropped(arguments: dict) -> None:
    torch.manual_seed(0)
    network = UMamba(**topology(patch_size=(16, 16)), **arguments).eval()
    assert network.fixed_patch_size is None
    assert network.required_divisor == (4, 4)
    x = torch.randn(1, 1, 21, 18)
    outputs = network(x)
    assert [tuple(o.shape[2:]) for o in outputs] == [(21, 18), (11, 9)]
    padded = torch.zeros(1, 1, 24, 20)
    padded[:, :, :21, :18] = x
    torch.testing.assert_close(outputs[0], network(padded)[0][:, :, :21, :18])


def test_the_layer_replaces_the_map_and_the_skip() -> None:
    """With a mixer that returns zeros the image has no influence on the logits of Enc, but on those of Bot through
    the skips."""

    class Zeros(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    for mamba, constant in (("encoder", True), ("bottleneck", False)):
        network = UMamba(**topology(), mamba=mamba, mixer=lambda width: Zeros(), deep_supervision=False)
        a, b = network(torch.randn(2, 1, 16, 16)).unbind()
        assert torch.equal(a, b) is constant


def test_channel_tokens_where_the_map_has_no_more_positions_than_channels() -> None:
    network = UMamba(**topology(features=(4, 8, 16), patch_size=(16, 16)), variant="repo", mamba="encoder")
    layers = {n: m for n, m in network.named_modules() if isinstance(m, MambaLayer)}
    assert {n: (m.channel_tokens, m.norm.normalized_shape) for n, m in layers.items()} == {
        "encoder_stages.0.mamba": (False, (4,)),  # 256 positions
        "encoder_stages.2.mamba": (True, (16,)),  # 4 x 4 positions, 16 channels
    }
    assert network.fixed_patch_size == (16, 16)
    with pytest.raises(
        ValueError, match=r"\(16, 20\).*exist for \(16, 16\) only.*variant='paper' or mamba='bottleneck'"
    ):
        network(torch.randn(1, 1, 16, 20))


def test_initialisation_statistics() -> None:
    torch.manual_seed(0)
    features = (16, 32, 64)
    enc, bot = (UMamba(**topology(3, features), mamba=mamba) for mamba in ("encoder", "bottleneck"))
    for name, module in enc.named_modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            fan_in = module.weight[0].numel()  # Kaiming's of a transposed convolution counts its outputs
            expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
            tolerance = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name
            assert module.bias is None or not module.bias.any(), name
    for network, last_norm in ((enc, 0.0), (bot, 1.0)):
        blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
        assert len(blocks) == 2 * 3 + 2 * 2
        for block in blocks:
            assert (block.conv2.norm.weight == last_norm).all() and not block.conv2.norm.bias.any()
            assert (block.conv1.norm.weight == 1).all()
    forced = UMamba(**topology(3, features), mamba="bottleneck", zero_init_residual=True)
    assert not forced.decoder_stages[0][0].conv2.norm.weight.any()


def test_mamba_computes_in_float32_under_autocast() -> None:
    seen = []

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((x.dtype, (x[0] @ x[0].T).dtype))  # autocast would make the product bfloat16
            return x

    network = UMamba(**topology(), mixer=lambda width: Probe())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(torch.randn(1, 1, 16, 16))
    assert seen == [(torch.float32, torch.float32)] * 3
    assert outputs[0].dtype == torch.bfloat16


def test_double_precision_throughout() -> None:
    torch.manual_seed(0)
    network = UMamba(**topology(), deep_supervision=False)
    x = torch.randn(1, 1, 16, 16)
    single, double = network(x), network.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "new"}, r"variant is 'new'; allowed: 'paper', 'repo'"),
        ({"mamba": "decoder"}, r"mamba is 'decoder'; allowed: encoder, bottleneck, none"),
        ({"mamba": [0, 3]}, r"mamba is \[0, 3\]; allowed: distinct stage numbers from 0 to 2"),
        ({"mixer": "s7"}, r"mixer is 's7'; known names: s6, ssd, gated_conv"),
        ({"order": "spiral"}, r"order is 'spiral'; known names: raster, bidirectional, tri_oriented"),
        ({"variant": "repo"}, r"needs patch_size"),
        (
            {"variant": "repo", "patch_size": (16, 16), "order": "bidirectional"},
            r"channel tokens have no spatial order",
        ),
        ({"patch_size": (16, 18)}, r"patch_size \(16, 18\) must have 2 axes divisible by \(4, 4\)"),
        ({"patch_size": (16, 16, 16)}, r"must have 2 axes"),
        ({"spatial_dims": 1}, r"spatial_dims is 1; allowed: 2, 3"),
        ({"strides": (1, 2)}, r"one entry per stage.*'strides': 2"),
        ({"strides": (2, 2, 2)}, r"strides\[0\] must be 1"),
        ({"kernel_sizes": (3, 3, 4)}, r"kernel_sizes must be odd"),
        ({"kernel_sizes": (3, 3, (3, 3, 3))}, r"kernel_sizes\[2\] is \(3, 3, 3\); expected 2 positive ints"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UMamba(**(topology(features=(4, 8, 16)) | changes))


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 16), (1, 2, 16, 16)])
def test_wrong_input_says_what_is_expected(shape: tuple[int, ...]) -> None:
    network = UMamba(**topology())
    with pytest.raises(ValueError, match=r"expected \(batch, 1 channels, 2 spatial axes\)"):
        network(torch.zeros(shape))


def test_input_with_one_position_left_at_the_bottleneck_is_refused() -> None:
    network = UMamba(**topology())
    with pytest.raises(ValueError, match=r"\(3, 4\) leaves one position.*one axis must exceed \(4, 4\)"):
        network(torch.zeros(1, 1, 3, 4))
    assert network(torch.zeros(1, 1, 3, 5))[0].shape == (1, 3, 3, 5)


def test_importing_needs_torch_alone() -> None:
    code = (
        "import sys, umamba.models.umamba;"
        "print([m for m in ('lightning', 'hydra', 'monai', 'omegaconf', 'SimpleITK', 'blosc2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
