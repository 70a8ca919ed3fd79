"""The training step: it can overfit, it reaches every parameter, and its checkpoint holds plan and configuration."""

import dataclasses
import functools
import re
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from tiny_plan import tiny_plan
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from umamba.callbacks.finite_watch import FiniteWatch
from umamba.models.checkpoint import network_from_checkpoint
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.train_loss import TrainLoss
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet
from umamba.planning.plan import Plan

NETWORKS = {
    "umamba_enc": functools.partial(UMamba, mamba="encoder"),
    "umamba_bot": functools.partial(UMamba, mamba="bottleneck"),
    "umamba_none": functools.partial(UMamba, mamba="none"),
    "nnunet": PlainConvUNet,
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan()


def batch() -> dict:
    """Two patches with a bright cube and a dark one."""
    image, label = 0.3 * torch.randn(2, 2, 16, 16, 16), torch.zeros(2, 16, 16, 16, dtype=torch.int16)
    for sample, corner in enumerate((2, 5)):
        for value, start in ((1, corner), (2, corner + 6)):
            cube = (sample, *[slice(start, start + 5)] * 3)
            label[cube] = value
            image[(sample, slice(None), *cube[1:])] += 3 if value == 1 else -3
    return {"image": image, "label": label, "case": ["a", "b"]}


def arguments(plan: Plan, name: str) -> dict[str, Any]:
    return {
        "plan": plan,
        "configuration": "3d_fullres",
        "network": NETWORKS[name],
        "optimizer": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
        "scheduler": functools.partial(poly, power=0.9),
    }


def make_module(plan: Plan, name: str, metadata: dict | None = None) -> SegmentationModule:
    torch.manual_seed(0)
    module = SegmentationModule(**arguments(plan, name))
    module.metadata.update(metadata or {})
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(plan: Plan, name: str) -> None:
    module = make_module(plan, name)
    torch.manual_seed(1)
    sample = batch()
    module.loss(module(sample["image"]), sample["label"]).backward()
    without = [n for n, p in module.named_parameters() if p.grad is None]
    assert not without


def test_a_class_that_would_share_the_column_of_the_best_checkpoint_is_refused(plan: Plan) -> None:
    labels = {("ema" if value == 1 else name): value for name, value in plan.labels.items()}
    with pytest.raises(ValueError, match="val/dice_ema"):
        make_module(dataclasses.replace(plan, labels=labels), "nnunet")


def test_a_graph_that_is_asked_for_and_not_possible_is_refused(plan: Plan, tmp_path) -> None:
    with pytest.raises(ValueError, match="auto, true or false"):
        SegmentationModule(**arguments(plan, "nnunet"), cuda_graph="always")
    module = SegmentationModule(**arguments(plan, "nnunet"), cuda_graph=True)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the device is cpu"):
        trainer.fit(module, torch.utils.data.DataLoader([batch()], batch_size=None))


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, None),
        ({"cuda_graph": True, "steps": 5}, None),  # asked for, however short
        ({"cuda_graph": False}, "cuda_graph=false"),
        ({"device": "cpu"}, "the device is cpu"),
        ({"strategy": DDPStrategy()}, "only with cuda_graph=true"),
        ({"strategy": DDPStrategy(bucket_cap_mb=50, find_unused_parameters=False), "cuda_graph": True}, None),
        ({"strategy": DDPStrategy(find_unused_parameters=True)}, "DDPStrategy is told by find_unused_parameters"),
        ({"strategy": DDPStrategy(ddp_comm_hook=bf16_compress_hook)}, "is told by ddp_comm_hook"),
        ({"strategy": FSDPStrategy()}, "a single device, or trainer.strategy=ddp, and this is FSDPStrategy"),
        ({"compile": True}, "compile=true"),
        ({"steps": 201}, "1 more steps do not pay"),  # of a run that goes on
        ({"steps": 299}, "99 more steps do not pay for making them, which takes 100"),
        ({"steps": float("inf")}, None),
    ],
)
def test_when_steps_are_replayed_from_graphs(plan: Plan, changes: dict, obstacle: str | None) -> None:
    options = {name: changes[name] for name in ("cuda_graph", "compile") if name in changes}
    module = SegmentationModule(**arguments(plan, "nnunet"), **options)
    module._device = torch.device(changes.get("device", "cuda:0"))
    module._trainer = SimpleNamespace(
        strategy=changes.get("strategy", SingleDeviceStrategy("cpu")),
        estimated_stepping_batches=changes.get("steps", 300), global_step=200,
    )  # fmt: skip
    found = module._obstacle_to_graphs()
    assert (found is None) if obstacle is None else re.search(obstacle, found)


def test_a_text_among_the_optimisers_numbers_is_named(plan: Plan) -> None:
    optimizer = functools.partial(torch.optim.SGD, lr="abc")
    module = SegmentationModule(**arguments(plan, "nnunet") | {"optimizer": optimizer})
    with pytest.raises(ValueError, match=r"model\.optimizer.* does not take its values: lr is 'abc', a text\."):
        module.optimizer_and_schedule(3)


def test_no_gradient_is_left_for_the_next_forward_pass(plan: Plan, tmp_path) -> None:
    """Where a graph's would have to be saved; but those of batches that add up to one step are."""
    left = []

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            left.append(any(p.grad is not None for p in module.parameters()))

    short_fit(plan, tmp_path, [Look()], accumulate_grad_batches=2)
    assert left == [False, True, False, True]


@pytest.mark.parametrize("name", ["umamba_enc", "nnunet"])
def test_two_patches_are_overfitted_and_the_checkpoint_rebuilds_the_network(plan: Plan, name: str, tmp_path) -> None:
    config = {"model": {"network": {"_target_": "umamba.models.unet.PlainConvUNet", "_partial_": True}}}
    config["model"]["deep_supervision"] = True
    if name == "umamba_enc":
        config["model"]["network"] |= {"_target_": "umamba.models.umamba.UMamba", "mamba": "encoder"}
    module = make_module(plan, name, {"config": config})
    torch.manual_seed(1)
    sample = batch()
    loader = torch.utils.data.DataLoader([sample] * 80, batch_size=None)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=12, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    module.eval()
    with torch.no_grad():
        loss = module.loss(module(sample["image"]), sample["label"])
        logits = module(sample["image"])[0]
    assert loss < -0.3, "80 steps on the same two patches must come near to the best loss, -1, from about 1.7"

    trainer.save_checkpoint(tmp_path / "module.ckpt")
    checkpoint = torch.load(tmp_path / "module.ckpt", weights_only=True)
    network, stored_plan = network_from_checkpoint(checkpoint)
    assert stored_plan == plan
    with torch.no_grad():
        torch.testing.assert_close(network(sample["image"]), logits)


def short_fit(plan: Plan, tmp_path, callbacks, batches=(), **options) -> tuple[SegmentationModule, L.Trainer]:
    """Four steps on the CPU with large gradients, which are clipped."""
    torch.manual_seed(0)
    optimizer = options.pop("optimizer", functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    module = SegmentationModule(**arguments(plan, "nnunet") | {"optimizer": optimizer})
    loader = torch.utils.data.DataLoader(batches or [batch() for _ in range(4)], batch_size=None)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=callbacks, **options,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module, trainer


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 0.1}, {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}, {}],
    ids=["norm", "value", "none"],
)
def test_clipping_by_a_norm_that_is_known_is_lightnings(plan: Plan, tmp_path, options) -> None:
    ends = [short_fit(plan, tmp_path, watch, **options)[0] for watch in ([FiniteWatch()], [])]
    weights = [torch.cat([p.flatten() for p in module.parameters()]) for module in ends]
    assert torch.equal(*weights)
    unclipped = short_fit(plan, tmp_path, [])[0]
    assert bool(options) is not torch.equal(weights[0], torch.cat([p.flatten() for p in unclipped.parameters()]))


@pytest.mark.parametrize("fused", [None, True], ids=["host", "device"])
def test_the_epochs_loss_is_of_the_steps_taken(plan: Plan, tmp_path, fused) -> None:
    """Whoever decides that a step is skipped: the host, or a fused optimizer by itself."""
    batches = [batch() for _ in range(4)]
    batches[2]["image"][0, 0, 3] = float("nan")
    optimizer = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=fused)
    taken, trainer = short_fit(plan, tmp_path, [FiniteWatch()], batches, optimizer=optimizer)
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    del batches[2]
    without, other = short_fit(plan, tmp_path, [FiniteWatch()], batches, optimizer=optimizer)
    assert torch.equal(trainer.callback_metrics["train/loss"], other.callback_metrics["train/loss"])
    assert all(torch.equal(a, b) for a, b in zip(taken.parameters(), without.parameters(), strict=True))


def test_a_loss_that_is_not_finite_is_named(plan: Plan, tmp_path, caplog) -> None:
    def broken():
        return lambda logits, label: logits.sum() * float("nan")

    module = SegmentationModule(**arguments(plan, "nnunet"), loss=broken)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[FiniteWatch()],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([batch()], batch_size=None))
    (said,) = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert "broken) or its gradient (every layer's output is finite)" in said and "the loss (" in said


def test_steps_are_counted_alike_on_host_and_device() -> None:
    losses = [[torch.tensor(2.0), torch.tensor(4.0)], [torch.tensor(float("nan"))], [torch.tensor(0.1)]]
    host, device = TrainLoss(0.7, 3, 1), TrainLoss(0.7, 3, 1)
    for own, skipped in zip(losses, (False, True, False), strict=True):
        host.update(own, skipped)
        device.update(own, torch.tensor(float(skipped)))
    assert host.state_dict() == device.state_dict()
    assert {key: type(value) for key, value in device.state_dict().items()} == {
        "total": float, "steps": int, "skipped": int
    }  # fmt: skip
    assert (device.steps, device.skipped) == (5, 2)
