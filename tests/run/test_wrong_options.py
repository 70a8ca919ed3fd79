"""Every command says what is wrong with an option before anything is read, in a message alone."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

import umamba.cross_validation.__main__ as best
import umamba.evaluation.__main__ as evaluation
import umamba.evaluation.report.__main__ as report
import umamba.export.__main__ as export
import umamba.inference.__main__ as inference
import umamba.planning.__main__ as planning
from tests import warm_start
from tests.composed import composed
from umamba.datamodules.splits import number_of_folds
from umamba.locations import CONFIGS
from umamba.plain import check_option_types
from umamba.planning.options import PlannerOptions
from umamba.run import asked, idle
from umamba.run.errors import message_of
from umamba.run.hints import hint
from umamba.typed import check_types, has_type, is_whole

TYPES = {
    "predict": inference.TYPES,
    "eval": evaluation.TYPES,
    "export": export.TYPES,
    "best": best.TYPES,
    "planning": planning.TYPES,
    "report": report.TYPES,
    "train": asked.TYPES,
}
MAINS = {"predict": inference.main, "eval": evaluation.main, "export": export.main, "best": best.main}
MAINS |= {"planning": planning.main, "report": report.main}


@pytest.mark.parametrize("command", TYPES)
def test_what_the_files_say_is_of_its_type(command: str) -> None:
    cfg = OmegaConf.load(CONFIGS / f"{command}.yaml")
    cfg = OmegaConf.merge(cfg, {key: "x" for key in cfg if OmegaConf.is_missing(cfg, key)})
    cfg.run_dir, cfg.loss = "x", {}  # which a group says
    check_option_types(cfg, TYPES[command])


@pytest.mark.parametrize("command", TYPES)
def test_every_option_refuses_what_is_not_of_its_type(command: str) -> None:
    for name, of in TYPES[command].items():
        for wrong in ([["a"]], {"a": 1}, float("inf")):
            if has_type(type(wrong)(), of) and of in (
                dict,
                dict | None,
                float | dict | None,
                str | list | None,
                str | dict | None,
            ):
                continue  # looked at again where the classes are known, or when it is built
            with pytest.raises(ValueError, match=rf"^{name}=.*: expected "):
                check_types({name: wrong}, {name: of})


@pytest.mark.parametrize(
    ("value", "hint_of", "message"),
    [
        (3, Path, r"output=3: expected a path\. One whose name is a number is written \./3\."),
        (None, Path, r"output=null: expected a path\."),
        (True, Path | None, r"output=true: expected a path or null\."),
        (" ", Path, r"output= : expected a path\."),
        (["a", 3], Path | list[Path], r"output=\['a', 3\]: expected a path or a list of paths\."),
        ("half", float | None, r"output=half: expected a number or null\."),
        (float("nan"), float, r"output=nan: expected a number\."),
        (1, bool, r"output=1: expected true or false\."),
        ({"a": "b"}, str | list[str] | None, r"expected text, a list of text or null\."),
    ],
)
def test_messages(value, hint_of, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_types({"output": value}, {"output": hint_of})


def test_whole_numbers() -> None:
    assert all(map(is_whole, (0, 7))) and is_whole(3, 3) and not is_whole(0, 1)
    assert not any(map(is_whole, (True, 1.0, "1", None, -1)))


def called(command: str, options: list[str]) -> None:
    """A command in this process, from its configuration on."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(command, options, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
    MAINS[command].__wrapped__.__wrapped__(cfg)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("predict", ["checkpoint=c", "input=in", "output=file"], "file is no folder"),
        ("predict", ["checkpoint=c", "input=in", "output=file/x"], "file is no folder"),
        ("predict", ["checkpoint=c", "input=in", "output=o", "device=[cpu,cuda:99]"], "device is 'cuda:99'"),
        ("predict", ["checkpoint=c", "input=in", "output=o", "device=mps"], "device is 'mps'"),
        ("eval", ["ckpt_path=c", "output=file"], "file is no folder"),
        ("eval", ["ckpt_path=[]", "output=o"], "There is no checkpoint to score"),
        ("eval", ["ckpt_path=c", "ensemble=true", "output=o"], "averages the checkpoints of a list"),
        ("eval", ["predictions=in", "references=in", "output=o"], "Give dataset_json=<file>"),
        ("eval", ["predictions=in", "references=file", "output=o"], "references=file is no folder; expected one"),
        ("export", ["checkpoint=c", "output=file/x"], "file is no folder"),
        ("export", ["checkpoint=c", "output=x.ckpt", "format=tflite"], "format is 'tflite'"),
        ("best", ["runs=[in]", "output=file"], "file is no folder"),
        ("best", ["runs=[in]", "output=o", "device=cuda:99"], "device is 'cuda:99'"),
        ("planning", ["data=phantom", "fingerprint=file"], "fingerprint would do nothing beside data=..."),
        ("planning", ["data=phantom", "output=file/plan.json"], "file is no folder"),
        ("report", ["runs=in", "output=file"], "file is no folder"),
        ("report", ["runs=in", "output=o", "cases=0"], "cases=0: expected how many cases"),
    ],
)  # fmt: skip
def test_before_anything_is_read(tmp_path, monkeypatch, command: str, options: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("file").write_text("mine")
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        called(command, options)
    assert Path("file").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["file", "in"]


@pytest.mark.parametrize("values", [{"memory_gb": "lots"}, {"base_features": 3.5}, {"base_features": "many"}])
def test_options_of_planning_are_numbers(values: dict) -> None:
    with pytest.raises(ValueError, match=rf"planning\.{next(iter(values))} = .*: expected "):
        PlannerOptions.of(values)


def test_a_fold_that_there_is_not_is_refused_before_the_others_are_trained(tmp_path) -> None:
    assert number_of_folds([tmp_path, tmp_path / "none"]) == 5
    (tmp_path / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]')
    assert number_of_folds([tmp_path / "none", tmp_path]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run_dir=file"], "cannot be made"),
        (["run_dir=run", "compile=perhaps"], "compile=perhaps: expected true or false."),
        (["run_dir=run", "seed=-1"], "seed=-1: expected a whole number, 0 or more"),
        (
            ["run_dir=run", "trainer.max_epoch=3"],
            "Could not override 'trainer.max_epoch'.\nThere is trainer.max_epochs and trainer.max_steps.\n",
        ),
        (
            ["run_dir=run", "trainer.gradient_clip_algorithm=value"],
            "does not list it: +trainer.gradient_clip_algorithm=... adds it.",
        ),
        (["run_dir=run", "fold=o"], "fold='o': expected the number of a fold, 0 to 4 of the usual five, or \"all\"."),
        (
            ["--config-name=cross_validation", "run_dir=run", "cross_validation.folds=[0,7]"],
            "cross_validation.folds=[0, 7]: the data set has 5 folds, 0 to 4.",
        ),
    ],
)  # fmt: skip
def test_a_training_says_it_alone(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "file").write_text("mine")
    flags = [option for option in options if option.startswith("--")]
    done = warm_start.run("train.py", *flags, "data=phantom", *options[len(flags) :], cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "full_key" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_wrong_choice_lists_the_choices_alone() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(MissingConfigException) as caught:
        compose("train", overrides=["model=umamba_ecn"])
    said = message_of(caught.value)
    assert said.startswith("In 'train': Could not find 'model/umamba_ecn'") and "\tumamba_enc\n" in said
    assert "_nnunet_training" not in said and "search path" not in said and str(CONFIGS) not in said
    assert said.endswith("\nThere is model=umamba_enc and model=umamba_none.")


def test_keys_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umamba.help._called", ["predict"])
    assert hint("Could not override 'stepp'.") == "There is step."
    assert hint("Could not override 'gradient_clip_val'.") == "--help lists the keys that there are."
    monkeypatch.setattr("umamba.help._called", ["planning"])
    assert hint("Could not override 'dataset_dir'.") == "There is data.dataset_dir."
    monkeypatch.setattr("umamba.help._called", ["train"])
    assert hint("Could not override 'precision'.") == "There is model.precision and trainer.precision."
    assert hint("Could not override 'trainer.max_epoch'.").startswith("There is trainer.max_epochs")
    assert "++optimizer=... adds" in hint("Could not override 'optimizer'.")  # of an experiment that has one


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Error parsing override 'data'\nmissing EQUAL at '<EOF>'", "without blanks around the ="),
        ("mismatched input 'last.ckpt' expecting ID", "Options are given as key=value, as in checkpoint="),
        ("LexerNoViableAltException: checkpoint=~/x", "For ~ write the whole path"),
        ("Could not override 'trainer.gpus'.", "There is trainer.devices"),
        ("Could not override 'epochs'.", "There is trainer.max_epochs"),
        ("In 'train': Could not find 'model/umamba_ecn'", "There is model=umamba_enc"),
        ("Could not find 'experiment/flare_umamba'", "There is experiment=flare_umamba_"),
        ("Could not find 'experiment/hipocampus'", "There is data=hippocampus."),
        ("Could not find 'model/transformer'", "Choose one of these"),
    ],
)
def test_habits_from_elsewhere(message: str, words: str) -> None:
    assert words in hint(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["train.py", "--data", "hippocampus"], "without dashes: data=hippocampus"),
        (["predict.py", "-i", "in", "-o", "out"], "without dashes"),
        (["train.py", "data=phantom", "--config-name=cascade", "seed=1"], "stand in front of them"),
        (["train.py", "data=custom"], "data.dataset_dir=... is missing, and has no default"),
        (["predict.py", "checkpoint=run", "input=in", "output=o"], "Give checkpoint=run/checkpoints/last.ckpt"),
        (["eval.py", "ckpt_path=run/checkpoints", "output=o"], "its checkpoint is run/checkpoints/last.ckpt"),
    ],
)
def test_mistakes_of_beginners(tmp_path: Path, line: list[str], message: str) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "in").mkdir()
    done = warm_start.run(*line, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr and "Traceback" not in done.stderr


def options_of(tmp_path: Path, *overrides: str) -> DictConfig:
    return composed("train", [f"run_dir={tmp_path / 'run'}", *overrides])


@pytest.mark.parametrize("key", idle.IDLE)
def test_what_the_trainer_would_take_without_effect_is_refused(key: str, tmp_path: Path) -> None:
    value = "[{_target_: builtins.dict}]" if key == "plugins" else str(not key.startswith("enable_")).lower()
    with pytest.raises(ValueError, match=rf"trainer\.{key}=.* is not taken here: .*Leave trainer\.{key} out"):
        asked.check_options(options_of(tmp_path, f"++trainer.{key}={value}"))
    assert key in inspect.signature(Trainer).parameters
    asked.check_options(options_of(tmp_path, f"++trainer.{key}=null"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.logger=false"], "logger=False is not taken here: loggers are chosen by logger="),
        (["+trainer.callbacks=[]"], "callbacks=.* is not taken here: callbacks are entries of the group"),
        (["+trainer.limit_test_batches=0"], "limit_test_batches=0 is not taken here: train.py tests"),
        (["+trainer.min_epochs=3"], "min_epochs=3 .*of which this run has none"),
        (["+trainer.min_steps=9"], "min_steps=9 .*of which this run has none"),
        (["+trainer.min_epochs=3", "callbacks=early_stopping", "trainer.max_epochs=1"], "max_epochs=1 ends the"),
        (["+trainer.min_steps=3", "trainer.max_time=00:01:00:00", "trainer.max_steps=2"], "max_steps=2 ends the"),
        (["trainer.default_root_dir=/tmp/elsewhere"], "default_root_dir=/tmp/elsewhere is not taken here: .*run_dir="),
        (["+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=null"], "nothing is clipped"),
        (["trainer.sync_batchnorm=true"], "sync_batchnorm=True is not taken here: .*trainer.devices is one"),
        (["trainer.limit_train_batches=0"], "limit_train_batches=0 is not taken here: .*trainer.max_epochs=0 keeps"),
        (["trainer.limit_train_batches=0.0"], "limit_train_batches=0.0 is not taken here"),
        (["trainer.limit_train_batches=0.003"], "limit_train_batches=0.003 is less than one of the 250 batches"),
        (["trainer.max_epochs=1.5"], "max_epochs=1.5: expected a whole number, -1 or more"),
        (["trainer.max_epochs=true"], "max_epochs=True: expected a whole number"),
        (["trainer.max_steps=1.5"], "max_steps=1.5: expected a whole number"),
        (["trainer.limit_train_batches=true"], "limit_train_batches=true: expected batches, or a share of them"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches=0: expected a whole number, 1 or more"),
        (["trainer.accumulate_grad_batches=-1"], "accumulate_grad_batches=-1: expected a whole number, 1 or more"),
        (["trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch=0: expected a whole number, 1 or more"),
        (["trainer.val_check_interval=0"], "val_check_interval=0: expected batches, a share of them, or null"),
        (["trainer.val_check_interval=0.003"], "val_check_interval=0.003 is less than one of the 250 batches"),
        (["trainer.log_every_n_steps=-1"], "log_every_n_steps=-1: expected a whole number, 0 or more"),
    ],
)
def test_what_the_trainer_would_not_act_on_in_this_run_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        asked.check_options(options_of(tmp_path, *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+trainer.min_epochs=3", "callbacks=early_stopping"],
        ["+trainer.min_steps=9", "trainer.max_time=00:01:00:00"],
        ["+trainer.min_steps=9", "+callbacks.mine._target_=mymix.StopsWhenItLikes"],
        ["trainer.sync_batchnorm=true", "trainer.devices=2"],
        ["trainer.limit_train_batches=0", "trainer.max_epochs=0"],
        ["+trainer.gradient_clip_algorithm=value"],
        ["+trainer.barebones=false"],
        ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7", "trainer.limit_train_batches=1.0"],
        ["trainer.limit_train_batches=0.004", "trainer.log_every_n_steps=0"],
    ],
)
def test_what_the_trainer_acts_on_is_taken(overrides: list[str], tmp_path: Path) -> None:
    asked.check_options(options_of(tmp_path, *overrides))


@pytest.mark.parametrize("options", [["experiment=demo"], ["experiment=demo", "+model.optimizer.momentun=1"]])
def test_values_for_an_optimiser_that_another_replaces_are_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*overrides: str) -> None:
        cfg = composed("train", [f"run_dir={tmp_path / 'run'}", *overrides], hydra=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        asked.check_options(cfg)

    called("model.optimizer.lr=0.1")
    called("experiment=demo", "optimizer.lr=0.1")
    called(*options, "optimizer=null", "model.optimizer.lr=0.1")
    with pytest.raises(
        ValueError, match=r"model\.optimizer\.\S+ would do nothing: torch\.optim\.AdamW.* Set \+?optimizer\."
    ):
        called(*options, "model.optimizer.lr=0.1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_time=3"], "trainer.max_time=3: expected text, named values or null"),
        (["trainer.gradient_clip_val=abc"], "trainer.gradient_clip_val=abc: expected a number or null"),
        (["data.planning.preset=[resenc_m]"], r"planning.preset = \['resenc_m'\]: expected one of default"),
    ],
)
def test_what_libraries_would_fail_at(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        asked.check_options(options_of(tmp_path, *overrides))


def test_two_budgets_of_planning_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["data.planning.preset=resenc_m", "data.planning.preset=resenc_l"]
    cfg = composed("train", [f"run_dir={tmp_path / 'run'}", *given], hydra=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    with pytest.raises(ValueError, match=r"preset=resenc_m and data\.planning\.preset=resenc_l are given at once"):
        asked.check_options(cfg)


LATER = {"_target_": "a.b", "_partial_": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nnunet"}, r"model is 'nnunet'; .*model=<name> on the command line, .*`- override /model: <name>`"),
        ({"trainer": 5}, "trainer is 5; expected named values"),
        ({"data": None}, "data is None; expected named values"),
        ({"augmentation": "none"}, "augmentation is 'none'; expected named values"),
        ({"callbacks": {"last": 5}}, "callbacks.last is 5; expected named values, or null"),
        ({"data": {"planning": 5}}, "data.planning is 5; expected named values, or null"),
        ({"model": {"optimizer": {"_partial_": "yes"}}}, "model.optimizer._partial_ is 'yes'; expected true or false"),
        ({"data": {"sources": [{"_partial_": 1}]}}, "data.sources.0._partial_ is 1; expected true or false"),
        ({"loss": {"_recursive_": "x"}}, "loss._recursive_ is 'x'; expected true or false"),
        ({"loss": {"_convert_": "x"}}, "loss._convert_ is 'x'; expected one of none, partial, object, all"),
        ({"loss": {"_args_": 3}}, "loss._args_ is 3; expected a list"),
        ({"model": {"scheduler": LATER}}, "model.optimizer is null; expected .* a _target_ and _partial_: true"),
        ({"model": {"optimizer": LATER, "scheduler": {**LATER, "_partial_": False}}}, "model.scheduler is {.*expected"),
        ({"optimizer": {"_partial_": True}}, "^optimizer is {.*expected .* a _target_"),
        ({"trainer": LATER}, "trainer._partial_ is true, with which it would never be built"),
        ({"callbacks": {"last": LATER}}, "callbacks.last._partial_ is true"),
    ],
)
def test_what_is_no_group_of_values_is_said(change: dict, message: str) -> None:
    groups = {**{key: {} for key in asked.GROUPS}, "model": {"optimizer": LATER, "scheduler": LATER}}
    sound = OmegaConf.create({**groups, "callbacks": None, "augmentation": "${data.a}"})
    asked.check_groups(sound)
    with pytest.raises(ValueError, match=message):
        asked.check_groups(OmegaConf.create({**OmegaConf.to_container(sound), **change}))


@pytest.mark.parametrize("name", ["train", "cross_validation", "cascade"])
def test_the_groups_of_every_training_are_such(name: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        asked.check_groups(compose(name))
