"""A training that is told to stop saves at the next step and goes on from there bit by bit the same."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.connectors import checkpoint_connector
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO
from umamba.callbacks.csv_log import ResumableCSVLogger
from umamba.callbacks.last_checkpoint import LastCheckpoint
from umamba.datamodules.sampling import EpochSampler
from umamba.locations import ROOT
from umamba.run import stop
from umamba.run.folder import open_run
from umamba.run.stop_on_signal import StopOnSignal, ask_nothing_else

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
STEPS, EPOCHS = 4, 3


@pytest.fixture(autouse=True)
def _handlers(monkeypatch):
    """Every test begins without a request and with no signal ignored, and leaves the process its own handlers."""
    monkeypatch.setattr(stop, "_requests", stop._Requests())
    before = {number: signal.getsignal(number) for number in stop.STOP_SIGNALS}
    for number in (number for number, handler in before.items() if handler == signal.SIG_IGN):
        signal.signal(number, signal.SIG_DFL)  # as under nohup, where nothing would come
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, key) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash(key) % 10_000)
        return torch.randn(3, generator=generator)


class Module(L.LightningModule):
    """Momentum, a schedule and a value that only a whole validation gives, as in the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)
        torch.nn.init.constant_(self.layer.bias, 0.0)
        self.register_buffer("validated", torch.zeros(EPOCHS, STEPS))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.layer(batch) - 1).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(self.layer(batch).mean())

    def on_validation_epoch_end(self) -> None:
        self.validated[self.current_epoch, : len(self.seen)] += torch.stack(self.seen)
        self.seen.clear()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


class Data(L.LightningDataModule):
    """Loaders as the real data module's: numbered samples, skipped to where a run goes on."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self.number: int | None = None  # of a signal that comes while the loader is made

    def train_dataloader(self) -> DataLoader:
        from umamba.datamodules.loaders import progress

        if self.number is not None:
            os.kill(os.getpid(), self.number)
        epoch, done = progress(self.trainer)
        sampler = EpochSampler(num_batches=STEPS, batch_size=2, rank=0, world_size=1, advance=True, skip_batches=done)
        sampler.set_epoch(epoch)
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader:
        return self._loader(EpochSampler(num_batches=STEPS, batch_size=2, rank=0, world_size=1, advance=False))

    def _loader(self, sampler: EpochSampler) -> DataLoader:
        return DataLoader(
            Numbers(), sampler=sampler, batch_size=2, num_workers=self.workers, persistent_workers=self.workers > 0,
            generator=torch.Generator(),
        )  # fmt: skip


class SignalAt(L.Callback):
    """Sends this process a signal in a hook, the n-th time that it comes by."""

    def __init__(self, hook: str, time: int, number: int) -> None:
        self.count = 0

        def send(*_: object, **__: object) -> None:
            self.count += 1
            if self.count == time:
                os.kill(os.getpid(), number)

        setattr(self, hook, send)


def fit(
    folder: Path,
    *callbacks: L.Callback,
    workers: int = 0,
    module: Module | None = None,
    at_loader: int | None = None,
    **settings: Any,
) -> Module:
    last = folder / "last.ckpt"
    module = module or Module()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=[*callbacks, StopOnSignal(last)], plugins=[AtomicCheckpointIO()],
        **{"logger": False, **settings},
    )  # fmt: skip
    stop.listen()
    with stop.deferred():
        data = Data(workers)
        data.number = at_loader
        trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    return module


WHERE = [
    ("on_train_batch_start", 1), ("on_train_batch_end", 2), ("on_train_batch_start", 4), ("on_train_batch_start", 6),
    ("on_validation_start", 1), ("on_validation_batch_start", 3), ("on_validation_batch_end", 8),
    ("on_validation_batch_start", 9), ("on_validation_end", 1), ("on_train_epoch_end", 2), ("on_train_epoch_start", 2),
    ("on_train_batch_start", 12), ("on_validation_batch_end", 12), ("on_train_batch_end", 4), ("on_train_batch_end", 8),
    ("on_train_batch_end", 12),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights_of_whole(tmp_path_factory) -> Callable[[int], dict[str, torch.Tensor]]:
    """Of a training that nobody stops, by the epochs between two validations; processes for the data change nothing."""

    @cache
    def weights(interval: int) -> dict[str, torch.Tensor]:
        return fit(tmp_path_factory.mktemp("whole"), check_val_every_n_epoch=interval).state_dict()

    return weights


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize(("interval", "workers"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize(("hook", "time"), WHERE)
def test_a_stopped_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch, weights_of_whole, hook, time, interval, workers
) -> None:
    said: list[str] = []  # what Lightning has to tell its own users about a checkpoint
    monkeypatch.setattr(checkpoint_connector.log, "info", lambda message, *_: said.append(message))
    settings = {"check_val_every_n_epoch": interval, "workers": workers}
    signal_at = SignalAt(hook, time, signal.SIGTERM)
    try:
        fit(tmp_path, signal_at, **settings)
    except stop.Stopped as stopped:
        assert stopped.code == 143 and stopped.signal == signal.SIGTERM
    else:
        assert interval == 2 and signal_at.count < time  # the moment does not come
        return
    stop._requests.signal = None
    resumed = fit(tmp_path, **settings)
    for name, value in weights_of_whole(interval).items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert said == []


class Logged(Module):
    """A row for every step, validation and epoch; what an epoch sums up is in the checkpoint, as in the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def on_train_start(self) -> None:
        for logger in self.loggers:
            logger.begin(self.trainer)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.total += loss.detach()
        self.log("loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("total", self.total.clone())

    def on_validation_epoch_end(self) -> None:
        self.log("val", torch.stack(self.seen).mean())
        super().on_validation_epoch_end()


def rows(folder: Path) -> list[dict[str, str]]:
    """Of metrics.csv, without what is empty: a resumed run may have its columns in another order."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("batches", [STEPS, 2])  # the loader's own last batch, or the last that is asked for
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"])
def test_a_stop_at_an_epochs_last_step_waits_for_the_epochs_end(tmp_path: Path, hook, interval, batches) -> None:
    def logged(folder: Path, *callbacks: L.Callback) -> Logged:
        return fit(
            folder, *callbacks, LastCheckpoint(folder), module=Logged(), check_val_every_n_epoch=interval,
            logger=ResumableCSVLogger(folder), log_every_n_steps=1, limit_train_batches=batches,
        )  # fmt: skip

    whole = logged(tmp_path / "whole")
    for epoch in range(1, EPOCHS + 1):
        folder = tmp_path / str(epoch)
        with pytest.raises(stop.Stopped):
            logged(folder, SignalAt(hook, epoch * batches, signal.SIGTERM))
        stop._requests.signal = None
        resumed = logged(folder)
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
        assert rows(folder) == rows(tmp_path / "whole"), epoch


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_accumulated_gradients_and_validation_within_an_epoch_are_stepped_over(tmp_path: Path) -> None:
    settings = {"accumulate_grad_batches": 2, "val_check_interval": 2}
    whole = fit(tmp_path / "whole", **settings)
    for time in (1, 2, 3, 5):
        folder = tmp_path / str(time)
        with pytest.raises(stop.Stopped):
            fit(folder, SignalAt("on_train_batch_start", time, signal.SIGUSR1), **settings)
        stop._requests.signal = None
        assert torch.equal(fit(folder, **settings).layer.weight, whole.layer.weight), time


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows is done."""


@pytest.mark.parametrize("last", [True, False])
def test_a_kill_at_an_epochs_end_after_a_signal_leaves_no_gap(tmp_path: Path, last: bool) -> None:
    """A scheduler's SIGKILL follows its SIGTERM: what is saved by then has the epoch's row in the metrics."""

    def logged(folder: Path, *callbacks: L.Callback, module: Logged | None = None) -> Logged:
        return fit(
            folder, *callbacks, *([LastCheckpoint(folder)] if last else []), module=module or Logged(),
            logger=ResumableCSVLogger(folder), log_every_n_steps=1,
        )  # fmt: skip

    class KilledAtTheEnd(Logged):
        def on_train_epoch_end(self) -> None:
            super().on_train_epoch_end()
            if stop.requested() is not None:
                raise Killed

    logged(tmp_path / "whole")
    for hook, time in (("on_validation_end", 2), ("on_train_epoch_end", 2)):
        folder = tmp_path / hook
        with pytest.raises(Killed):
            logged(folder, SignalAt(hook, time, signal.SIGTERM), module=KilledAtTheEnd())
        stop._requests.signal, stop._requests.deferred = None, False
        logged(folder)
        assert rows(folder) == rows(tmp_path / "whole"), hook


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_while_workers_start_is_no_matter_of_lightnings(tmp_path: Path, workers: int) -> None:
    """Until the training starts Lightning's handler is in place, which notes a SIGTERM and ends without saving."""
    settings = {"accumulate_grad_batches": 2, "workers": workers}
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(stop.Stopped):
        fit(tmp_path, at_loader=signal.SIGTERM, **settings)
    assert not (tmp_path / "last.ckpt").exists()  # nothing is trained yet
    stop._requests.signal = None
    with pytest.raises(stop.Stopped):
        fit(tmp_path, SignalAt("on_train_batch_start", 1, signal.SIGTERM), **settings)
    stop._requests.signal = None
    with pytest.raises(stop.Stopped):  # within the epoch, at a batch that is only accumulated
        fit(tmp_path, at_loader=signal.SIGTERM, **settings)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    stop._requests.signal = None
    assert torch.equal(fit(tmp_path, **settings).layer.weight, whole.layer.weight)


@pytest.mark.parametrize("time", [1, 2, 3])
def test_a_signal_while_a_checkpoint_is_written(tmp_path: Path, time: int) -> None:
    whole = fit(tmp_path / "whole", LastCheckpoint(tmp_path / "whole"))
    folder = tmp_path / "run"
    twice = [SignalAt("on_save_checkpoint", time, number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    with pytest.raises(stop.Stopped) as stopped:
        fit(folder, *twice, LastCheckpoint(folder))
    assert stopped.value.code == 138  # the first one is said
    stop._requests.signal = None
    resumed = fit(folder, LastCheckpoint(folder))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stop, "_REPEAT_SECONDS", -1.0)
    at_once = [SignalAt("on_train_batch_start", 2, signal.SIGINT), SignalAt("on_before_backward", 2, signal.SIGINT)]
    with pytest.raises(stop.Stopped) as stopped:
        fit(tmp_path, *at_once)
    assert stopped.value.code == 130 and not (tmp_path / "last.ckpt").exists()


def test_a_repeated_sigterm_waits_for_the_checkpoint(tmp_path: Path) -> None:
    twice = [SignalAt("on_train_batch_start", 2, signal.SIGTERM), SignalAt("on_before_backward", 2, signal.SIGTERM)]
    with pytest.raises(stop.Stopped):
        fit(tmp_path, *twice)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138), ("SIGHUP", 129)])
def test_outside_of_training_the_program_ends_at_once(name: str, code: int, caplog) -> None:
    with pytest.raises(SystemExit) as ended, stop.ends_on_signals():
        os.kill(os.getpid(), getattr(signal, name))
        signal.pause()
    assert ended.value.code == (128 + getattr(signal, name)) and f"Stopped by {name}" in caplog.text


def test_what_has_to_be_added_to_go_on_is_said(caplog, monkeypatch) -> None:
    monkeypatch.setattr(stop._requests, "way_on", "")
    with pytest.raises(SystemExit), stop.ends_on_signals():
        stop.goes_on_with("continue=true")
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert "Stopped by SIGTERM; the same command with continue=true goes on from here." in caplog.text


ENDINGS = {
    "while the interpreter ends": "import atexit\nwith ends_on_signals():\n    pass\natexit.register(send)",
    "in a finalizer": "class Last:\n    __del__ = lambda self: send()\nwith ends_on_signals():\n    Last()",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_in_the_last_moments_is_not_lost(ending: str, name: str, code: int) -> None:
    program = f"""
import logging, os, signal
from umamba.run.stop import ends_on_signals
logging.basicConfig()
send = lambda: os.kill(os.getpid(), signal.{name})
{ENDINGS[ending]}
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == code and f"Stopped by {name}; the same command" in ended.stderr, ended.stderr
    if ending == "while the interpreter ends":
        assert "Traceback" not in ended.stderr


WAITING = """
import logging, signal, sys, time
from umamba.run.stop import deferred, ends_on_signals, requested
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
with ends_on_signals(), deferred():
    print("listening", flush=True)
    for step in range(int(sys.argv[2])):
        time.sleep(0.05)
        if requested():
            print("to a terminal that is gone" * 1000, flush=True)
            break
    else:
        logging.info("nothing came")
"""


def test_a_closed_terminal_stops_it_as_a_scheduler_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "log"), "600"]
    child, terminal = pytest.importorskip("pty").fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command)
    while b"listening" not in os.read(terminal, 1000):
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    text = (tmp_path / "log").read_text()
    assert "SIGHUP: stopping with a checkpoint" in text and "Stopped by SIGHUP" in text


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITING}"
    command = [sys.executable, "-c", ignoring, str(tmp_path / "log"), "10"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert process.returncode == 0 and "nothing came" in (tmp_path / "log").read_text()


def test_of_several_processes_the_next_step_gets_the_answer(monkeypatch) -> None:
    """Nobody waits for it; another one was told during the second step."""
    answers = iter([0.0, 1.0, 1.0])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda asked, operation: asked.fill_(next(answers)))
    monkeypatch.setattr("umamba.run.stop_on_signal.requested", lambda: None)
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback = StopOnSignal(Path("last.ckpt"))
    assert [callback._told_before(trainer) for _ in range(3)] == [False, False, True]


def test_lightning_does_not_ask_besides() -> None:
    """Or by another name: what is replaced is what this version of Lightning has, if it asks at all."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    asks = [name for name in vars(type(trainer.fit_loop.epoch_loop)) if "sigterm" in name]
    assert asks in ([], ["_broadcast_sigterm_tensor"])
    ask_nothing_else(trainer)
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


def test_ctrl_c_among_the_imports_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "data=custom"], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_process_that_the_first_one_waits_for_meets_it_before_it_stops(tmp_path: Path, monkeypatch) -> None:
    """Told to stop by itself, it would end with code 0, and the first one wait for it."""
    monkeypatch.setattr("umamba.run.ranks.is_started_from_first", lambda: True)
    monkeypatch.setattr("umamba.run.ranks.follow_first", lambda: None)
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)), overrides=SimpleNamespace(task=[]))
    monkeypatch.setattr("umamba.run.folder.HydraConfig", SimpleNamespace(get=lambda: hydra))
    config = OmegaConf.create({"run_dir": str(tmp_path)})
    OmegaConf.save(config, tmp_path / "config.yaml")
    for name in ("check_options", "_run"):
        monkeypatch.setattr(f"umamba.run.folder.{name}", lambda *_: None)
    stop.listen()
    met = False
    with pytest.raises(stop.Stopped), open_run(config):
        signal.raise_signal(signal.SIGTERM)
        met = stop.requested() == signal.SIGTERM
    assert met
