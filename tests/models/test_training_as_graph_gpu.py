"""Trainings whose steps are replayed from CUDA graphs, through Lightning; pytest -m gpu."""

from __future__ import annotations

import functools
import logging

import lightning as L
import pytest
import torch
from tiny_plan import tiny_plan
from torch import nn

from umamba.callbacks.finite_watch import FiniteWatch
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.umamba import UMamba

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda(monkeypatch) -> None:
    """In float32 cuDNN has weight gradients that differ from pass to pass."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr("umamba.models.segmentation_module.WORTH", 1)


def train(tmp_path, cuda_graph, images, **options) -> tuple[SegmentationModule, L.Trainer]:
    torch.manual_seed(0)
    optimizer = options.pop("optimizer", functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True))
    module = SegmentationModule(
        plan=tiny_plan(), configuration="3d_fullres", network=functools.partial(UMamba, mamba="encoder"),
        optimizer=optimizer, scheduler=functools.partial(poly, power=0.9), cuda_graph=cuda_graph,
    )  # fmt: skip
    callbacks = [*options.pop("callbacks", []), FiniteWatch()]
    trainer = L.Trainer(
        accelerator="gpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=callbacks, gradient_clip_val=12,
        num_sanity_val_steps=0, **{"max_epochs": 2, **options},
    )  # fmt: skip
    loader = functools.partial(torch.utils.data.DataLoader, batch_size=None)
    trainer.fit(module, loader(images), loader(images[:1]))
    return module, trainer


def batches(sizes=(2, 2, 2, 2)) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randn(size, 2, 16, 16, 16, generator=generator),
            "label": torch.randint(3, (size, 16, 16, 16), generator=generator, dtype=torch.int16),
            "case": ["a"] * size,
        }
        for size in sizes
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "32-true"},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"precision": "bf16-mixed", "accumulate_grad_batches": 2},
        {"precision": "bf16-mixed", "optimizer": functools.partial(torch.optim.AdamW, lr=1e-3)},
        {"precision": "bf16-mixed", "val_check_interval": 1},
    ],
    ids=["float32", "bf16", "fp16", "accumulated", "adamw", "validated after each step"],
)
def test_it_is_the_training_of_single_launches(tmp_path, options, caplog) -> None:
    """The last batch is a smaller one, for which there is no graph; validations come between."""
    ends = []
    for cuda_graph in (True, False):
        with caplog.at_level(logging.INFO):
            caplog.clear()
            module, trainer = train(tmp_path, cuda_graph, batches((2, 2, 2, 1)), **options)
        assert ("are replayed from CUDA graphs" in caplog.text) is cuda_graph
        ends.append((dict(module.network.state_dict()), trainer.callback_metrics))
    (weights, metrics), (others, other_metrics) = ends
    for key, value in weights.items():
        torch.testing.assert_close(value, others[key], rtol=1e-3, atol=1e-4)
    for key in ("train/loss", "val/loss", "val/dice"):
        torch.testing.assert_close(metrics[key], other_metrics[key], rtol=1e-3, atol=1e-4)


class Spoil(L.Callback):
    """Makes a layer's output overflow in the third step and from then on."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        layer = module.network.encoder_stages[1].get_submodule("0.conv1.conv")
        assert isinstance(layer, nn.Conv3d)
        if batch_idx == 2:
            with torch.no_grad():
                layer.weight.fill_(3e38)


def test_a_layer_that_is_not_finite_is_named(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        module, trainer = train(
            tmp_path, True, batches([2] * 4), callbacks=[Spoil()], max_epochs=1, precision="bf16-mixed"
        )
    said = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert len(said) == 2 and all("layer 'encoder_stages.1.0.conv1" in line for line in said), said
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert all(value.isfinite().all() for value in module.network.state_dict().values())


def test_a_trial_and_a_short_run_go_without(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("umamba.models.segmentation_module.WORTH", 100)
    for options in ({"fast_dev_run": True}, {}):
        with caplog.at_level(logging.INFO):
            caplog.clear()
            train(tmp_path, "auto", batches(), **options)
        assert "singly" in caplog.text and "do not pay" in caplog.text
