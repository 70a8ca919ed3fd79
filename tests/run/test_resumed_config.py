"""A run goes on with its own configuration; what would change what is trained is refused before anything is written."""

import atexit
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from tests.composed import composed
from tests.inference.small import make_plan
from umamba.locations import CONFIGS, ROOT
from umamba.resolvers import register_resolvers
from umamba.run import stop
from umamba.run.compare import ResumeError
from umamba.run.folder import Run, open_run
from umamba.run.lock import RunInUseError, locked_run
from umamba.run.provenance import git_revision
from umamba.run.resume import as_then, check_data
from umamba.run.sweep import quoted


@contextmanager
def called(run_dir: Path | None, *overrides: str, config: str = "train") -> Iterator[Run]:
    """What train.py does with its command line, up to where the run is open; None: without run_dir=..."""
    register_resolvers()
    cfg = composed(config, overrides, hydra=True, run_dir=None if run_dir is None else str(run_dir))
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"), open_run(cfg) as run:
            yield run
    finally:
        HydraConfig.instance().cfg = before


@cache
def _once(overrides: tuple[str, ...]) -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    _train(folder / "run", overrides)
    return folder / "run"


def _moved(value: Any, before: str, now: str) -> Any:
    """Plain data with another folder."""
    if isinstance(value, dict):
        return {key: _moved(item, before, now) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, before, now) for item in value]
    return value.replace(before, now) if isinstance(value, str) else value


def trained(run_dir: Path, *overrides: str) -> dict:
    """A run with a checkpoint that holds what train.py's would, without its weights; made once, then copied."""
    if not re.fullmatch(r"[\w/.-]+", str(run_dir)):  # a file would not have that name as it is
        return _train(run_dir, overrides)
    before = _once(overrides)
    shutil.copytree(before, run_dir, dirs_exist_ok=True)
    for path in (run_dir / name for name in kept(run_dir)):
        path.write_text(path.read_text().replace(str(before), str(run_dir)))
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = _moved(torch.load(last, weights_only=True), str(before), str(run_dir))
    torch.save(checkpoint, last)
    return checkpoint["config"]


def _train(run_dir: Path, overrides: Sequence[str]) -> dict:
    with called(run_dir, *overrides) as run:
        (run_dir / "checkpoints").mkdir()
        checkpoint = {**run.metadata, "plan": {}, "configuration": run.config.data.configuration}
        torch.save(checkpoint, run_dir / "checkpoints" / "last.ckpt")
    return run.metadata["config"]


def kept(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in ("config.yaml", "overrides.txt", "provenance.json")}


@pytest.mark.parametrize("given", [True, False])
def test_a_stop_names_a_folder_that_nobody_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    """The same command alone would begin another run, in a folder of another time."""
    monkeypatch.setattr(stop._requests, "way_on", "")
    with called(tmp_path / "run" if given else None, f"paths.runs={tmp_path}", "data=phantom") as run:
        assert run.folder.is_relative_to(tmp_path)
        assert stop._requests.way_on == ("" if given else f" with run_dir={run.folder}")


def test_a_new_run_keeps_its_resolved_config_overrides_and_origin(tmp_path: Path) -> None:
    with called(tmp_path / "run", "seed=3") as run:
        assert run.resume_from is None and run.config.data.seed == 3
    assert OmegaConf.load(tmp_path / "run" / "config.yaml") == run.config
    assert "seed=3" in (tmp_path / "run" / "overrides.txt").read_text().split()
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance == run.metadata["provenance"]
    assert provenance["git_revision"] == git_revision() and provenance["versions"]["torch"].startswith("2.")


@pytest.mark.parametrize("name", ["run", "a b", "fold (1) [x]", "größe=1,2", "it's"])
def test_the_folder_alone_brings_back_the_runs_own_configuration(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / name
    config = trained(run_dir, "model=umamba_enc", "fold=2", "trainer.max_epochs=7")
    with called(run_dir) as run:
        assert OmegaConf.to_container(run.config) == config
        assert run.resume_from == run_dir / "checkpoints" / "last.ckpt"


REFUSED = [
    (["fold=1"], ["fold: 0 -> 1"]),
    (["seed=7"], ["seed: 42 -> 7"]),
    (["model=umamba_bot"], ["model.network.mamba: 'encoder' -> 'bottleneck'"]),  # although it is the default
    (
        ["model.optimizer.lr=0.1", "data.oversample=1"],
        ["model.optimizer.lr: 0.01 -> 0.1", "data.oversample: 0.33 -> 1"],
    ),
    (["+optimizer._target_=torch.optim.AdamW"], ["optimizer"]),
    (["loss=dice_topk"], ["loss.hardest_percent: 100.0 -> 10.0"]),
    (["loss.class_weights=[1,2]"], ["loss.class_weights: None -> [1, 2]"]),
    (["augmentation=none"], ["augmentation.mirror.axis_p: 0.5 -> '(absent)'"]),
    (["~augmentation.gamma"], ["augmentation.gamma.p: 0.3 -> '(absent)'"]),
    (["data=hippocampus"], ["data_name: 'phantom' -> 'hippocampus'"]),
    (["trainer.gradient_clip_val=1"], ["trainer.gradient_clip_val: 12 -> 1"]),
    (["data.planning.memory_gb=1"], ["data.planning.memory_gb: 0.05 -> 1"]),
    (["data.augment_on=cpu"], ["data.augment_on: 'auto' -> 'cpu'"]),
    (["paths.raw=elsewhere"], ["paths.raw", "data.dataset_dir"]),
    (["experiment=demo"], ["model_name: 'umamba_enc' -> 'umamba_bot'", "optimizer.lr"]),
    (["resume=false"], ["resume=false would overwrite"]),
]


@pytest.mark.parametrize(("overrides", "named"), REFUSED, ids=lambda value: value[0])
def test_what_would_change_the_training_is_refused_by_name(tmp_path: Path, overrides, named) -> None:
    trained(tmp_path, "model=umamba_enc")
    before = kept(tmp_path)
    with pytest.raises(ResumeError) as refusal, called(tmp_path, *overrides):
        pass
    assert all(text in str(refusal.value) for text in named), refusal.value
    assert kept(tmp_path) == before


def test_a_run_of_before_there_was_a_choice_goes_on_with_the_usual_loss_alone(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    config = trained(tmp_path, "model=umamba_enc")
    older = {key: value for key, value in config.items() if key != "loss"}
    torch.save({**torch.load(last, weights_only=True), "config": older}, last)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(older)))
    for overrides in ([], ["loss=dice_ce"], ["model=umamba_enc", "loss.gamma=0"]):
        with called(tmp_path, *overrides) as run:
            assert OmegaConf.to_container(run.config)["loss"] == config["loss"] and run.resume_from == last
    with pytest.raises(ResumeError, match=r"loss\.dice: 1\.0 -> 0\.0"), called(tmp_path, "loss=ce"):
        pass
    (tmp_path / "config.yaml").unlink()  # then its checkpoint's
    with pytest.raises(ResumeError, match=r"loss\.gamma: 0\.0 -> 2\.0"), called(tmp_path, "loss=dice_focal"):
        pass


def test_the_loss_in_a_runs_folder_is_built_only_if_it_is_known_or_trusted(tmp_path: Path) -> None:
    trained(tmp_path, "loss=own", "loss._target_=tests.run.test_resumed_config.trained")
    with pytest.raises(ResumeError, match=r"loss\._target_ is 'tests\.run.*trusted=\[tests\]"), called(tmp_path):
        pass
    with called(tmp_path, "trusted=[tests.run.test_resumed_config]") as run:
        assert run.config.loss._target_.endswith("trained")


def test_what_may_change_is_changed_and_recorded(tmp_path: Path) -> None:
    trained(tmp_path, "model=umamba_enc", "trainer.max_epochs=7")
    first = json.loads((tmp_path / "provenance.json").read_text())
    overrides = ["trainer.max_epochs=9", "data.num_workers=1", "logger=tensorboard", "~callbacks.progress"]
    with called(tmp_path, "trainer=cpu", *overrides) as run:
        assert run.config.trainer.max_epochs == 9 and run.config.trainer.gradient_clip_val == 12
        assert run.config.logger.tensorboard.save_dir == str(tmp_path) and "progress" not in run.config.callbacks
        assert run.config.model.network.mamba == "encoder"
        run.record()
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert {key: value for key, value in provenance.items() if key != "resumes"} == first
    assert provenance["resumes"][0]["changes"]["trainer.max_epochs"] == [7, 9]
    with called(tmp_path) as run:  # and the next one goes on from there
        assert run.config.trainer.max_epochs == 9 and "tensorboard" in run.config.logger


def test_the_overrides_that_are_kept_make_the_configuration_in_use(tmp_path: Path) -> None:
    first = ["model=umamba_enc", "trainer.max_epochs=7", "fold=2", "test=false", "callbacks.finite.patience=3"]
    trained(tmp_path, "trainer.max_epochs=5", *first)  # of one that is given twice, the last holds

    def gone_on_with(*overrides: str, config: str = "train") -> list[str]:
        with called(tmp_path, *overrides, config=config) as run:
            run.record()
        lines = (tmp_path / "overrides.txt").read_text().splitlines()
        stored, again = OmegaConf.load(tmp_path / "config.yaml"), tmp_path / "again"
        with called(again, *(line for line in lines if not line.startswith("run_dir=")), config=config) as run:
            made = OmegaConf.create(OmegaConf.to_yaml(run.config).replace(str(again), str(tmp_path)))
        shutil.rmtree(again)
        for key in ("train", "test"):  # of the call
            del made[key], stored[key]
        assert made == stored
        return [line for line in lines if not line.startswith("run_dir=")]

    assert gone_on_with() == first
    own = [first[0], *first[2:]]
    assert gone_on_with("trainer.max_epochs=9", "train=false") == [*own, "trainer.max_epochs=9"]
    lines = gone_on_with("trainer=cpu", "logger=tensorboard", "~callbacks.progress")
    assert lines == [
        *own, "trainer.max_epochs=9", "trainer=cpu", "logger=tensorboard", "~callbacks.progress",
    ]  # fmt: skip
    lines = gone_on_with("callbacks=default")
    assert "callbacks=default" in lines and not any("callbacks." in line for line in lines)
    gone_on_with("model=umamba_enc", "fold=2", "trainer.max_epochs=11")
    given = [call["overrides"] for call in json.loads((tmp_path / "provenance.json").read_text())["resumes"]]
    assert [sum(f"trainer.max_epochs={number}" in call for call in given) for number in (9, 11)] == [2, 1]  # history


def test_a_call_that_describes_the_whole_run_is_kept_as_a_whole(tmp_path: Path) -> None:
    trained(tmp_path, "experiment=demo", "trainer.max_epochs=7", "trainer.check_val_every_n_epoch=2", "test=false")
    with called(tmp_path, "experiment=demo", "trainer.max_epochs=9") as run:
        assert run.config.trainer.check_val_every_n_epoch == 4
        run.record()
    lines = (tmp_path / "overrides.txt").read_text().splitlines()
    assert lines[1:] == ["experiment=demo", "trainer.max_epochs=9", "test=false"]


def test_a_run_of_an_earlier_version_goes_on_without_a_newer_setting(tmp_path: Path) -> None:
    command = ["model=umamba_enc", "experiment=demo"]
    config = trained(tmp_path, *command)
    assert config["data"].pop("augment_on") == "auto"
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "config": config}, tmp_path / "checkpoints" / "last.ckpt")
    with called(tmp_path, *command) as run:
        assert "augment_on" not in run.config.data  # the data module's default, as it was
    for asked in (["data.augment_on=cuda"], [*command, "data.augment_on=cuda"]):
        refusal = pytest.raises(ResumeError, match=r"data.augment_on: '\(absent\)' -> 'cuda'")
        with refusal, called(tmp_path, *asked):
            pass


def test_how_instances_are_scored_may_change_also_of_a_run_that_did_not_know_of_it(tmp_path: Path) -> None:
    command = ["data=phantom_cells", "model=umamba_enc"]
    config = trained(tmp_path, *command)
    for asked in (["+data.grow=2"], [*command, "data.grow=2"]):
        with called(tmp_path, *asked) as run:
            assert run.config.data.grow == 2 and run.changes == {"data.grow": (0, 2)}
    del config["data"]["grow"]
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    with called(tmp_path, *command) as run:
        assert run.changes == {}
    with called(tmp_path, *command, "data.grow=2") as run:
        assert run.config.data.grow == 2 and run.changes == {"data.grow": ("(absent)", 2)}


def test_a_trainer_choice_changes_only_what_it_is_about(tmp_path: Path) -> None:
    trained(tmp_path, "trainer.max_epochs=7")
    with called(tmp_path, "trainer=ddp") as run:
        assert run.config.trainer.max_epochs == 7 and run.config.trainer.devices == 2


def test_a_trainer_choice_says_where_to_train_also_as_the_default_does(tmp_path: Path) -> None:
    trained(tmp_path, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "trainer.max_epochs=7")
    with called(tmp_path, "trainer=cpu", "trainer.max_epochs=9") as run:
        assert (run.config.trainer.devices, run.config.trainer.strategy) == (1, "auto")
        assert run.changes["trainer.devices"] == (3, 1) and run.changes["trainer.strategy"] == ("ddp", "auto")
        run.record()
    lines = (tmp_path / "overrides.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("trainer")] == ["trainer=cpu", "trainer.max_epochs=9"]


def test_a_logger_added_later_carries_the_names_of_the_run(tmp_path: Path) -> None:
    trained(tmp_path, "model=umamba_enc", "fold=3")
    with called(tmp_path, "logger=wandb") as run:
        assert run.config.logger.wandb.group == "phantom_umamba_enc"
        assert run.config.logger.wandb.name == "phantom_umamba_enc_fold_3_seed_42"


def test_whether_to_test_is_asked_anew_each_time(tmp_path: Path) -> None:
    trained(tmp_path, "test=false")
    with called(tmp_path) as run:
        assert run.config.test is True


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ["experiment=demo", "model=umamba_enc", "trainer.max_epochs=3"]
    trained(tmp_path, *command)
    with called(tmp_path, *command) as run:
        assert run.resume_from and not run.changes


def test_a_run_that_was_moved_writes_where_it_is_now(tmp_path: Path) -> None:
    trained(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    with called(tmp_path / "new") as run:
        assert str(tmp_path / "old") not in OmegaConf.to_yaml(run.config)
        assert run.config.callbacks.best.dirpath == str(tmp_path / "new" / "checkpoints")


def test_without_a_checkpoint_anything_may_change_from_the_runs_own(tmp_path: Path) -> None:
    with called(tmp_path, "model=umamba_enc"):
        pass
    with called(tmp_path, "seed=5") as run:
        assert run.config.seed == 5 and run.config.model.network.mamba == "encoder" and run.resume_from is None
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 5


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "a", "fold=1")
    trained(tmp_path / "b", "fold=2", "model.optimizer.lr=0.1")
    (tmp_path / "a" / "checkpoints" / "last.ckpt").replace(tmp_path / "b" / "checkpoints" / "last.ckpt")
    with pytest.raises(ResumeError, match=r"(?s)fold: 1 -> 2.*model.optimizer.lr: 0.01 -> 0.1"), called(tmp_path / "b"):
        pass


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK\3\4 torn")
    with pytest.raises(ResumeError, match="last.ckpt cannot be read"), called(tmp_path):
        pass


def test_a_run_from_before_a_trainer_argument_was_listed_goes_on(tmp_path: Path) -> None:
    trained(tmp_path, "experiment=demo")
    for path in (tmp_path / "config.yaml",):
        config = OmegaConf.load(path)
        del config.trainer["enable_model_summary"], config.trainer["benchmark"]
        path.write_text(OmegaConf.to_yaml(config))
    with called(tmp_path, "experiment=demo") as run:
        assert run.resume_from


def test_a_stored_argument_that_does_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path)
    path = tmp_path / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, "trainer.min_epochs", 3, force_add=True)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt")
    torch.save(checkpoint | {"config": OmegaConf.to_container(config)}, tmp_path / "checkpoints" / "last.ckpt")
    path.write_text(OmegaConf.to_yaml(config))
    with called(tmp_path):
        pass
    said = f"trainer.min_epochs=3, which {path} has of the call that began the run, does nothing: it holds back"
    assert said in caplog.text and caplog.text.count("does nothing") == 1


@pytest.mark.parametrize("override", ["data.fold=1", "data.fold=all", "data.seed=7"])
def test_fold_and_seed_have_one_name(tmp_path: Path, override: str) -> None:
    said = override.removeprefix("data.")
    with pytest.raises(ResumeError, match=rf"^{override} and .*say {said}, "), called(tmp_path / "run", override):
        pass
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_metrics_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n")
    with pytest.raises(ResumeError, match=r"holds a metrics.csv"), called(tmp_path, "data=hippocampus"):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {"metrics.csv", ".lock"}


def test_a_folder_without_a_run_is_not_trained_in_unsaid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for override in ("data=hippocampus", "model=nnunet", "data.dataset_dir=here"):
        with called(tmp_path / override, override):
            assert not caplog.text
    with called(tmp_path / "misspelt", "trainer.max_epochs=3"):
        assert "misspelt: a new one starts, with the default data=phantom and model=umamba_bot.\n" in caplog.text
    with called(tmp_path / "mispelt", "trainer.max_epochs=3"):
        assert f"model=umamba_bot. There is {tmp_path / 'misspelt'}." in caplog.text


def test_a_second_training_in_the_folder_is_told_who_has_it(tmp_path: Path) -> None:
    code = "import sys, pathlib\nfrom umamba.run.lock import locked_run\nwith locked_run(pathlib.Path(sys.argv[1])):\n"
    code += "    print('held', flush=True); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == "held\n"
    held = rf"{tmp_path} is in use.*process {first.pid} on .* since 20"
    with pytest.raises(RunInUseError, match=held), called(tmp_path):
        pass
    first.communicate("")
    with called(tmp_path) as run:  # it is free again
        assert run.changes is None


def test_a_killed_holder_is_no_obstacle_and_what_it_was_writing_is_cleared(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom umamba.run.lock import locked_run\nwith locked_run(pathlib.Path(sys.argv[1])):\n"
    )
    code += "    (pathlib.Path(sys.argv[1]) / '.writing-1-last.ckpt').touch()\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert (tmp_path / ".holder.json").is_file() and (tmp_path / ".writing-1-last.ckpt").is_file()
    with locked_run(tmp_path):
        assert not (tmp_path / ".writing-1-last.ckpt").exists()
    assert not (tmp_path / ".holder.json").exists()


def test_another_plan_or_split_is_refused_by_name(tmp_path: Path) -> None:
    plan, path = make_plan(), tmp_path / "last.ckpt"
    cases = {"trained_on": {"a": "01", "b": "02"}, "validated_with": ["c"]}
    checkpoint = {"plan": plan.to_dict(), "configuration": "3d_fullres", "cases": cases}
    check_data(path, checkpoint, plan, "3d_fullres", cases)
    check_data(path, {**checkpoint, "cases": None} | {"plan": plan.to_dict()}, plan, "3d_fullres", cases)
    entry = plan.configuration("3d_fullres")
    other = dataclasses.replace(entry, batch_size=entry.batch_size + 1)
    with pytest.raises(ResumeError, match=rf"plan.configurations.3d_fullres.batch_size: {entry.batch_size} -> "):
        replanned = dataclasses.replace(plan, configurations={**plan.configurations, "3d_fullres": other})
        check_data(path, checkpoint, replanned, "3d_fullres", cases)
    for others in (
        {"wide": dataclasses.replace(other, name="wide")},
        {},
    ):  # a configuration that is added or removed is another experiment's
        beside = {"3d_fullres": entry, **others}
        check_data(path, checkpoint, dataclasses.replace(plan, configurations=beside), "3d_fullres", cases)
    with pytest.raises(ResumeError, match=r"(?s)trained_on.b: '02' -> .*validated_with: \['c'\] -> \['b'\]"):
        check_data(path, checkpoint, plan, "3d_fullres", {"trained_on": {"a": "01"}, "validated_with": ["b"]})


def test_other_labels_are_refused_unless_the_checkpoint_is_older_than_their_hashes(tmp_path: Path) -> None:
    plan, path = make_plan(), tmp_path / "last.ckpt"
    older = {"trained_on": {"a": "01"}, "validated_with": ["c"]}
    then, now = ({**older, "files": {"a": {"label": mark}}} for mark in ("05", "06"))
    checkpoint = {"plan": plan.to_dict(), "configuration": "3d_fullres"}
    check_data(path, {**checkpoint, "cases": older}, plan, "3d_fullres", now)
    check_data(path, {**checkpoint, "cases": now}, plan, "3d_fullres", now)
    with pytest.raises(ResumeError, match=r"(?s)cases\.files\.a\.label: '05' -> '06'.*with eval\.py"):
        check_data(path, {**checkpoint, "cases": then}, plan, "3d_fullres", now)


def test_labels_of_another_header_and_images_compressed_anew_are_the_same_data(tmp_path: Path) -> None:
    plan, path = make_plan(), tmp_path / "last.ckpt"

    def cases(number: int, voxels: str = "/2x3x4/ab", spacing: str = "/1x1x3") -> dict:
        image, label = f"1{number}{voxels}{voxels and spacing}", f"2{number}{voxels}"
        return {"trained_on": {"a": image}, "validated_with": [], "files": {"a": {"label": label}}}

    checkpoint = {"plan": plan.to_dict(), "configuration": "3d_fullres", "cases": cases(1)}
    for now in (cases(1), cases(2), cases(1, voxels="")):
        check_data(path, checkpoint, plan, "3d_fullres", now)
    check_data(path, {**checkpoint, "cases": cases(1, voxels="")}, plan, "3d_fullres", cases(1))
    assert as_then(cases(2), cases(1)) == cases(1) and as_then(cases(1), cases(1, voxels="")) == cases(1)
    for now in (cases(2, voxels="/2x3x4/cd"), cases(2, voxels="")):
        with pytest.raises(ResumeError, match=r"cases\.files\.a\.label: '21' -> '22'"):
            check_data(path, checkpoint, plan, "3d_fullres", now)
    with pytest.raises(ResumeError, match=r"(?s)cases\.trained_on\.a: '11' -> '12'"):
        check_data(path, checkpoint, plan, "3d_fullres", cases(2, spacing="/1x1x5"))


def begun(run_dir: Path, checkpoint: Path, *overrides: str) -> AbstractContextManager[Run]:
    return called(run_dir, f"ckpt_path={quoted(str(checkpoint))}", *overrides)


def test_a_checkpoint_of_another_run_is_gone_on_from(tmp_path: Path) -> None:
    """With its configuration, in a folder of its own; the other's stays as it is."""
    config = trained(tmp_path / "one", "model=umamba_enc", "fold=2", "trainer.max_epochs=7")
    source = tmp_path / "one" / "checkpoints" / "last.ckpt"
    before = kept(tmp_path / "one")
    with begun(tmp_path / "two", source, "trainer.max_epochs=9") as run:
        assert run.resume_from == source and run.last.parent.parent == tmp_path / "two"
        assert run.config.ckpt_path == str(source) and run.config.trainer.max_epochs == 9
        for key in ("model", "fold", "data", "augmentation", "seed"):
            assert run.config[key] == config[key]
        assert run.config.callbacks.last.dirpath == str(tmp_path / "two" / "checkpoints")
        run.record()
    assert kept(tmp_path / "one") == before
    with called(tmp_path / "two") as again:  # stopped before its first epoch was over
        assert again.resume_from == source and again.config == run.config
    (tmp_path / "two" / "checkpoints").mkdir()
    metadata = {**run.metadata, "plan": {}, "configuration": run.config.data.configuration}
    torch.save(metadata, tmp_path / "two" / "checkpoints" / "last.ckpt")
    for again in (called(tmp_path / "two"), begun(tmp_path / "two", source)):
        with again as own:
            assert own.resume_from == own.last


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fold=1"], "fold: 0 -> 1"),
        (["model=nnunet"], "model.network"),
        (["train=false"], "train=false tests what run_dir has"),
    ],
)
def test_what_a_checkpoint_does_not_allow(tmp_path: Path, overrides: list[str], message: str) -> None:
    trained(tmp_path / "one")
    source = tmp_path / "one" / "checkpoints" / "last.ckpt"
    with pytest.raises(ResumeError, match=message), begun(tmp_path / "two", source, *overrides):
        pass
    assert not (tmp_path / "two" / "config.yaml").exists()


def test_a_run_with_a_checkpoint_does_not_begin_from_another(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    trained(tmp_path / "two")
    source = tmp_path / "one" / "checkpoints" / "last.ckpt"
    refused = pytest.raises(ResumeError, match=r"ckpt_path: .*None.* -> .*one/checkpoints/last\.ckpt")
    with refused, begun(tmp_path / "two", source):
        pass
    with begun(tmp_path / "one", source) as run:  # its own
        assert run.resume_from == source and run.config.ckpt_path is None
    with pytest.raises(ResumeError, match="there is no such file"), begun(tmp_path / "three", tmp_path / "no.ckpt"):
        pass


def test_a_checkpoint_that_is_begun_from_brings_no_code(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    source = tmp_path / "one" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(source, weights_only=True)
    checkpoint["config"]["callbacks"]["x"] = {"_target_": "os.system", "command": "true"}
    torch.save(checkpoint, source)
    with pytest.raises(ResumeError, match="os.system"), begun(tmp_path / "two", source):
        pass
