"""The patches of a validation are read once, where there is room for them, and are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from miniatures import make_volumes

from umamba.datamodules import loaders, patches
from umamba.datamodules.base import SegmentationDataModule

BATCHES = 3


@pytest.fixture
def datamodule(tmp_path: Path) -> SegmentationDataModule:
    make_volumes(tmp_path / "raw")
    module = SegmentationDataModule(
        dataset_dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared", val_iterations=BATCHES
    )
    module.prepare_data()
    return module


def read_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every block that is read from a store."""
    counted: list[int] = []
    read = patches.read_block
    monkeypatch.setattr(patches, "read_block", lambda *args: counted.append(1) or read(*args))
    return counted


def passes(module: SegmentationDataModule, number: int) -> list[list[dict]]:
    loader = module.val_dataloader()
    found = []
    for _ in range(number):
        batches = list(loader)
        found.append([{key: batch[key].clone() for key in ("image", "label")} for batch in batches])
        for batch in batches:
            batch["image"].zero_()  # what a loop does with a batch is not what the next one gets
            batch["label"].zero_()
    return found


def test_a_validation_is_read_once(datamodule, monkeypatch):
    counted = read_blocks(monkeypatch)
    first, second = passes(datamodule, 2)
    samples = BATCHES * datamodule.plan_configuration.batch_size
    assert len(counted) == 2 * samples  # image and label
    assert first[0]["image"].any()
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_without_room_it_is_read_anew_and_is_the_same(datamodule, monkeypatch):
    kept = passes(datamodule, 1)
    monkeypatch.setattr(loaders, "room_for_cases", lambda processes: 0)
    counted = read_blocks(monkeypatch)
    anew = passes(datamodule, 2)
    assert len(counted) == 4 * BATCHES * datamodule.plan_configuration.batch_size
    torch.testing.assert_close([*kept, *kept], anew, rtol=0, atol=0)


def test_each_worker_keeps_its_own(datamodule):
    alone = passes(datamodule, 1)
    datamodule.num_workers = 2
    torch.testing.assert_close(passes(datamodule, 2), [*alone, *alone], rtol=0, atol=0)


def test_training_samples_are_not_kept(datamodule):
    assert datamodule.train_dataloader().dataset.kept is None


def test_what_a_worker_keeps_is_its_share(datamodule):
    one = datamodule._batch_bytes(enlarged=False) // datamodule.plan_configuration.batch_size
    assert [datamodule._kept_bytes(50, 7, workers) for workers in (0, 1, 2, 4)] == [
        n * 7 * one for n in (50, 50, 25, 13)
    ]
