"""Every model config composes and builds a network, an optimiser and a schedule with the published settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.composed import composed
from umamba.models.baselines import SingleOutputNetwork
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = {
    "umamba_bot": UMamba,
    "umamba_enc": UMamba,
    "umamba_none": UMamba,
    "nnunet": PlainConvUNet,
    "resenc": ResidualEncoderUNet,
    "segresnet": SingleOutputNetwork,
    "unetr": SingleOutputNetwork,
    "swinunetr": SingleOutputNetwork,
}
SMALL = {  # the networks whose size the plan does not set
    "segresnet": ["+model.network.init_filters=8"],
    "unetr": ["+model.network.hidden_size=24", "+model.network.mlp_dim=48", "+model.network.num_heads=2"],
    "swinunetr": ["+model.network.feature_size=12"],
}
SGD = (torch.optim.SGD, {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}, 0.01 * 0.5**0.9)
TRAINING = dict.fromkeys(("umamba_bot", "umamba_enc", "umamba_none", "nnunet", "resenc"), SGD) | {
    "segresnet": (torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "eps": 1e-5}, 1e-4 * 0.5**0.9),
    "unetr": (torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 0.01, "eps": 1e-5}, 1e-4 * 0.5),
    "swinunetr": (torch.optim.AdamW, {"lr": 8e-4, "weight_decay": 0.01, "eps": 1e-5}, 0.5 * (8e-4 + 1e-6)),
}


def compose_model(name: str, *overrides: str) -> DictConfig:
    return composed(overrides=[f"+model={name}", *overrides]).model


def build(model: DictConfig) -> torch.nn.Module:
    return instantiate(model.network)(
        spatial_dims=2,
        in_channels=1,
        out_channels=3,
        features_per_stage=(4, 6, 8),
        kernel_sizes=((3, 3),) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        patch_size=(64, 32),
        deep_supervision=model.deep_supervision,
    )


def test_every_file_is_listed_here() -> None:
    files = {path.stem for path in (CONFIGS / "model").glob("*.yaml") if not path.name.startswith("_")}
    assert files == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_network_optimizer_and_schedule(name: str) -> None:
    model = compose_model(name, *SMALL.get(name, []))
    assert set(model) == {"network", "optimizer", "scheduler", "deep_supervision", "precision", "patch_multiple"}
    network = build(model)
    assert type(network) is MODELS[name]
    outputs = network(torch.randn(1, 1, 64, 32))
    full = outputs[0] if model.deep_supervision else outputs
    assert full.shape == (1, 3, 64, 32)

    optimizer_class, settings, halfway = TRAINING[name]
    optimizer = instantiate(model.optimizer)(network.parameters())
    assert type(optimizer) is optimizer_class
    assert {key: optimizer.defaults[key] for key in settings} == settings
    scheduler = instantiate(model.scheduler)(optimizer, max_epochs=10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(halfway)


@pytest.mark.parametrize("name", ["segresnet", "unetr", "swinunetr"])
def test_baselines_train_in_full_precision_with_one_output(name: str) -> None:
    model = compose_model(name)
    assert (model.precision, model.deep_supervision) == ("32-true", False)
    assert model.patch_multiple == {"segresnet": 1, "unetr": 16, "swinunetr": 32}[name]


def test_mixer_and_order_are_chosen_by_config() -> None:
    overrides = (
        "model.network.mamba=[0,2]",
        "model.network.order=bidirectional",
        "model.network.mixer={_target_: umamba.models.mamba.block.Mamba, _partial_: true, d_state: 8}",
    )
    network = build(compose_model("umamba_enc", *overrides))
    layers = [stage.mamba for stage in network.encoder_stages if hasattr(stage, "mamba")]
    assert [len(layer.mixers) for layer in layers] == [2, 2]
    assert layers[0].mixers[0].A_log.shape == (8, 8)  # d_inner of stage 0, d_state
