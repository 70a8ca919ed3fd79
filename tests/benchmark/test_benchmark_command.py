"""The benchmark command as a user calls it, on data small enough for a CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from miniatures import TINY, make_volumes
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader

from tests import warm_start
from umamba.benchmark import step_times
from umamba.callbacks.cost import Cost

OVERRIDES = [*(o for o in TINY if not o.startswith("trainer.log")), "data=custom", "model=nnunet"]


def benchmark(folder: Path, *overrides: str, ok: bool = True) -> str:
    raw = folder / "Dataset007_Toy"
    if not raw.is_dir():
        make_volumes(raw)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(folder)}
    line = ["-m", "umamba.benchmark", *OVERRIDES, f"data.dataset_dir={raw}", *overrides]
    result = warm_start.run(*line, cwd=folder, env=environment)
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_rows_of_real_and_dummy_data_and_of_several_numbers_of_workers(tmp_path):
    said = benchmark(tmp_path, "workers=[0,1]")
    rows = json.loads((tmp_path / "logs/benchmark/epochs.json").read_text())
    assert [(row["feed"], row["workers"]) for row in rows] == [("real", 0), ("real", 1), ("dummy", None)]
    for row in rows:
        assert len(row["epochs_s"]) == 2 and row["epoch_s"] == min(row["epochs_s"])
        parts = row["first_epoch"]
        whole = parts["first_step_s"] + parts["other_steps_s"] + parts["rest_s"]
        assert whole == pytest.approx(row["epochs_s"][0]) and min(parts.values()) > 0
        assert row["iterations"] == [2, 1] and row["batch_size"] == 2 and row["model"] == "nnunet"
        assert 0 < row["loader_ms"] < row["step_ms"] and 2 * row["step_ms"] / 1e3 < max(row["epochs_s"])
    assert "dummy: The processor bounds it" in said and "is enough" in said
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("metrics.csv"))
    benchmark(tmp_path, "feeds=[dummy]", "output=" + str(tmp_path / "logs/benchmark"))
    again = json.loads((tmp_path / "logs/benchmark/epochs.json").read_text())
    assert again[:2] == rows[:2] and len(again) == 3 and again[2]["epochs_s"] != rows[2]["epochs_s"]


def test_a_refusal_is_a_message(tmp_path):
    said = benchmark(tmp_path, "peer=" + str(tmp_path / "nothing"), ok=False)
    assert "Install it into an environment of its own" in said and "Traceback" not in said
    said = benchmark(tmp_path, "data.dataset_dir=8", f"paths.raw={tmp_path}", ok=False)
    assert "has no Dataset008_*; it has Dataset007_Toy" in said
    assert not (tmp_path / "data").exists(), "before any case is read"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", ["false", "auto"])
def test_on_a_gpu_kernels_are_recorded_after_the_epochs_that_count(tmp_path, graph):
    benchmark(tmp_path, "trainer=gpu", "data.iterations_per_epoch=20", f"cuda_graph={graph}", "workers=[1]")
    for row in json.loads((tmp_path / "logs/benchmark/epochs.json").read_text()):
        assert len(row["epochs_s"]) == 2
        assert row["device_ms"] > 0 and row["host_ms"] > 0 and row["peak_gib"] > 0
        assert row["bound"] in ("loader", "host", "device")


def test_steps_are_recorded_after_the_epochs_that_count_and_end_the_training(monkeypatch):
    """The order of it, on the CPU: with its operations in place of the GPU's kernels."""
    monkeypatch.setattr(step_times, "ProfilerActivity", SimpleNamespace(CUDA=ProfilerActivity.CPU))
    monkeypatch.setattr(step_times.torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(step_times, "_ON_GPU", ("cpu",))
    monkeypatch.setattr(
        step_times, "_seen", lambda recorded, steps, busy: (len(recorded.events()) > 0, steps, busy > 0)
    )
    times, cost = step_times.StepTimes(), Cost(None)
    watch = step_times.DeviceWatch(2, times)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[cost, watch],
    )  # fmt: skip
    trainer.profiler = times
    module = Counting()
    trainer.fit(module)
    assert [epoch.steps for epoch in times.epochs] == [20, 20, 13], "two that count, and what is recorded of a third"
    assert module.validated == 2 * 3 and len(cost.epoch_seconds) == 3
    assert watch.found == (True, 10, True)


class Counting(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(4, 1)
        self.validated = 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.network(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.zeros(20, 4))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.zeros(3, 4))
