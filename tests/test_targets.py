"""The list of targets is of things that exist, and every model and data set that is shipped is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from umamba.resolvers import register_resolvers
from umamba.target_check import Exports
from umamba.targets import DATA_MODULES, NETWORKS, PARTS, check_config

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "target", [*NETWORKS, *(part for part in PARTS if not isinstance(part, Exports)), *DATA_MODULES]
)
def test_listed_targets_are_defined_where_they_are_named(target: str) -> None:
    found = get_object(target)
    assert f"{found.__module__}.{found.__qualname__}" == target


@pytest.mark.parametrize("group", ["model", "data"])
def test_what_is_shipped_may_be_trained(group: str) -> None:
    register_resolvers()
    names = [path.stem for path in (ROOT / "configs" / group).glob("[!_]*.yaml")]
    for name in names:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            overrides = [f"{group}={name}", "data.dataset_dir=raw", "run_dir=run", "task_name=task"]
            overrides += ["data.decathlon_task=Task09_Spleen"] if name == "decathlon" else []
            overrides += ["data_name=data", "model_name=model"]
            config = compose("train", overrides=overrides)
        check_config(OmegaConf.to_container(config, resolve=True), config.trusted)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+model.network.mixer={_target_:mymix.Mixer,_partial_:true}",
            r"mixer._target_ is 'mymix.Mixer'.*trusted=\[mymix\]",
        ),
        ("model.network._target_=mynet.Net", r"model.network._target_ is 'mynet.Net'.*trusted=\[mynet\]"),
        ("data._target_=mydata.Module", r"data._target_ is 'mydata.Module'.*trusted=\[mydata\]"),
    ],
)
def test_a_run_whose_checkpoint_nobody_could_load_does_not_begin(override: str, message: str) -> None:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        fixed = ["data.dataset_dir=raw", "run_dir=run", "task_name=task", "data_name=data", "model_name=model"]
        config = OmegaConf.to_container(compose("train", overrides=["model=nnunet", *fixed, override]), resolve=True)
    with pytest.raises(ValueError, match=message):
        check_config(config)
    optimiser = {"_target_": "myoptim.Mine", "_partial_": True}
    sound = config | {"optimizer": optimiser, "callbacks": {"mine": {"_target_": "mycalls.Mine"}}}
    sound["model"] = sound["model"] | {"network": {"_target_": NETWORKS[1], "_partial_": True}, "optimizer": optimiser}
    sound["data"] = sound["data"] | {"_target_": DATA_MODULES[0], "augmentation": {"_target_": "mine.Transform"}}
    check_config(sound)  # no checkpoint has these built
