"""Manifests: what they list, what is refused, and that every run of the project's own composes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests import warm_start
from umamba.evidence.manifest import FOLDER, read_manifest
from umamba.locations import CONFIGS
from umamba.resolvers import register_resolvers

TEXT = """\
overrides: [logger=csv]
datasets:
  a: {overrides: [data=phantom], seconds: 10}
  b: {title: B, overrides: [data=custom, "data.dataset_dir=${paths.raw}/B"], seconds: 20, networks: [y]}
networks:
  x: {overrides: [model=nnunet], seeds: [1, 2]}
  y: {overrides: [model=umamba_bot], seeds: [3], cost: 1.5}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "list.yaml"
    path.write_text(text)
    return path


def test_data_sets_times_networks_times_seeds(tmp_path):
    runs = read_manifest(written(tmp_path, TEXT))
    assert [run.key for run in runs] == ["a/x_1", "a/x_2", "a/y_3", "b/y_3"]
    assert [run.seconds for run in runs] == [10, 10, 15, 30]
    assert runs[3].overrides == ("logger=csv", "data=custom", "data.dataset_dir=${paths.raw}/B", "model=umamba_bot")
    assert (runs[0].title, runs[3].title) == ("a", "B")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [3]", "seeds: [3, 3]", r"networks\.y\.seeds must be a list of different whole numbers"),
        ("seeds: [3]", "seeds: 3", r"networks\.y\.seeds must be"),
        ("seeds: [3]", "seeds: []", r"networks\.y\.seeds must be a list of different whole numbers"),
        ("seeds: [3]", "seeds: [-3]", r"networks\.y\.seeds must be"),
        ("seeds: [3]", "seeds: [4294967296]", r"networks\.y\.seeds must be .* below 2 to the 32nd"),
        ("seeds: [3], ", "", r"networks\.y\.seeds must be.* it is None"),
        (
            "networks: [y]",
            "networks: [z]",
            r"datasets\.b\.networks must be .* names among x, y; it is \['z'\]",
        ),
        ("networks: [y]", "networks: []", r"datasets\.b\.networks must be a list of different names"),
        ("networks: [y]", "networks: [y, y]", r"datasets\.b\.networks must be a list of different names"),
        ("title: B", "title: [B]", r"datasets\.b\.title must be a text, it is \['B'\]"),
        ("  b: {title: B, overrides", "  a: {title: B, overrides", "found duplicate key a"),
        ("model=umamba_bot], seeds: [3]", "model=nnunet], seeds: [1]", "a/x_1 and a/y_1 are one run"),
        ("logger=csv", "logger=csv, +logger=wandb", "overrides sets logger twice"),
        ("cost: 1.5", "costs: 1.5", r"networks\.y has costs; allowed are overrides, seeds, cost"),
        ("cost: 1.5", "cost: dear", r"networks\.y\.cost must be a number"),
        ("seconds: 10", "seconds: -1", r"datasets\.a\.seconds must be a number"),
        ("logger=csv", "logger", r"overrides must be a list of key=value"),
        ("logger=csv", "seed=3", r"overrides sets seed, which the runner gives to each run itself"),
        ("  a:", "  a/b:", r"datasets\.'a/b' names folders and files, but it holds a path separator"),
        ("datasets:", "data:", "it has data; allowed are overrides, datasets, networks"),
        ("  x: {overrides: [model=nnunet], seeds: [1, 2]}", "  x: 3", r"networks\.x must be a mapping"),
        ("overrides: [logger=csv]", "overrides: [", "is no YAML file"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        read_manifest(written(tmp_path, TEXT.replace(old, new, 1)))


def test_a_manifest_that_is_not_there_is_told_which_are():
    with pytest.raises(FileNotFoundError, match="those there: .*short"):
        read_manifest("shorter")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_manifest("nowhere/list.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_run_of_a_manifest_composes_with_one_budget_for_a_data_set(name, tmp_path):
    register_resolvers()
    budgets: dict[str, tuple] = {}
    runs = read_manifest(name)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for run in {run.cell: run for run in runs}.values():
            cfg = compose("train", [*run.overrides, f"seed={run.seed}", f"paths.raw={tmp_path}", "run_dir=here"])
            data = OmegaConf.to_container(cfg.data, resolve=False)
            budget = (cfg.trainer.max_epochs, data["iterations_per_epoch"], data["configuration"], cfg.fold)
            assert budgets.setdefault(run.dataset, budget) == budget
            assert str(cfg.data.dataset_dir).startswith(str(tmp_path))
    assert len({run.key for run in runs}) == len(runs)


def asked(folder: Path, old: str = "", new: str = "", action: str = "status", **options: str) -> tuple[int, str]:
    """The command on a manifest with another text in it; nothing is trained."""
    path = written(folder, TEXT.replace("${paths.raw}", "raw").replace(old, new, 1))
    given = [f"{key}={value}" for key, value in {"manifest": path, "state": folder / "state", **options}.items()]
    result = warm_start.run("-m", "umamba.evidence", action, *given, cwd=folder, env={**os.environ, "COLUMNS": "200"})
    return result.returncode, result.stdout + result.stderr


def test_status_says_what_train_would_not_compose(tmp_path):
    code, said = asked(tmp_path)
    assert code == 0 and "4 wanted" in said
    for old, new, message in (
        ("model=umamba_bot", "model=umamba_bott", "Could not find 'model/umamba_bott'"),
        ("data=phantom", "data=phantoms", "Could not find 'data/phantoms'"),
        ("logger=csv", "trainer.max_epoch=3", "trainer.max_epoch"),
    ):
        code, said = asked(tmp_path, old, new)
        assert code and re.search(r"train\.py would refuse [ab]/[xy]_\d:", said) and message in said, said


def test_nothing_is_started_where_one_run_would_be_refused(tmp_path):
    code, said = asked(tmp_path, "logger=csv", "model.optimizer.lr=0", action="run", gpus="cpu")
    assert code and "train.py would refuse a/x_1" in said and "lr is 0, so nothing would be trained" in said, said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "[a/*,c/*]"}, r"only=c/\* matches none of the runs"),
        ({"only": "[]"}, r"only=\[\] matches none of the runs"),
        ({"stop_seconds": "soon"}, "stop_seconds=soon: expected a number"),
        ({"workers": "two"}, "workers=two: expected a whole number or null"),
        ({"workers": "-2", "action": "run"}, "workers=-2: expected 0 or more"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(tmp_path, options, message):
    code, said = asked(tmp_path, **options)
    assert code and re.search(message, said), said
