"""What is made of the times of a benchmark: sums, what bounds a training, tables, files, refusals."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from tests.composed import composed
from umamba.benchmark import step_times
from umamba.benchmark.__main__ import _check
from umamba.benchmark.peer import find_peer
from umamba.benchmark.rows import add_row, read_rows
from umamba.benchmark.verdict import bound_of, enough_workers, markdown, sentence
from umamba.resolvers import register_resolvers

ROW = {
    "data": "hippocampus", "configuration": "3d_fullres", "model": "nnunet", "feed": "real", "workers": 4,
    "patch_size": [40, 56, 40], "batch_size": 9, "iterations": [250, 50], "precision": "bf16-mixed",
    "augmentation": "nnunet_21", "augment_on": "cpu", "augmented_on": "cpu", "cuda_graph": False, "compile": False,
    "machine": "GPU", "devices": 1, "cpus": 16,
    "epoch_s": 5.0, "epochs_s": [9.5, 5.0], "step_ms": 20.0, "loader_ms": 0.5, "host_ms": 9.0, "device_ms": 19.0,
    "peak_gib": 1.5,
}  # fmt: skip


def row(**changes) -> dict:
    made = ROW | changes
    return made | {"bound": bound_of(made)}


@pytest.mark.parametrize(
    ("changes", "bound", "advice"),
    [
        (
            {"loader_ms": 1.1},
            "loader",
            "data.num_workers=4 of 16 CPUs now), or let the GPU augment (data.augment_on=cuda)",
        ),
        ({"loader_ms": 1.1, "augmented_on": "cuda"}, "loader", "augmentation=nnunet_28"),
        ({"loader_ms": 0.9}, "device", "More workers gain nothing"),
        ({"device_ms": 17.9}, "host", "cuda_graph=auto"),
        ({"device_ms": 17.9, "cuda_graph": "auto"}, "host", "A larger data.batch_size"),
        ({"device_ms": 17.9, "devices": 2}, "host", "cuda_graph=auto"),
        ({"loader_ms": 1.1, "device_ms": 5.0}, "loader", "1.1 of a step's 20 ms"),
        ({"device_ms": None}, None, "nobody can tell"),
        ({"device_ms": None, "host_ms": None, "peak_gib": None}, "device", "The processor bounds it"),
    ],
)
def test_what_bounds_a_training(changes, bound, advice):
    assert row(**changes)["bound"] == bound
    assert advice in sentence(row(**changes))


def test_the_smallest_number_of_workers_that_is_enough():
    times = {1: 12.0, 2: 6.2, 4: 6.0, 8: 5.95}
    said = enough_workers([row(workers=n, epoch_s=s) for n, s in times.items()])
    assert said is not None and said.startswith("data.num_workers=2 is enough") and "5.95 s" in said
    assert "faster still" in str(enough_workers([row(workers=n, epoch_s=8.0 / n) for n in (1, 2)]))
    assert enough_workers([row(), row(feed="dummy", workers=None)]) is None


def test_waiting_and_steps_are_counted_epoch_by_epoch(monkeypatch):
    # Each look at the clock is a second later: a wait takes one, a step with its wait three.
    ticks = itertools.count()
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: float(next(ticks)))
    times = step_times.StepTimes()
    for steps in (2, 4):
        with times.profile("run_training_epoch"):
            for _ in range(steps):
                with times.profile("[_TrainingEpochLoop].train_dataloader_next"):
                    pass
                with times.profile("run_training_batch"):
                    pass
    assert [epoch.steps for epoch in times.epochs] == [2, 4]
    assert [epoch.loader_ms for epoch in times.epochs] == [1000, 1000]
    assert [epoch.first for epoch in times.epochs] == [2, 2]
    assert [epoch.ended - epoch.began for epoch in times.epochs] == [5, 11]  # three ticks a step, less the first


def test_kernels_that_overlap_count_once_and_waiting_for_the_device_is_not_the_hosts_work():
    def event(start: float, end: float, device: DeviceType, name: str) -> SimpleNamespace:
        time = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(time_range=time, device_type=device, name=name)

    events = [
        event(0, 3000, DeviceType.CUDA, "convolution"),
        event(1000, 2000, DeviceType.CUDA, "copy"),
        event(2500, 4000, DeviceType.CUDA, "norm"),
        event(6000, 7000, DeviceType.CUDA, "loss"),
        event(0, 10, DeviceType.CPU, "cudaLaunchKernel"),
        event(10, 6010, DeviceType.CPU, "cudaEventSynchronize"),
    ]
    seen = step_times._seen(SimpleNamespace(events=lambda: events), 2, busy_ms=10.0)
    assert seen == step_times.DeviceSteps(device_ms=2.5, host_ms=2.0)
    assert step_times._seen(SimpleNamespace(events=list), 2, busy_ms=10.0) is None


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 13, 250])
def test_the_steps_that_are_recorded_exist(steps):
    before, last = step_times._places(steps)
    assert 0 <= before <= last < steps and (last > before or steps == 1)


def test_rows_are_added_and_replaced(tmp_path):
    for epoch_s, workers in ((5.0, 2), (4.0, 4), (3.0, 2)):
        add_row(tmp_path, row(workers=workers, epoch_s=epoch_s))
    assert [(r["workers"], r["epoch_s"]) for r in read_rows(tmp_path)] == [(4, 4.0), (2, 3.0)]
    table = (tmp_path / "epochs.md").read_text()
    assert table == markdown(read_rows(tmp_path)) and table.count("| nnunet |") == 2
    assert "real, 2 workers" in table and "| 6.5 |" in table and "1 x GPU" in table
    add_row(tmp_path, row(workers=2, machine="another"))
    assert len(read_rows(tmp_path)) == 3
    (tmp_path / "epochs.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="holds no rows of this benchmark"):
        add_row(tmp_path, row())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("feeds=[reel]", r"feeds=\['reel'\]: expected some of real, dummy"),
        ("feeds=[]", "feeds="),
        ("workers=4", "workers=4: expected a list"),
        ("workers=[2,-1]", "expected a list of numbers"),
        ("workers=[]", "expected a list of numbers"),
        ("train=false", "train=False: a benchmark neither"),
        ("test=true", "test=True: a benchmark neither"),
        ("run_dir=somewhere", "run_dir=somewhere"),
        ("trainer.profiler=simple", "trainer.profiler is for trainings"),
        ("trainer.max_steps=5", "trainer.max_steps is for trainings"),
        ("trainer.fast_dev_run=true", "trainer.fast_dev_run is for trainings"),
        ("trainer.max_epochs=null", "trainer.max_epochs=None"),
        ("trainer.devices=2", "python -m umamba.benchmark"),
    ],
)
def test_what_a_benchmark_does_not_do_is_refused(override, message, tmp_path):
    cfg = config(tmp_path, override)
    with pytest.raises(ValueError, match=message):
        _check(cfg)


def test_the_default_configuration_is_taken(tmp_path):
    cfg = config(tmp_path)
    _check(cfg)
    assert (cfg.trainer.max_epochs, cfg.data.iterations_per_epoch, cfg.data.val_iterations) == (5, 250, 50)
    assert [name for name, entry in cfg.callbacks.items() if entry is not None] == ["progress", "finite"]


def config(folder: Path, *overrides: str):
    register_resolvers()
    names = [f"{key}=x" for key in ("task_name", "data_name", "model_name", "augmentation_name")]
    return composed("epochs", [f"paths.root={folder}", "trainer=cpu", *names, *overrides])


STUB = """#!{python}
import json, os, sys
from pathlib import Path
code, *arguments = sys.argv[2:]
root = Path(os.environ.get("nnUNet_results", "."))
if "get_allowed_n_proc_DA" in code:
    print(json.dumps(["2.9.9", {gpu}, 14]))
elif "plan_and_preprocess" in code:
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset007_Toy"
    folder.mkdir(parents=True)  # fails when it is called a second time
    plan = {{"configurations": {{"3d_fullres": {{"patch_size": [8, 8, 8], "batch_size": 3}}}}}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plan))
elif {fails}:
    sys.exit("no room on the card")
else:
    assert arguments[:3] == ["7", "3d_fullres", "0"] and (Path(os.environ["nnUNet_raw"]) / "Dataset007_Toy").is_dir()
    folder = root / "Dataset007_Toy" / (arguments[4] + "__nnUNetPlans__3d_fullres") / "fold_0"
    folder.mkdir(parents=True, exist_ok=True)
    result = {{"torch_version": "2.11", "cudnn_version": 91000, "gpu_name": "GPU", "fastest_epoch": 4.75}}
    (folder / "benchmark_result.json").write_text(json.dumps({{"key": result}}))
"""


def stub(folder: Path, *, gpu: bool = True, fails: bool = False) -> str:
    path = folder / "stub_python"
    path.write_text(STUB.format(python=sys.executable, gpu=gpu, fails=fails))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "Dataset007_Toy"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the stub is a POSIX script")
def test_the_peers_row(tmp_path, raw):
    peer = find_peer(stub(tmp_path), raw)
    rows = [peer.measure(feed, "toy", "3d_fullres", tmp_path / "peer") for feed in ("real", "dummy", "real")]
    assert [(r["model"], r["workers"], r["epoch_s"]) for r in rows] == [
        ("nnunetv2 2.9.9", 14, 4.75), ("nnunetv2 2.9.9", None, 4.75), ("nnunetv2 2.9.9", 14, 4.75)
    ]  # fmt: skip
    assert rows[0]["batch_size"] == 3 and rows[0]["iterations"] == [250, 50]
    assert json.loads(json.dumps(rows[0])) == rows[0] and "4.75" in markdown(rows)


@pytest.mark.skipif(sys.platform == "win32", reason="the stub is a POSIX script")
def test_a_peer_that_cannot_run_is_refused(tmp_path, raw):
    with pytest.raises(ValueError, match="cannot run nnunetv2 .*Install it into an environment of its own"):
        find_peer(str(tmp_path / "nothing"), raw)
    with pytest.raises(ValueError, match="runs on a GPU only"):
        find_peer(stub(tmp_path, gpu=False), raw)
    with pytest.raises(ValueError, match="Dataset123_Name only"):
        find_peer(stub(tmp_path), raw.parent)
    with pytest.raises(RuntimeError, match="ended with code 1: no room on the card All it said is in .*log.txt"):
        find_peer(stub(tmp_path, fails=True), raw).measure("real", "toy", "3d_fullres", tmp_path / "peer")


def test_long_steps_are_written_out():
    assert "103 of a step's 1509 ms" in sentence(row(step_ms=1509.2, loader_ms=103.1))
