"""A run's folder may come from anybody: nothing of its configuration is built but what is listed or trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from tests.run.test_resumed_config import called, trained
from umamba.run.compare import ResumeError
from umamba.run.stored import SECTIONS
from umamba.target_check import Exports

SHELL = {"_target_": "torch.utils.collect_env.run", "command": "true"}
REMOVE = {"_target_": "shutil.rmtree", "path": "precious"}


def plant(run_dir: Path, key: str, value: Any, *, into: str) -> None:
    """Put something into the stored configuration: of config.yaml, the checkpoint, or both in agreement."""
    path, last = run_dir / "config.yaml", run_dir / "checkpoints" / "last.ckpt"
    config = OmegaConf.load(path)
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["config"] = OmegaConf.to_container(config, resolve=False)
    path.write_text(OmegaConf.to_yaml(config))
    if into == "without a checkpoint":
        last.unlink()
    else:
        torch.save(checkpoint, last)
    if into == "the checkpoint alone":
        path.unlink()


PLACES = ["config.yaml and the checkpoint", "without a checkpoint", "the checkpoint alone"]
HOSTILE = [
    ("callbacks.x", SHELL),
    ("callbacks.x", {"_target_": "shutil.copytree", "src": "a", "dst": "b"}),
    ("callbacks.x", {"_target_": "lightning.pytorch.callbacks.RichProgressBar", "theme": SHELL}),
    ("callbacks.x", {"_target_": "lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree"}),
    ("callbacks.x", {"_target_": "lightning.pytorch.callbacks.Timer", "duration": [SHELL]}),
    ("callbacks.x", {"_target_": "umamba.run.sweep.run_in_own_process", "script": "x.py"}),
    ("callbacks.best._target_", "os.system"),
    ("callbacks.best._args_", [SHELL]),
    ("logger.x", SHELL),
    ("logger.csv", {"_target_": "lightning.pytorch.loggers.csv_logs.os.system", "command": "true"}),
    ("trainer._target_", "os.system"),
    ("trainer.strategy", REMOVE),
    ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.PyTorchProfiler", "on_trace_ready": SHELL}),
    ("model.optimizer._target_", "shutil.rmtree"),
    ("model.optimizer.params", SHELL),
    ("model.scheduler", SHELL),
    ("model.x", SHELL),
    ("model._target_", "os.system"),
    ("optimizer", SHELL),
    ("augmentation.x", SHELL),
    ("data.augmentation.x", SHELL),
    ("data.augmentation._target_", "os.system"),
    ("data.augmentation.x", {"_target_": "torchio.Lambda", "function": SHELL}),
    ("data.augmentation", [{"_target_": "torchio.RandomNoise"}, SHELL]),
    ("data.planning", SHELL),
    ("data.planning.plans", SHELL),
]


@pytest.mark.parametrize(
    ("key", "value", "into"), [(*each, PLACES[0]) for each in HOSTILE] + [(*HOSTILE[0], place) for place in PLACES[1:]]
)
def test_foreign_code_in_a_runs_folder_is_refused_by_its_key(tmp_path: Path, key: str, value: Any, into: str) -> None:
    trained(tmp_path)
    plant(tmp_path, key, value, into=into)
    with (
        pytest.raises(
            ResumeError, match=rf"{key.removesuffix('._target_')}.*_target_ is .*not among.*repeat trusted=\["
        ),
        called(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("value", "into"), [("${oc.env:HOME}", PLACES[0]), ("a${seed}", PLACES[1]), ("${oc.decode:'[1]'}", PLACES[2])]
)
def test_nothing_stored_is_resolved(tmp_path: Path, value: str, into: str) -> None:
    trained(tmp_path)
    plant(tmp_path, "callbacks.best.filename", value, into=into)
    with pytest.raises(ResumeError, match=r"callbacks.best.filename must be text without \$\{"), called(tmp_path):
        pass


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks.best.dirpath", "/home/somebody"),
        ("callbacks.best.dirpath", "{run}/../elsewhere"),
        ("callbacks.best.dirpath", "{run}2"),
        ("callbacks.best.dirpath", "elsewhere"),
        ("callbacks.best.dirpath", "s3://bucket/x"),
        ("callbacks.best.filename", "../../best"),
        ("callbacks.cost.folder", "~"),
        ("callbacks.last.dirpath", "checkpoints"),
        ("logger.csv.folder", "/home/somebody"),
        ("logger.x", {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "https://elsewhere"}),
        ("trainer.default_root_dir", "/home/somebody"),
        ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "/home/somebody"}),
    ],
)
def test_a_stored_path_stays_in_the_runs_folder(tmp_path: Path, key: str, value: Any) -> None:
    run_dir = tmp_path / "run"
    trained(run_dir)
    plant(run_dir, key, value.replace("{run}", str(run_dir)) if isinstance(value, str) else value, into=PLACES[0])
    with pytest.raises(ResumeError, match=rf"{key}.* is not in the run's folder"), called(run_dir):
        pass


def test_a_folder_does_not_vouch_for_itself(tmp_path: Path) -> None:
    trained(tmp_path, "trusted=[torch]")
    plant(tmp_path, "callbacks.x", SHELL, into=PLACES[0])
    for listed in (["torch"], ["torch.utils.collect_env.run"]):
        plant(tmp_path, "trusted", listed, into=PLACES[0])
        with pytest.raises(ResumeError, match=r"repeat trusted=\[torch.utils.collect_env.run\]"), called(tmp_path):
            pass
    with called(tmp_path, "trusted=[torch.utils.collect_env.run]") as run:
        assert run.config.trusted == ["torch.utils.collect_env.run"]


MINE = "+callbacks.mine={_target_: mycalls.Mine, level: 3}"


def test_the_users_own_code_goes_on_with_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mycalls.py").write_text("import lightning\n\n\nclass Mine(lightning.Callback):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    trained(tmp_path, MINE)
    with called(tmp_path, MINE) as run:
        assert run.config.callbacks.mine._target_ == "mycalls.Mine"
    with called(tmp_path, MINE.replace("level: 3", "level: 4")) as run:
        assert run.config.callbacks.mine.level == 4
    with called(tmp_path, "trusted=[mycalls.Mine]") as run:
        assert run.config.callbacks.mine.level == 3
    with pytest.raises(ResumeError, match=r"callbacks.mine._target_.*repeat trusted=\[mycalls\]"), called(tmp_path):
        pass


def test_arguments_from_the_folder_do_not_reach_the_users_own_code(tmp_path: Path) -> None:
    trained(tmp_path, MINE)
    plant(tmp_path, "callbacks.mine.command", "true", into=PLACES[0])
    with called(tmp_path, "~callbacks.best", MINE) as run:  # the call replaces the entry as a whole
        assert "command" not in run.config.callbacks.mine
    with pytest.raises(ResumeError, match="mycalls"), called(tmp_path, "+callbacks.mine._target_=mycalls.Mine"):
        pass


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=demo", "model=umamba_enc"],
        ["model=swinunetr", "augmentation=nnunet_28"],
        ["model=unetr", "augmentation=none", "logger=tensorboard", "trainer=ddp"],
        ["model=resenc", "logger=wandb", "callbacks=none", "debug=profiler"],
        ["+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/dice}", "model=segresnet"],
        ["+optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 0.1}"],
    ],
)
def test_what_is_shipped_goes_on_from_a_folder_that_was_moved(tmp_path: Path, overrides: list[str]) -> None:
    trained(tmp_path / "a b", *overrides)
    (tmp_path / "a b").rename(tmp_path / "größe [1]")
    with called(tmp_path / "größe [1]") as run:
        assert run.resume_from


def test_listed_targets_are_defined_where_they_are_named() -> None:
    for entry in {entry for lists in SECTIONS.values() for some in lists for entry in some}:
        found = get_object(entry.package if isinstance(entry, Exports) else entry)
        if not isinstance(entry, Exports) and not entry.startswith("lightning"):
            assert f"{found.__module__}.{found.__qualname__}" == entry


def test_what_a_package_exports_are_classes_of_its_kind() -> None:
    callbacks = Exports(package="lightning.pytorch.callbacks", base="lightning.pytorch.callbacks.Callback")
    assert "lightning.pytorch.callbacks.EarlyStopping" in callbacks
    for name in ("os", "early_stopping", "early_stopping.EarlyStopping", "__loader__", "missing"):
        assert f"lightning.pytorch.callbacks.{name}" not in callbacks
    assert "torch.optim.lr_scheduler.LambdaLR" not in Exports(package="torch.optim", base="torch.optim.Optimizer")
