"""Whatever is switched off on the command line is left out, and a run that could not be tested is refused."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, StochasticWeightAveraging
from omegaconf import OmegaConf

from umamba import trainer
from umamba.callbacks.cost import Cost
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.run.errors import explained
from umamba.trainer import check_batch_norm, check_last_checkpoint, check_precision, entries, make_trainer

CALLBACKS = {
    "last": {"_target_": "umamba.callbacks.last_checkpoint.LastCheckpoint", "dirpath": "run"},
    "cost": {"_target_": "umamba.callbacks.cost.Cost", "folder": "run"},
}


def test_null_entries_are_left_out() -> None:
    assert entries(None) == entries(OmegaConf.create({})) == []
    (own,) = entries(OmegaConf.create({"own": {"_target_": "types.SimpleNamespace", "nested": [1, {"a": 2}]}}))
    assert type(own.nested) is list and type(own.nested[1]) is dict  # a checkpoint holds them, not Hydra's
    chosen = entries(OmegaConf.create({**CALLBACKS, "last": None}))
    assert [type(callback) for callback in chosen] == [Cost]


def test_lightning_adds_nothing_in_place_of_what_was_left_out(tmp_path: Path) -> None:
    config = OmegaConf.create(
        {"_target_": "lightning.Trainer", "accelerator": "cpu", "default_root_dir": str(tmp_path)}
    )
    trainer = make_trainer(config, [], [])
    assert not trainer.loggers
    monitored = make_trainer(config, [], [LearningRateMonitor("epoch")])
    assert not any(isinstance(callback, LearningRateMonitor) for callback in monitored.callbacks)
    assert not any(isinstance(callback, (ModelCheckpoint, ProgressBar)) for callback in trainer.callbacks)


@pytest.mark.parametrize(("epochs", "every"), [(3, 3), (4, 4), (30, 4), (-1, 4)])
def test_a_short_training_is_validated_in_its_last_epoch(epochs: int, every: int) -> None:
    config = {"_target_": "lightning.Trainer", "accelerator": "cpu", "max_epochs": epochs, "check_val_every_n_epoch": 4}
    assert make_trainer(OmegaConf.create(config), [], []).check_val_every_n_epoch == every


def test_parts_of_another_lightning_are_refused() -> None:
    config = OmegaConf.create({"_target_": "lightning.Trainer", "accelerator": "cpu"})
    with pytest.raises(ValueError, match=r"pytorch_lightning\.\S+Timer is no Callback of the package lightning"):
        make_trainer(config, [], [pytorch_lightning.callbacks.Timer()])
    with pytest.raises(ValueError, match=r"pytorch_lightning\.\S+CSVLogger is no Logger"):
        make_trainer(config, [pytorch_lightning.loggers.CSVLogger("logs")], [])


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    config = OmegaConf.create({"_target_": "lightning.Trainer", "accelerator": accelerator})
    with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}, .*finds no GPU here.*trainer=cpu trains"):
        make_trainer(config, [], [])


def test_a_mean_that_comes_after_the_last_checkpoint_is_refused() -> None:
    config = OmegaConf.create({"_target_": "lightning.Trainer", "accelerator": "cpu"})
    with pytest.raises(ValueError, match="EMAWeightAveraging"):
        make_trainer(config, [], [StochasticWeightAveraging(0.01)])


@pytest.mark.parametrize(
    "change", [{"test": False}, {"train": False}, {"trainer": {"fast_dev_run": True}}, {"callbacks": CALLBACKS}]
)
def test_what_can_be_tested_or_need_not_be(change: dict) -> None:
    config = {"train": True, "test": True, "trainer": {}, "callbacks": {}} | change
    check_last_checkpoint(
        Path("run/last.ckpt"), OmegaConf.create(config), entries(OmegaConf.create(config["callbacks"]))
    )


@pytest.mark.parametrize("callbacks", [[], [LastCheckpoint("elsewhere")]])
def test_a_test_without_a_checkpoint_is_refused(callbacks: list) -> None:
    config = OmegaConf.create({"train": True, "test": True, "trainer": {}})
    with pytest.raises(ValueError, match="test=true needs run/last.ckpt, which callbacks.last writes"):
        check_last_checkpoint(Path("run/last.ckpt"), config, callbacks)


def test_batch_statistics_are_joined_only_where_there_are_any() -> None:
    norm = SimpleNamespace(network=torch.nn.Sequential(torch.nn.BatchNorm3d(2)))
    none = SimpleNamespace(network=torch.nn.Sequential(torch.nn.InstanceNorm3d(2)))
    check_batch_norm(OmegaConf.create({"sync_batchnorm": True}), norm)  # type: ignore[arg-type]
    check_batch_norm(OmegaConf.create({"sync_batchnorm": False}), none)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"trainer.sync_batchnorm=true .*Sequential has no batch normalisation"):
        check_batch_norm(OmegaConf.create({"sync_batchnorm": True}), none)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "noticed",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:51912.",
        "NCCL Error 6: remote process exited or there was a network error",
        "Gloo: Connection reset by peer",
    ],
)
def test_where_another_process_of_a_run_is_gone_that_is_said(noticed: str, capsys: pytest.CaptureFixture) -> None:
    def lose(*args: object, **options: object) -> None:
        raise RuntimeError(noticed)

    with pytest.raises(SystemExit) as ended, explained():
        trainer.fit(SimpleNamespace(fit=lose, world_size=2), None, SimpleNamespace())  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("Another of the 2 processes of this run is gone, and the training")
    assert said.endswith(f"{noticed}\n") and "Traceback" not in said
    with pytest.raises(RuntimeError, match="^mat1 and mat2"):  # of another kind, or of a run of one process
        noticed = "mat1 and mat2 shapes cannot be multiplied"
        trainer.fit(SimpleNamespace(fit=lose, world_size=2), None, SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch_size", "memory_gb"), [(2, 8.0), (1, None)])
def test_too_little_memory_of_a_gpu_is_said_with_what_to_do(
    batch_size: int, memory_gb: float | None, capsys: pytest.CaptureFixture
) -> None:
    def run_out(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    data = SimpleNamespace(
        plan=SimpleNamespace(memory_gb=memory_gb),
        plan_configuration=SimpleNamespace(batch_size=batch_size, patch_size=(40, 224, 192)),
    )
    with pytest.raises(SystemExit), explained():
        trainer.fit(SimpleNamespace(fit=run_out), None, data)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert f"batch size {batch_size} with patches of (40, 224, 192)" in said and "Traceback" not in said
    assert ("data.batch_size=1, or" in said) == (batch_size == 2)
    assert ("data.planning.memory_gb=6" in said) == (memory_gb is not None) and "data.planning.memory_gb" in said
    assert said.endswith("CUDA out of memory. Tried to allocate 2.00 GiB.\n")


@pytest.mark.parametrize("right", [False, True])
def test_bf16_on_a_cpu_is_tried_first(monkeypatch: pytest.MonkeyPatch, right: bool) -> None:
    monkeypatch.setattr("umamba.trainer._bf16_gradients_are_right", lambda: right)
    config = OmegaConf.create({"accelerator": "cpu", "precision": "bf16-mixed"})
    with nullcontext() if right else pytest.raises(ValueError, match="precision=bf16-mixed.*wrong gradients"):
        check_precision(config)
    check_precision(OmegaConf.create({"accelerator": "cpu", "precision": "32-true"}))
    check_precision(OmegaConf.create({"accelerator": "gpu", "precision": "bf16-mixed"}))


@pytest.mark.parametrize("precision", ["16-mixed", 16, "16"])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_fp16_is_not_replaced_by_another_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str | int, accelerator: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"trainer.precision=16.*no training in mixed fp16.*bf16-mixed"):
        check_precision(OmegaConf.create({"accelerator": accelerator, "precision": precision}))
    check_precision(OmegaConf.create({"accelerator": "gpu", "precision": precision}))


@pytest.mark.parametrize(("deterministic", "benchmark"), [(None, True), (False, True), (True, False), ("warn", False)])
def test_no_kernels_are_chosen_by_time_where_they_must_be_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deterministic: bool | str | None, benchmark: bool
) -> None:
    """torch ignores that they must where it is to choose the fastest."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    settings = {"accelerator": "cpu", "benchmark": True, "deterministic": deterministic}
    make_trainer(
        OmegaConf.create({"_target_": "lightning.Trainer", "default_root_dir": str(tmp_path), **settings}), [], []
    )
    assert torch.backends.cudnn.benchmark == benchmark


def test_the_trial_of_bf16_agrees_with_a_cpu_that_has_no_such_kernels() -> None:
    with torch.backends.mkldnn.flags(enabled=False):  # torch's own convolution, in which nothing is left unwritten
        assert trainer._bf16_gradients_are_right()
