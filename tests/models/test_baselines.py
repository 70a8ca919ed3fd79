"""MONAI's networks behind the project's interface."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umamba.models.baselines import segresnet, swinunetr, unetr

SMALL = {  # own arguments that make each network small
    segresnet: {"init_filters": 8},
    unetr: {"hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "feature_size": 4},
    swinunetr: {"feature_size": 12},
}


def build(make: object, spatial_dims: int, **changes: object) -> nn.Module:
    arguments = {
        "spatial_dims": spatial_dims,
        "in_channels": 2,
        "out_channels": 3,
        "features_per_stage": (32, 64),
        "kernel_sizes": (3, 3),
        "strides": (1, 2),
        "patch_size": (32,) * spatial_dims,
        "deep_supervision": False,
    }
    return make(**(arguments | SMALL[make] | changes))


@pytest.mark.parametrize("make", SMALL)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shape_and_a_gradient_for_every_parameter_that_is_not_frozen(make: object, spatial_dims: int) -> None:
    size = (64, 64, 32)[:spatial_dims]  # more than one position at SwinUNETR's bottleneck, for its instance norm
    network = build(make, spatial_dims, patch_size=size)
    logits = network(torch.randn(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("make", "millions"), [(unetr, 92.8), (swinunetr, 62.2)])
def test_sizes_are_those_published(make: object, millions: float) -> None:
    """For 96^3, 1 channel, 14 labels, as in table 1 of 3D UX-Net (Lee et al., arXiv 2209.15076)."""
    network = make(spatial_dims=3, in_channels=1, out_channels=14, patch_size=(96, 96, 96))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(("make", "frozen"), [(segresnet, 0), (unetr, 24), (swinunetr, 0)])
def test_frozen_parameters(make: object, frozen: int) -> None:
    """UNETR's are the weight and bias of 12 norms; a change of MONAI shows here."""
    network = build(make, 2)
    assert sum(not p.requires_grad for p in network.parameters()) == frozen


@pytest.mark.parametrize(("make", "padded"), [(segresnet, (40, 24)), (swinunetr, (64, 32))])
def test_other_sizes_are_padded_at_the_far_end(make: object, padded: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build(make, 2).eval()
    x = torch.randn(1, 2, 37, 24)
    canvas = torch.zeros(1, 2, *padded)
    canvas[:, :, :37, :24] = x
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(canvas)[:, :, :37, :24])


def test_unetr_runs_at_its_patch_alone() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16; got \(40, 32\)\. Round up to \(48, 32\)"):
        build(unetr, 2, patch_size=(40, 32))
    with pytest.raises(ValueError, match=r"\(32, 48\).*exist for \(32, 32\) only"):
        build(unetr, 2)(torch.zeros(1, 2, 32, 48))


@pytest.mark.parametrize("make", SMALL)
def test_deep_supervision_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"has one output: set deep_supervision=False"):
        build(make, 2, deep_supervision=True)
