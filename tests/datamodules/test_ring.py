"""Batches through memory that a loader's workers fill in turn: the same ones, and none that is used again unseen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_device_chain import CPU, DEVICE, augmentation, finished, folders, make  # noqa: F401  # a fixture

from umamba.datamodules import loaders, shared_memory
from umamba.datamodules.augmentation.device.ring import SPARE, Place, Ring
from umamba.datamodules.placement import NEVER
from umamba.datamodules.shared_memory import PREFETCH

WORKERS = 2
BATCHES = 2 * WORKERS * (PREFETCH + SPARE) + 1  # every slot is used twice


def made(folder: Path, first: int, monkeypatch: pytest.MonkeyPatch, slot_size: int | None = 2**20):
    """A data module whose training batches go through a ring, as on a GPU."""
    ring = slot_size and Ring(slot_size, WORKERS, PREFETCH)
    monkeypatch.setattr(loaders.PatchDataModule, "_make_ring", lambda *_: ring)
    return make(folder, first, augmentation=augmentation("nnunet_21"), patch_size=(8, 8, 8), num_workers=WORKERS,
                iterations_per_epoch=BATCHES)  # fmt: skip


@pytest.mark.parametrize("first", [NEVER, DEVICE])
def test_batches_are_those_without(folders: dict, monkeypatch: pytest.MonkeyPatch, first: int) -> None:  # noqa: F811
    expected = finished(made(folders["volumes"], first, monkeypatch, None))
    datamodule = made(folders["volumes"], first, monkeypatch)
    loader = datamodule.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(0)
        for batch, other in zip(loader, expected, strict=True):
            assert isinstance(batch["pending"].memory, Place), epoch
            batch = datamodule.transfer_batch_to_device(batch, CPU, 0)
            assert batch["case"] == other["case"] and torch.equal(batch["label"], other["label"])
            assert torch.equal(batch["image"], other["image"])


def test_epochs_that_are_given_up(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    datamodule = made(folders["volumes"], DEVICE, monkeypatch)
    loader, seen = datamodule.train_dataloader(), []
    for epoch in range(6):
        loader.sampler.set_epoch(0)
        for batch, _ in zip(loader, range(1 + epoch % 3), strict=False):
            seen.append((_, datamodule.transfer_batch_to_device(batch, CPU, 0)["image"]))
    first = {}
    assert len(seen) == 12
    assert all(torch.equal(first.setdefault(number, image), image) for number, image in seen)


def test_what_does_not_fit_goes_torchs_way(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    datamodule = made(folders["volumes"], DEVICE, monkeypatch, 100)
    batch = next(iter(datamodule.train_dataloader()))
    assert isinstance(batch["pending"].memory, torch.Tensor)
    assert datamodule.transfer_batch_to_device(batch, CPU, 0)["image"].shape == (4, 2, 8, 8, 8)


def test_a_batch_that_was_kept_too_long_is_refused(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    datamodule = made(folders["volumes"], DEVICE, monkeypatch)
    batches = list(datamodule.train_dataloader())
    with pytest.raises(RuntimeError, match="A batch was kept while its worker made 5 others"):
        datamodule.transfer_batch_to_device(batches[0], CPU, 0)
    datamodule.transfer_batch_to_device(batches[-1], CPU, 0)
    with pytest.raises(TypeError, match="move it to a device first"):
        batches[-1]["pending"].tensors()


def test_a_batch_of_a_loader_that_is_gone_is_refused() -> None:
    ring = Ring(100, 1, 1)
    place = Place(ring._number, 0, 0, 10)
    assert place.fetch(CPU).shape == (10,)
    del ring
    with pytest.raises(RuntimeError, match="a loader that is gone"):
        place.fetch(CPU)


def test_a_batch_that_is_written_over_while_it_is_copied_is_noticed() -> None:
    ring = Ring(100, 1, 1)
    ring.fetch(Place(ring._number, 0, 0, 10), CPU)
    ring._serials[0] = 1  # its worker
    with pytest.raises(RuntimeError, match="its memory is used again"):
        ring.fetch(Place(ring._number, 1, 0, 10), CPU)


def test_where_a_ring_is_made(
    folders: dict,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    datamodule = make(folders["volumes"], DEVICE, augmentation=augmentation("nnunet_21"), augment_on="auto")
    pinned = [True]
    monkeypatch.setattr(Ring, "pin", lambda self: pinned[0])
    datamodule.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=CPU))
    assert datamodule._make_ring(WORKERS, 0, 1) is None  # on a CPU
    monkeypatch.setattr(datamodule, "_device", lambda: torch.device("cuda", 0))
    whole, half = (datamodule._make_ring(WORKERS, 0, processes) for processes in (1, 2))
    assert whole.slot_size > half.slot_size > loaders.DRAWS
    assert datamodule._make_ring(0, 0, 1) is None
    pinned[0] = False
    assert datamodule._make_ring(WORKERS, 0, 1) is None
    pinned[0] = True
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=WORKERS * 2**20))
    with caplog.at_level("INFO"):
        assert datamodule._make_ring(WORKERS, 0, 1) is None
    assert "/dev/shm is too small for the GPU to copy batches from there" in caplog.text
