"""Every config composes, resolves and instantiates; a wrong key or value is refused with the right ones named."""

from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tests.composed import composed
from umamba.datamodules.base import SegmentationDataModule
from umamba.resolvers import auto_precision, register_resolvers

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
NETWORKS = ("nnunet", "segresnet", "unetr", "swinunetr", "umamba_bot", "umamba_enc")
SETTINGS = ("flare", "amos_mr", "amos_mr_2d", "endovis", "cell")


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))


def compose_train(*overrides: str, run_dir: Path) -> DictConfig:
    register_resolvers()
    cfg = composed("train", ["paths.root=.", f"run_dir={run_dir}", "hydra=inference", *overrides], hydra=True)
    cfg.hydra.runtime.output_dir = str(run_dir)
    return cfg


def resolved(cfg: DictConfig) -> DictConfig:
    OmegaConf.set_struct(cfg, False)
    hydra = cfg.pop("hydra")
    cfg.data_name, cfg.model_name = hydra.runtime.choices.data, hydra.runtime.choices.model
    cfg.task_name = f"{cfg.data_name}_{cfg.model_name}"
    OmegaConf.resolve(cfg)
    return cfg


def needed(group: str, name: str) -> list[str]:
    """Overrides without which a choice is incomplete on purpose."""
    mandatory = {
        ("data", "custom"): ["data.dataset_dir=somewhere/Dataset123_Mine"],
        ("data", "joint"): ["data.sources=[somewhere/A,somewhere/B]", "data.dataset_dir=somewhere/Dataset123_Both"],
        ("data", "decathlon"): ["data.decathlon_task=Task09_Spleen"],
        ("loss", "own"): ["loss._target_=torch.nn.CrossEntropyLoss"],
    }
    return mandatory.get((group, name), [])


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes_and_its_data_module_instantiates(experiment: str, tmp_path: Path) -> None:
    cfg = resolved(compose_train(f"experiment={experiment}", run_dir=tmp_path))
    module = instantiate(cfg.data)
    assert isinstance(module, SegmentationDataModule)
    assert not OmegaConf.missing_keys(cfg)


def test_the_papers_settings_and_networks_all_have_an_experiment() -> None:
    wanted = {f"{setting}_{network}" for setting in SETTINGS for network in (*NETWORKS, "umamba_none")}
    assert wanted <= set(choices("experiment"))


@pytest.mark.parametrize("name", choices("model"))
def test_every_model_config_builds_network_optimizer_and_schedule(name: str, tmp_path: Path) -> None:
    model = instantiate(resolved(compose_train(f"model={name}", run_dir=tmp_path)).model)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = model.optimizer(parameters)
    scheduler = model.scheduler(optimizer, max_epochs=10)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert callable(model.network)


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g in ("data", "loss", "augmentation", "trainer", "callbacks", "logger", "debug") for n in choices(g)],
)
def test_every_choice_of_every_group_instantiates(group: str, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = resolved(compose_train(f"{group}={name}", *needed(group, name), run_dir=tmp_path))
    if group == "trainer":
        if name in ("gpu", "ddp"):
            assert cfg.trainer.accelerator == "gpu"  # the Trainer itself refuses to be built without one
            return
        instantiate(cfg.trainer)
    elif group == "debug":
        assert cfg.trainer.max_epochs <= 20
    elif group == "augmentation":
        instantiate(cfg.augmentation)
    else:
        instantiate(cfg[group])


@pytest.mark.parametrize("name", choices("hparams_search"))
def test_every_search_varies_keys_that_there_are(name: str, tmp_path: Path) -> None:
    search = OmegaConf.load(CONFIGS / "hparams_search" / f"{name}.yaml")
    cfg = compose_train(run_dir=tmp_path)
    for key in search.hydra.sweeper.params:
        assert OmegaConf.select(cfg, key) is not None, key
    assert search.optimized_metric.startswith("val/")


def test_early_stopping_watches_what_is_logged(tmp_path: Path) -> None:
    callbacks = resolved(compose_train("callbacks=early_stopping", run_dir=tmp_path)).callbacks
    assert callbacks.early_stopping.monitor == callbacks.best.monitor and callbacks.last is not None


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigCompositionException, match="itterations_per_epoch"):
        compose_train("data.itterations_per_epoch=3", run_dir=tmp_path)


def test_an_unknown_choice_lists_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="(?s)umamba_boot.*umamba_bot.*umamba_enc"):
        compose_train("model=umamba_boot", run_dir=tmp_path)


@pytest.mark.parametrize(
    ("accelerator", "wanted", "expected"),
    [("cpu", None, "32-true"), ("gpu", None, "bf16-mixed"), ("gpu", "32-true", "32-true"), ("cpu", "bf16", "bf16")],
)
def test_precision_follows_the_device_unless_the_model_says(accelerator, wanted, expected) -> None:
    assert auto_precision(accelerator, wanted) == expected
