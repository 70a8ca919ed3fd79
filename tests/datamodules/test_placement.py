"""Where patches are augmented: chosen, refused, measured, kept in checkpoints."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchio as tio
from miniatures import make_volumes
from torch.utils.data import Dataset

from umamba.datamodules.augmentation.device.chain import DeviceChain
from umamba.datamodules.augmentation.spatial import RandomMirror
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.placement import NEVER, Placement, WatchedLoader
from umamba.datamodules.sampling import EpochSampler

CHAIN = DeviceChain([RandomMirror()], (8, 8))
CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEPS = 100  # after which a choice is made
LATER, AT_ONCE = 2 * (750 + 101), 2 * (750 + 41)  # samples from which on the device augments, chosen late or early


def measured(placement: Placement, waited: float, steps: int = STEPS, others: bool = False) -> WatchedLoader:
    """A loader in epoch 3 of whose user `steps` steps of a second were measured."""
    sampler = EpochSampler(num_batches=250, batch_size=2)
    sampler.set_epoch(3)
    loader = WatchedLoader([0])
    strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine or others)
    placement.watch(loader, sampler, SimpleNamespace(strategy=strategy))
    for number in range(steps):
        loader.note(number, waited, 1.0)
    return loader


def test_impossible_choices() -> None:
    with pytest.raises(ValueError, match="data.augment_on is 'gpu'; expected one of auto, cpu, cuda"):
        Placement("gpu")
    with pytest.raises(ValueError, match="data.augment_on=cuda needs a run on a CUDA device; this one is on the cpu"):
        Placement("cuda").check(CPU)
    Placement("cuda").check(GPU)


def test_auto_is_the_workers_where_there_is_no_gpu(tmp_path: Path) -> None:
    make_volumes(tmp_path / "raw")
    batches = []
    for choice in ("cpu", "auto"):
        datamodule = SegmentationDataModule(
            dataset_dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared", patch_size=(8, 8, 8),
            augmentation=[tio.RandomNoise(), RandomMirror()], iterations_per_epoch=2, augment_on=choice,
        )  # fmt: skip
        datamodule.prepare_data()
        datamodule._device = lambda: CPU  # as on a machine without one
        batches.append([batch["image"] for batch in datamodule.train_dataloader()])
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


@pytest.mark.parametrize(("waited", "others", "first"), [(0.05, False, NEVER), (0.2, False, LATER)])
def test_auto_is_the_gpu_where_steps_wait(
    waited: float, others: bool, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    placement = Placement("auto")
    placement.begin(GPU, CHAIN)
    with caplog.at_level(logging.INFO):
        measured(placement, waited, STEPS - 1, others)
        assert int(placement.first) == NEVER and not caplog.messages and not placement.state_dict()["decided"]
        placement = Placement("auto")
        measured(placement, waited, STEPS, others)
    assert int(placement.first) == first  # 250 batches of 2 in each of 3 epochs, and 101 of the fourth
    assert f"{STEPS - 20} steps waited {100 * waited:.0f} % of their time" in caplog.text
    assert ("augmented on the GPU" in caplog.text) == (first != NEVER)


@pytest.mark.parametrize(("waited", "others"), [(0.6, False), (0.05, True)])
def test_where_steps_wait_for_most_of_their_time_or_another_process_does_that_is_soon_told(
    waited: float, others: bool
) -> None:
    placement = Placement("auto")
    measured(placement, waited, 40, others)
    assert int(placement.first) == AT_ONCE and placement.state_dict()["decided"]
    assert measured(placement, 1.0, 0).note is None


class Told(Dataset):
    """Samples that know whether they were made for the device."""

    def __init__(self, first: torch.Tensor) -> None:
        self.first = first

    def __getitem__(self, index: int) -> tuple[int, bool]:
        return index, index >= int(self.first)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("step", "skipped"), [(3, 0), (3, 4), (19, 0)])
def test_the_choice_holds_from_a_batch_on_that_no_worker_has_begun(
    monkeypatch: pytest.MonkeyPatch, workers: int, step: int, skipped: int
) -> None:
    """Workers are as far ahead as they may be when it is made; at an epoch's end it is the next one's first batch."""
    monkeypatch.setattr("umamba.datamodules.placement._UNCOUNTED", 0)
    monkeypatch.setattr("umamba.datamodules.placement._TOO_LONG", {step: 0.0})
    placement = Placement("auto")
    sampler = EpochSampler(num_batches=20, batch_size=4, skip_batches=skipped)
    sampler.set_epoch(1)
    loader = WatchedLoader(
        Told(placement.first),
        sampler=sampler,
        batch_size=4,
        num_workers=workers,
        prefetch_factor=3 if workers else None,
    )
    strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine)
    placement.watch(loader, sampler, SimpleNamespace(strategy=strategy))
    seen: list[tuple[int, bool]] = []
    for number, (indices, made) in enumerate(loader):
        if number == step:
            time.sleep(0.2)  # the workers get as far as they can
        seen += zip(indices.tolist(), made.tolist(), strict=True)
    first = int(placement.first)
    soon = 20 + skipped + step + 1 + 3 * workers + 1  # batches: this one is the last that is used before
    assert first == 4 * min(soon, 40)
    assert [index for index, _ in seen] == list(range(80 + 4 * skipped, 160))
    assert all(made == (index >= first) for index, made in seen)


@pytest.mark.parametrize(("waited", "first"), [(0.0, NEVER), (0.5, LATER)])
def test_a_resumed_run_keeps_its_choice(waited: float, first: int) -> None:
    placement = Placement("auto")
    measured(placement, waited)
    resumed = Placement("auto")
    resumed.load_state_dict(placement.state_dict())
    resumed.begin(GPU, CHAIN)
    assert int(resumed.first) == first
    assert measured(resumed, 1.0, 0).note is None  # nothing is measured again
    undecided = Placement("auto")
    undecided.load_state_dict(Placement("auto").state_dict())
    assert measured(undecided, 1.0).note is not None and int(undecided.first) == AT_ONCE


def test_another_training_with_the_same_data_module_is_measured_anew() -> None:
    placement = Placement("auto")
    placement.begin(GPU, CHAIN, anew=True)
    measured(placement, 1.0)
    assert int(placement.first) == AT_ONCE
    placement.begin(GPU, CHAIN, anew=True)
    assert int(placement.first) == NEVER
    measured(placement, 0.0)
    assert int(placement.first) == NEVER and placement.state_dict()["decided"]


def test_a_run_of_a_gpu_goes_on_without_one_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    resumed = Placement("auto")
    resumed.load_state_dict({"augment_on": "auto", "decided": True, "device_from_sample": 2000})
    resumed.begin(CPU, CHAIN)
    assert int(resumed.first) == NEVER and "noise will be drawn otherwise" in caplog.text


def test_what_stays_in_the_workers_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for choice in ("cuda", "auto"):
        placement = Placement(choice)
        with caplog.at_level(logging.INFO):
            placement.begin(GPU, DeviceChain([RandomMirror(), tio.RandomSpike(), RandomMirror()], (8, 8)))
        assert "Without a GPU version: RandomSpike." in caplog.text
        assert "workers (RandomMirror, RandomSpike); on the GPU: RandomMirror." in caplog.text
        assert int(placement.first) == (0 if choice == "cuda" else NEVER)
        caplog.clear()
    placement = Placement("cuda")
    placement.begin(GPU, DeviceChain([RandomMirror(), tio.RandomSpike()], (8, 8)))
    assert int(placement.first) == NEVER  # nothing is left for the device


def test_the_loader_tells_how_long_its_user_waits() -> None:
    noted = []
    loader = WatchedLoader([1, 2, 3])
    loader.note = lambda number, waited, passed: noted.append((number, waited, passed))
    assert [int(batch) for batch in loader] == [1, 2, 3] and [number for number, *_ in noted] == [1, 2]
    assert all(0 <= waited <= passed for _, waited, passed in noted)
