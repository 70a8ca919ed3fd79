"""Memory that workers share with a GPU, on one; pytest -m gpu."""

from __future__ import annotations

import gc
from pathlib import Path

import lightning as L
import pytest
import torch
from miniatures import make_volumes
from test_device_chain import augmentation
from test_ring import received

from umamba.datamodules.augmentation.device.ring import Place, Ring
from umamba.datamodules.base import SegmentationDataModule

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)


def test_batches_are_copied_without_waiting_and_places_given_back() -> None:
    ring = Ring(1 << 24, 1, 1)
    received(ring, 0).fetch(GPU)  # pins
    assert ring._memory.is_pinned()
    torch.cuda.synchronize()
    weight = torch.randn(4096, 4096, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            weight = (weight @ weight).clamp_(-1, 1)  # the stream is busy
        ring._memory[ring.size : ring.size + 10] = 7
        copy = received(ring, 1).fetch(GPU)
        assert ring._taken.tolist() == [0, 1, 0, 0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert copy.tolist() == [7] * 10
    received(ring, 2).fetch(GPU)
    assert ring._taken.tolist() == [0, 0, 1, 0]
    memory = ring._memory
    del ring
    gc.collect()
    assert not memory.is_pinned()


def test_memory_that_cannot_be_pinned_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ring = Ring(1 << 20, 1, 1)
    torch.cuda.synchronize()
    runtime = torch.cuda.cudart()
    assert int(runtime.cudaHostRegister(ring._memory.data_ptr(), 4096, 0)) == 0  # nobody may do so a second time
    ring._memory[:10] = 3
    assert received(ring, 0).fetch(GPU).tolist() == [3] * 10
    assert "could not be pinned" in caplog.text
    assert float(torch.ones(3, device=GPU).sum()) == 3
    torch.cuda.synchronize()
    runtime.cudaHostUnregister(ring._memory.data_ptr())


class Recorder(L.LightningModule):
    """Sums of the batches it is given; its step keeps the GPU busier than the host."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.busy = torch.randn(2048, 2048)
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.busy = self.busy.to(self.device)
        for _ in range(5):
            self.busy = (self.busy @ self.busy).clamp_(-1, 1)
        self.seen.append(torch.stack([batch["image"].double().sum(), batch["label"].double().sum()]))
        return (self.weight * batch["image"].mean()).sum()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.seen.append(torch.stack([batch["image"].double().sum(), batch["label"].double().sum()]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("augment_on", ["cuda", "cpu"])
def test_a_training_and_its_validation_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment_on: str
) -> None:
    make_volumes(tmp_path / "raw", labels=("liver", "spleen"))
    came: list[type] = []
    transfer = SegmentationDataModule.transfer_batch_to_device

    def noted(self, batch, device, dataloader_idx):
        if "pending" in batch:
            came.append(type(batch["pending"].memory))
        return transfer(self, batch, device, dataloader_idx)

    monkeypatch.setattr(SegmentationDataModule, "transfer_batch_to_device", noted)
    seen = []
    for workers in (0, 1, 3):
        came.clear()
        datamodule = SegmentationDataModule(
            dataset_dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared", augmentation=augmentation("nnunet_21"),
            patch_size=(16, 16, 16), batch_size=4, iterations_per_epoch=40, val_iterations=9, num_workers=workers,
            augment_on=augment_on,
        )  # fmt: skip
        trainer = L.Trainer(
            accelerator="gpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, use_distributed_sampler=False, enable_checkpointing=False, max_epochs=3,
        )  # fmt: skip
        module = Recorder()
        trainer.fit(module, datamodule)
        seen.append(torch.stack(module.seen).cpu())
        if workers:
            assert came.count(Place) > 0.9 * 3 * (40 + 9)
    assert len(seen[0]) == 3 * (40 + 9) + 2 and len(torch.unique(seen[0][:, 0])) > 120
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=1e-3, rtol=0)
