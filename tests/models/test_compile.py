"""torch.compile takes every network as one graph: forward and backward, as in eager mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_topology import TOPOLOGY
from torch import nn

from umamba.models.baselines import segresnet, swinunetr, unetr
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

SMALL_SWIN = {"feature_size": 12, "patch_size": (64, 32, 32), "deep_supervision": False}
SMALL_UNETR = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "patch_size": (16, 32, 32), "deep_supervision": False}
NETWORKS = {
    "enc paper": (UMamba, {"mamba": "encoder"}),
    "enc repo": (UMamba, {"mamba": "encoder", "variant": "repo"}),
    "bot paper": (UMamba, {"mamba": "bottleneck"}),
    "bot repo": (UMamba, {"mamba": "bottleneck", "variant": "repo"}),
    "control": (UMamba, {"mamba": "none"}),
    "tri-oriented": (UMamba, {"order": "tri_oriented"}),
    "ssd": (UMamba, {"mixer": "ssd"}),
    "gated convolution": (UMamba, {"mixer": "gated_conv"}),
    "nnunet": (PlainConvUNet, {}),
    "resenc": (ResidualEncoderUNet, {}),
    "segresnet": (segresnet, {"init_filters": 8, "deep_supervision": False}),
    "unetr": (unetr, SMALL_UNETR),
    "swinunetr": (swinunetr, SMALL_SWIN),
}
SMALLEST = {  # code generation and compilation take minutes for more stages
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "features_per_stage": (4, 8),
    "kernel_sizes": (3, 3),
    "strides": (1, 2),
    "patch_size": (16, 16),
}


def compare_with_eager(
    make: Callable[..., nn.Module], arguments: dict, device: str, backend: str, tolerance: float
) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    network: nn.Module = make(**arguments).to(device)
    x = torch.randn(1, 1, *arguments["patch_size"], device=device)
    compiled = torch.compile(network, fullgraph=True, backend=backend)  # fullgraph: a graph break is an error
    results = []
    for run in (network, compiled):
        network.zero_grad()
        outputs = run(x)
        logits = outputs[0] if isinstance(outputs, list) else outputs
        sum(o.square().mean() for o in (outputs if isinstance(outputs, list) else [outputs])).backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])
        results.append((logits.detach(), gradient))
    for eager, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_on_a_cpu(name: str) -> None:
    make, changes = NETWORKS[name]
    compare_with_eager(make, TOPOLOGY | changes, "cpu", "aot_eager", 1e-4)


@pytest.mark.slow
def test_generated_code_on_a_cpu() -> None:
    compare_with_eager(UMamba, SMALLEST | {"mamba": "bottleneck"}, "cpu", "inductor", 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The norms after a Mamba layer enlarge rounding a thousandfold: TF32's would hide a fault
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    make, changes = NETWORKS[name]
    compare_with_eager(make, TOPOLOGY | changes, "cuda", "inductor", 1e-2)
