"""The authors' and nnU-Net's weights give the authors' and nnU-Net's outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from src.models.import_weights import convert_state_dict
from src.models.umamba import UMamba
from src.models.unet import PlainConvUNet, ResidualEncoderUNet

GOLDEN = Path(os.environ.get("UMAMBA_TEST_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
OWN = Path(__file__).parents[1] / "golden"  # made for this project; each file says by what
FILES = ("resenc_a3", "nnunet_a3", "paper_bot_a2", "paper_enc_a3", "repo_bot_a2", "repo_enc_a2", "repo_enc_a3")


def load_golden(name: str) -> dict:
    path = OWN / f"{name}.pt"
    if not path.exists():
        path = GOLDEN / f"{name}.pt"
    if not path.exists():
        pytest.skip(
            f"{path} is absent (golden outputs of the original implementations; UMAMBA_TEST_GOLDEN names their folder)"
        )
    return torch.load(path, weights_only=True)


def build(golden: dict) -> nn.Module:
    spec = golden["spec"]
    topology = {
        "spatial_dims": spec["dim"],
        "in_channels": spec["ch"],
        "out_channels": spec["nc"],
        "features_per_stage": spec["feats"],
        "kernel_sizes": spec["ks"],
        "strides": spec["st"],
        "patch_size": spec["size"],
    }
    if golden["network"] in ("nnunet", "resenc"):
        return {"nnunet": PlainConvUNet, "resenc": ResidualEncoderUNet}[golden["network"]](**topology)
    variant, mamba = golden["network"].split("_")
    return UMamba(**topology, variant=variant, mamba={"enc": "encoder", "bot": "bottleneck"}[mamba])


@pytest.mark.parametrize("name", FILES)
def test_original_outputs(name: str) -> None:
    golden = load_golden(name)
    network = build(golden)
    network.load_state_dict(convert_state_dict(golden["network_weights"], network))
    with torch.no_grad():
        outputs = network(golden["input"])
    assert len(outputs) == len(golden["outputs"])
    for ours, theirs in zip(outputs, golden["outputs"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_copies_and_wrappers_change_nothing() -> None:
    golden = load_golden("repo_enc_a2")
    network = build(golden)
    weights = golden["network_weights"]
    plain = convert_state_dict(weights, network)
    stored_twice = weights | {f"decoder.{k}": v for k, v in weights.items() if k.startswith("encoder.")}
    wrapped = {f"module._orig_mod.{k}": v for k, v in stored_twice.items()}
    converted = convert_state_dict(wrapped, network)
    assert converted.keys() == plain.keys() == network.state_dict().keys()
    assert all(converted[name] is plain[name] for name in plain)


def test_weights_of_another_network_are_refused_by_name() -> None:
    golden = load_golden("paper_enc_a3")
    network = build(golden | {"network": "paper_bot"})
    with pytest.raises(
        ValueError, match=r"left over: encoder_stages\.0\.mamba\.norm\.weight \[encoder\.mamba_layers\.0\.norm"
    ):
        convert_state_dict(golden["network_weights"], network)
    weights = dict(golden["network_weights"])
    del weights["decoder.seg_layers.0.bias"]
    weights["decoder.seg_layers.1.bias"] = torch.zeros(9)
    with pytest.raises(
        ValueError,
        match=r"(?s)2 differences.*missing: heads\.0\.bias \(4,\).*shape \(9,\) instead of \(4,\): heads\.1\.bias",
    ):
        convert_state_dict(weights, build(golden))
