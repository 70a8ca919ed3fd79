"""Batches in memory that workers share with the GPU: those of torch's way, never written over, and given back."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_device_chain import CPU, DEVICE, augmentation, finished, folders, make  # noqa: F401  # a fixture

from umamba.datamodules import loaders, shared_memory
from umamba.datamodules.augmentation.device import ring as rings
from umamba.datamodules.augmentation.device.ring import SPARE, Place, Ring
from umamba.datamodules.augmentation.device.ring import _unpin as unpin
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.placement import NEVER
from umamba.datamodules.shared_memory import PREFETCH, make_ring

WORKERS = 2
PLACES = WORKERS * (PREFETCH + SPARE)
BATCHES = PLACES + 3  # more than there are places


def made(folder: Path, first: int, monkeypatch: pytest.MonkeyPatch, size: int | None = 2**20) -> SegmentationDataModule:
    """A data module whose batches go through a ring, as on a GPU."""

    def ring_of(self: SegmentationDataModule, workers: int, *_, training: bool) -> Ring | None:
        return None if size is None else Ring(size, workers, PREFETCH)

    monkeypatch.setattr(loaders.PatchDataModule, "_make_ring", ring_of)
    return make(folder, first, augmentation=augmentation("nnunet_21"), patch_size=(8, 8, 8), num_workers=WORKERS,
                iterations_per_epoch=BATCHES, val_iterations=BATCHES)  # fmt: skip


def same(batch: dict, other: dict) -> bool:
    return (
        batch["case"] == other["case"]
        and torch.equal(batch["label"], other["label"])
        and torch.equal(batch["image"], other["image"])
    )


@pytest.mark.parametrize("first", [NEVER, DEVICE])
def test_batches_are_those_of_torchs_way(folders: dict, monkeypatch: pytest.MonkeyPatch, first: int) -> None:  # noqa: F811
    expected = finished(made(folders["volumes"], first, monkeypatch, None))
    datamodule = made(folders["volumes"], first, monkeypatch)
    loader = datamodule.train_dataloader()
    for _ in range(2):
        loader.sampler.set_epoch(0)
        for batch, other in zip(loader, expected, strict=True):
            assert isinstance(batch["pending"].memory, Place)
            assert same(datamodule.transfer_batch_to_device(batch, CPU, 0), other)


def test_validation_goes_the_same_way(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    expected = list(made(folders["volumes"], DEVICE, monkeypatch, None).val_dataloader())
    datamodule = made(folders["volumes"], DEVICE, monkeypatch)
    for batch, other in zip(datamodule.val_dataloader(), expected, strict=True):
        assert isinstance(batch["pending"].memory, Place)
        assert same(datamodule.transfer_batch_to_device(batch, CPU, 0), other)


def test_batches_that_are_kept_are_not_written_over(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    expected = finished(made(folders["volumes"], DEVICE, monkeypatch, None))
    datamodule = made(folders["volumes"], DEVICE, monkeypatch)
    loader = datamodule.train_dataloader()
    kept = list(loader)  # more than there are places
    by_torchs_way = [isinstance(batch["pending"].memory, torch.Tensor) for batch in kept]
    assert by_torchs_way.count(False) == PLACES and by_torchs_way.index(True) >= PREFETCH
    for batch, other in zip(kept, expected, strict=True):
        assert same(datamodule.transfer_batch_to_device(batch, CPU, 0), other)
    ring = loader.collate_fn.ring
    assert int(ring._taken.sum()) == PLACES
    del kept, batch
    assert int(ring._taken.sum()) == 0


def test_epochs_that_are_given_up_give_their_places_back(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    datamodule = made(folders["volumes"], DEVICE, monkeypatch)
    loader = datamodule.train_dataloader()
    first: dict[int, torch.Tensor] = {}
    for epoch in range(6):
        loader.sampler.set_epoch(0)
        for batch, number in zip(loader, range(1 + epoch % 3), strict=False):
            assert isinstance(batch["pending"].memory, Place), epoch
            image = datamodule.transfer_batch_to_device(batch, CPU, 0)["image"]
            assert torch.equal(first.setdefault(number, image), image)
    assert len(first) == 3


def test_what_does_not_fit_goes_torchs_way(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    expected = finished(made(folders["volumes"], DEVICE, monkeypatch, None))
    datamodule = made(folders["volumes"], DEVICE, monkeypatch, 100)
    for batch, other in zip(datamodule.train_dataloader(), expected, strict=True):
        assert isinstance(batch["pending"].memory, torch.Tensor)
        assert same(datamodule.transfer_batch_to_device(batch, CPU, 0), other)


def test_a_batch_must_be_moved_before_it_is_looked_at(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    loader = made(folders["volumes"], DEVICE, monkeypatch).train_dataloader()
    batch = next(iter(loader))["pending"]
    assert batch.pin_memory() is batch  # nothing is copied on the way
    with pytest.raises(TypeError, match="move it to a device first"):
        batch.tensors()
    del loader
    gc.collect()
    with pytest.raises(RuntimeError, match="a loader that is gone"):
        batch.to(CPU)


def received(ring: Ring, index: int) -> Place:
    """As it is after a queue."""
    ring._taken[index] = 1
    function, arguments = Place(ring._number, index, 10).__reduce__()
    return function(*arguments)


def test_a_place_belongs_to_whom_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(100, 1, 1)
    ring._taken[0] = 1
    place = Place(ring._number, 0, 10)
    del place  # the worker's own, once it is sent
    assert ring._taken.tolist() == [1, 0, 0, 0]
    place = received(ring, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # in a process that was forked meanwhile
        del place
    assert ring._taken.tolist() == [1, 1, 0, 0]
    place = received(ring, 2)
    assert place.fetch(CPU).shape == (10,) and ring._taken[2] == 1
    del place
    assert ring._taken.tolist() == [1, 1, 0, 0]


class Event:
    """Of a copy, done when the test says so."""

    done = False

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True


@pytest.fixture
def ring() -> Ring:
    return Ring(100, 1, 1)


@pytest.fixture
def as_if_on_a_gpu(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """CUDA that answers `code` to a request for pinned memory, and notes what is asked."""
    calls: list[tuple] = []
    found = SimpleNamespace(code=0, calls=calls)
    runtime = SimpleNamespace(
        cudaHostRegister=lambda address, size, flags: calls.append(("pin", size)) or found.code,
        cudaHostUnregister=lambda address: calls.append(("unpin",)),
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **rest: empty(*size, **rest))

    def launch(*_, device: torch.device) -> None:
        calls.append(("launch",))
        raise RuntimeError("CUDA error: the one before")

    monkeypatch.setattr(torch, "zeros", launch)
    monkeypatch.setattr(rings, "_unpin", lambda *_: None)  # which comes when there is no such CUDA any more
    return found


def test_a_place_is_free_again_when_its_copy_is_done(ring: Ring, as_if_on_a_gpu: SimpleNamespace) -> None:
    device = torch.device("cuda", 0)
    assert not as_if_on_a_gpu.calls  # workers are started first
    received(ring, 0).fetch(device)
    received(ring, 1).fetch(device)
    assert ring._taken.tolist() == [1, 1, 0, 0]
    ring._copied[0][0].done = True
    received(ring, 2).fetch(device)
    assert ring._taken.tolist() == [0, 1, 1, 0]
    unpin(ring._memory, ring._copied, os.getpid())  # when the loader is gone
    assert as_if_on_a_gpu.calls == [("pin", 4 * 4096), ("unpin",)]
    assert all(event.done for event, _ in ring._copied)  # waited for before the memory goes


def test_memory_that_cannot_be_pinned_is_used_as_it_is(
    ring: Ring, as_if_on_a_gpu: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    as_if_on_a_gpu.code = 801
    for index in range(2):
        ring._at(index, 10).fill_(index + 1)
        assert received(ring, index).fetch(torch.device("cuda", 0)).tolist() == [index + 1] * 10
    assert [record.levelno for record in caplog.records if "could not be pinned" in record.message] == [logging.WARNING]
    assert as_if_on_a_gpu.calls == [("pin", 4 * 4096), ("launch",)]  # which would have failed later


def test_where_a_ring_is_made(
    folders: dict,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    datamodule = make(folders["volumes"], DEVICE, augmentation=augmentation("nnunet_21"), augment_on="auto")
    assert datamodule._make_ring(WORKERS, 0, 1, training=True) is None  # for no trainer
    datamodule.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=CPU))
    assert datamodule._make_ring(WORKERS, 0, 1, training=True) is None  # on a CPU
    monkeypatch.setattr(datamodule, "_device", lambda: torch.device("cuda", 0))
    assert datamodule._make_ring(0, 0, 1, training=True) is None
    whole, half = (datamodule._make_ring(WORKERS, 0, processes, training=True) for processes in (1, 2))
    validation = datamodule._make_ring(WORKERS, 0, 1, training=False)
    assert whole.size > half.size > 0 and whole.size > validation.size
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "trainer", None)
        dataset = datamodule.train_dataloader().dataset
    assert datamodule._chain.collate([dataset[i] for i in range(4)])["pending"].parcel.size <= whole.size
    monkeypatch.setattr(shared_memory, "free_memory", lambda: 2**20)
    with caplog.at_level(logging.INFO):
        assert datamodule._make_ring(WORKERS, 0, 1, training=True) is None
    assert "Batches are copied once more on their way to the GPU" in caplog.text


def test_a_ring_takes_no_more_than_its_share_of_dev_shm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = SimpleNamespace(free=4 * 3 * PLACES * 4096)
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda folder: usage)
    assert make_ring(4096, WORKERS, 3) is not None
    assert make_ring(4097, WORKERS, 3) is None
    usage.free -= 1
    assert make_ring(4096, WORKERS, 3) is None
    usage.free = 2**40
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "absent")  # as on Windows
    assert make_ring(4096, WORKERS, 3) is None
    assert rings.whole_pages(1) == rings.whole_pages(4096) == 4096
