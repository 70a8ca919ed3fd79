"""A worker that fails or is gone, and too little shared memory: one message, with the case and what to do."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from umamba.datamodules import shared_memory
from umamba.datamodules.at_work import AtWork, SampleError, fault_of_worker
from umamba.datamodules.patches import PatchDataset
from umamba.datamodules.placement import WatchedLoader
from umamba.datamodules.shared_memory import batch_bytes, check_shared_memory, needed_bytes
from umamba.parallel import fitting_workers
from umamba.run.errors import is_for_the_user, message_of
from umamba.trainer import fit

BAD = 5  # the sample that fails
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


class Samples(Dataset):
    """Samples that are made until one raises, or ends its process by a signal."""

    def __init__(self, end: signal.Signals | None) -> None:
        self.end = end
        self.at_work: AtWork | None = None

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        assert self.at_work is not None
        self.at_work.begin(index)
        if index == BAD:
            if self.end is not None:
                os.kill(os.getpid(), self.end)
            try:
                raise OSError("chunk 3 is torn\nand so is 4")
            except OSError as error:
                raise SampleError(f"Sample {index} failed, a patch of case {case_of(index)!r}: {error}") from error
        return torch.zeros(1)


def case_of(index: int) -> str:
    return f"case_{index % 3}"


class Data(L.LightningDataModule):
    def __init__(self, end: signal.Signals | None, workers: int) -> None:
        super().__init__()
        self.samples, self.workers = Samples(end), workers
        self.at_work = {True: AtWork(workers, case_of), False: AtWork(0, case_of)}
        self.samples.at_work = self.at_work[True]

    def train_dataloader(self) -> DataLoader:
        workers = self.workers
        loader = WatchedLoader(self.samples, batch_size=1, num_workers=workers, persistent_workers=workers > 0)
        loader.at_work = self.samples.at_work
        return loader


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fault(end: signal.Signals | None, workers: int) -> RuntimeError:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        fit(trainer, Module(), Data(end, workers))
    return caught.value


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sample_that_fails_is_a_message_alone(workers):
    error = fault(None, workers)
    assert is_for_the_user(error)
    assert message_of(error) == f"Sample {BAD} failed, a patch of case 'case_2': chunk 3 is torn\nand so is 4"
    whole = "".join(traceback.format_exception(error))  # as train.log has it
    assert "raise OSError" in whole


@posix
@pytest.mark.parametrize(
    ("end", "advice"),
    [
        (signal.SIGKILL, "memory runs out, and .* GiB are free now. Take fewer workers"),
        (signal.SIGBUS, "/dev/shm.* was full. Make it larger"),
        (signal.SIGSEGV, "a library has crashed, perhaps on this case: examine it with the doctor"),
    ],
)
def test_a_worker_that_is_gone_is_named_with_its_case(end, advice):
    error = fault(end, 2)
    assert is_for_the_user(error)
    assert "\n" not in message_of(error)
    said = (
        rf"A worker of the loader .*, at sample {BAD}, a patch of case 'case_2': .*({advice}).*data.num_workers, 2 now"
    )
    with pytest.raises(RuntimeError, match=said):
        raise error


def test_torchs_other_way_of_saying_it():
    at_work = AtWork(2, case_of)
    at_work.table[:] = torch.tensor([[11, 4], [12, 7]])
    said = fault_of_worker(RuntimeError("DataLoader worker (pid(s) 11, 12) exited unexpectedly"), [at_work])
    assert said is not None
    assert said.startswith("2 workers of the loader ended without a word, at sample 4, a patch of case 'case_1' and ")
    assert "sample 7, a patch of case 'case_1': " in said and "fewer workers" in said
    for code, advice in ((-7, "was full. Make it larger"), (-11, "examine it with the doctor"), (1, "lines above")):
        at_work.processes = [SimpleNamespace(pid=12, exitcode=code)]
        said = fault_of_worker(
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Unknown. It is possible"), [at_work]
        )
        assert said is not None and "at sample 7" in said and advice in said
    unknown = fault_of_worker(RuntimeError("DataLoader worker (pid(s) 13) exited unexpectedly"), [at_work])
    assert unknown is not None and unknown.startswith("A worker of the loader ended without a word: ")
    at_work.processes = [SimpleNamespace(pid=12, exitcode=-9, join=lambda seconds: None)]
    said = fault_of_worker(ConnectionResetError(), [at_work])
    assert said is not None and said.startswith("A worker of the loader was ended by SIGKILL, at sample 7, a patch of")
    at_work.processes = [
        SimpleNamespace(pid=12, exitcode=code, join=lambda seconds: None) for code in (0, 1, -15, None)
    ]
    assert fault_of_worker(ConnectionResetError(), [at_work]) is None
    assert fault_of_worker(RuntimeError("CUDA error: an illegal memory access was encountered"), [at_work]) is None


def test_an_error_of_something_else_keeps_its_traceback():
    class Failing(Module):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return torch.zeros(2) @ torch.zeros(3)

    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(RuntimeError, match="inconsistent tensor size") as caught:
        fit(trainer, Failing(), Data(None, 0))
    assert not is_for_the_user(caught.value)


def test_a_dataset_knows_the_case_of_a_sample_without_making_it():
    configuration = SimpleNamespace(
        patch_size=(4, 4, 4), spatial_dims=3, batch_size=2, spacing=(1.0,) * 3, use_mask_for_norm=(False,)
    )

    def refuse(identifier: str) -> None:
        raise KeyError(identifier)

    dataset = PatchDataset(SimpleNamespace(case=refuse), ["a", "b", "c"], configuration=configuration, seed=3)
    cases = [dataset.case_of(index) for index in range(20)]
    assert set(cases) == {"a", "b", "c"}
    for index, case in enumerate(cases):
        with pytest.raises(SampleError, match=f"Sample {index} failed, a patch of case '{case}'"):
            dataset[index]


@pytest.mark.parametrize("workers", [1, 2, 5, 16])
def test_shared_memory_that_is_too_small_is_refused_with_what_fits(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    batch = 3 << 20
    usage = SimpleNamespace(free=needed_bytes(batch, workers))
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda folder: usage)
    check_shared_memory(batch, workers)  # just enough
    usage.free -= 1
    with pytest.raises(
        MemoryError, match=rf"have in store take .*--shm-size=1g.*or set data.num_workers={workers - 1}\."
    ) as caught:
        check_shared_memory(batch, workers)
    assert is_for_the_user(caught.value)
    check_shared_memory(batch, workers - 1)
    usage.free = 0
    check_shared_memory(batch, 0)


def test_where_there_is_no_such_folder_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "absent")
    check_shared_memory(1 << 60, 4)


def test_the_size_of_a_batch():
    configuration = SimpleNamespace(patch_size=(40, 224, 192), batch_size=2)
    label, image = np.zeros((40, 224, 192), np.int16), np.zeros((3, 40, 224, 192), np.float32)
    assert batch_bytes(configuration, 3) == 2 * (label.nbytes + image.nbytes)
    assert batch_bytes(configuration, 3, (80, 224, 192)) == 3 * batch_bytes(configuration, 3)


@posix
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_batches_in_store_take_what_is_counted():
    """Of workers that are as far ahead as they may be."""
    before = shutil.disk_usage("/dev/shm").used
    data = torch.zeros(1 << 18, 2)  # 1 MiB as two samples
    loader = DataLoader(list(data.T.contiguous()) * 20, batch_size=2, num_workers=2,
                        prefetch_factor=shared_memory.PREFETCH)  # fmt: skip
    iterator = iter(loader)
    batch = next(iterator)
    for _ in range(100):
        used = shutil.disk_usage("/dev/shm").used - before
        if used >= 6 << 21:
            break
        signal.sigtimedwait([], 0.05)
    assert 6 << 21 <= used <= needed_bytes(2 << 20, 2)
    del batch, iterator


@pytest.mark.parametrize(("wanted", "expected"), [(0, 1), (1, 1), (3, 3)])
def test_no_workers_is_this_process_alone(wanted, expected):
    assert fitting_workers(wanted, 1) == expected


@pytest.mark.parametrize("wanted", [-1, 1.5, True, "many"])
def test_what_is_no_number_of_processes_is_refused(wanted):
    with pytest.raises(ValueError, match="workers is .*; expected a whole number, 0 or more"):
        fitting_workers(wanted, 1)
