"""The augmentation on a GPU: the CPU's patches, nothing waits, beside a busy stream, in a training; pytest -m gpu."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
import torchio as tio
from miniatures import make_volumes
from test_device_chain import augmentation, finished, make
from test_device_transforms import MAKERS, SHAPES, compare

from umamba.datamodules.augmentation.device import chain
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.placement import NEVER
from umamba.models.mamba.scan.selfcheck import TOLERANCE

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device_chain_gpu")
    make_volumes(folder / "raw", labels=("liver", "spleen"))
    return folder


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAKERS)
def test_equals_the_transform_on_the_gpu(name: str, shape: str) -> None:
    patch, channels = SHAPES[shape]
    torch.set_float32_matmul_precision("high")  # as a user may have it: it must not show
    try:
        compare(MAKERS[name](patch), patch, channels, GPU)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", ["3D", "anisotropic", "2D"])
def test_the_kernels_are_right_so_they_run(kind: str) -> None:
    from umamba.datamodules.augmentation.device.kernels.check import relative_errors

    errors = relative_errors(GPU, kind)
    assert len(errors) > 20 and max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("shape", ["3D", "anisotropic", "2D, three channels"])
@pytest.mark.parametrize("name", MAKERS)
def test_torchs_operations_equal_the_transform_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: str
) -> None:
    monkeypatch.setattr(chain, "kernels_usable", lambda *_: False)
    patch, channels = SHAPES[shape]
    compare(MAKERS[name](patch), patch, channels, GPU)


@pytest.mark.parametrize("name", ["nnunet_21", "nnunet_28"])
def test_nothing_waits_and_a_busy_stream_disturbs_nothing(folder: Path, name: str) -> None:
    entries = augmentation(name)
    entries["noise"] = tio.RandomNoise(p=0.1, std=(0, 0))
    settings = {"augmentation": entries, "patch_size": (16, 16, 16), "iterations_per_epoch": 40}
    expected = finished(make(folder, NEVER, **settings))
    datamodule = make(folder, 0, **settings)
    finished(datamodule, GPU)  # fills what is computed once
    batches = [{**batch, "pending": batch["pending"].pin_memory()} for batch in datamodule.train_dataloader()]
    weight, seen = torch.randn(2048, 2048, device=GPU), []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            done = datamodule.transfer_batch_to_device(batch, GPU, 0)
            for _ in range(20):  # a step, after which the batch's memory is free
                weight = (weight @ weight).clamp_(-1, 1)
            seen.append((done["image"].clone(), done["label"].clone()))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (image, label), batch in zip(seen, expected, strict=True):
        torch.testing.assert_close(image.cpu(), batch["image"], atol=1e-4, rtol=0)
        assert torch.equal(label.cpu(), batch["label"])


class _Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["image"].double().sum())
        return (self.weight * batch["image"].mean()).sum()

    def validation_step(self, batch, batch_idx: int) -> None:
        assert "image" in batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_training_sees_the_same_batches_with_any_workers(folder: Path, tmp_path: Path) -> None:
    seen = []
    for workers in (0, 2):
        datamodule = SegmentationDataModule(
            dataset_dir=folder / "raw", prepared_dir=folder / "prepared", augmentation=augmentation("nnunet_21"),
            patch_size=(16, 16, 16), batch_size=4, iterations_per_epoch=5, val_iterations=1, num_workers=workers,
            augment_on="cuda",
        )  # fmt: skip
        trainer = L.Trainer(
            accelerator="gpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, use_distributed_sampler=False, enable_checkpointing=False, max_epochs=2,
        )  # fmt: skip
        module = _Recorder()
        trainer.fit(module, datamodule)
        assert datamodule.state_dict() == {"augment_on": "cuda", "decided": True, "device_from_sample": 0}
        seen.append(torch.stack(module.seen).tolist())
    assert len(set(seen[0])) == 10 and seen[0] == pytest.approx(seen[1], abs=1e-3)
