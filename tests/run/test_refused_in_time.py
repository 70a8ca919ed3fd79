"""What a training refuses, it refuses before the work that would be lost: reading cases, preprocessing them, epochs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from miniatures import TINY, make_volumes
from omegaconf import OmegaConf

from tests import warm_start
from umamba.locations import CONFIGS, ROOT
from umamba.plain import to_plain
from umamba.planning import prepare
from umamba.run.folder import Run

COSINE = ["model.scheduler._target_=umamba.models.schedules.cosine", "~model.scheduler.power"]
NO_CASE, NO_STORE = "reads a case", "preprocesses a case"


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "raw" / "Dataset001_Small", labels=("liver", "spleen"))


def forbid(monkeypatch, *work: str) -> None:
    """Fail where cases are read, or where they are preprocessed."""
    for function, what in (("_measure", NO_CASE), ("fresh_store", NO_STORE)):
        if what in work:
            monkeypatch.setattr(prepare, function, lambda *_, what=what: pytest.fail(f"the call {what}"))
    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: pytest.fail("the call trains"))


def start(train, dataset: Path, *overrides: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        line = [
            "data=custom", *TINY, f"data.dataset_dir={dataset}", f"data.prepared_dir={dataset.parents[1] / 'prepared'}",
            "data.patch_size=[16,16,16]", f"run_dir={dataset.parents[1] / 'run'}", *overrides,
        ]  # fmt: skip
        cfg = compose("train", line, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        config = OmegaConf.create(to_plain(cfg))
    train(Run(config=config, folder=Path(config.run_dir), metadata={"config": to_plain(config)}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.nsd_tolerance=-1"], "nsd_tolerance"),
        (["data.nsd_tolerance={liver: 2}"], "spleen"),
        (["data.nsd_tolerance={liver: 2, spleen: 2, kidney: 1}"], "kidney"),
        (["data.grow=2"], r"data\.grow=2 grows predicted instances .* scored by class"),
        (["data.grow=-1"], r"grow is -1; expected a number of pixels"),
        (["model=nnunet", "data.planning.preset=resenc_l"], "plain CNN"),
        (["trainer.max_time=soon"], r"trainer\.max_time is 'soon'"),
        (["trainer.precision=17"], "17"),
        (["trainer.gradient_clip_val=-1"], r"gradient_clip_val is -1"),
        (["data.iterations_per_epoch=0"], r"data\.iterations_per_epoch is 0"),
        (["data.val_iterations=-1"], r"data\.val_iterations is -1"),
        (["data.batch_size=2.5"], r"data\.batch_size is 2\.5; expected a whole number"),
        (["data.batch_size=0"], r"data\.batch_size=0: expected a whole number from 1"),
        (["data.batch_size=true"], r"data\.batch_size is True; expected a whole number"),
        (["data.patch_size=[16.5,16,16]"], r"data\.patch_size is \[16\.5, 16, 16\]; expected whole numbers"),
        (["data.patch_size=16"], r"data\.patch_size is 16; expected whole numbers"),
        (["data.oversample=true"], r"data\.oversample is a share of the batch, 0 to 1; it is True"),
        (["data.num_workers=-2"], r"data\.num_workers is -2"),
        (["data.augment_on=gpu"], r"data\.augment_on is 'gpu'; expected one of auto, cpu, cuda"),
        (["data.augment_on=cuda", "trainer.accelerator=cpu"], r"data\.augment_on=cuda needs a run on a CUDA device"),
        (["data.planning.plans=/nowhere/plan.json"], "/nowhere/plan.json"),
        (["model.optimizer.lr=-1"], "lr.*-1|learning rate"),
        (["model.optimizer.lr=fast"], "lr is 'fast', a text"),
        (["model.optimizer.weight_decay=null"], "weight_decay is null"),
        (["model.optimizer.nesterov=maybe"], "nesterov is 'maybe', a text. nesterov must be true or false"),
        (["model.optimizer.nesterov=1"], "nesterov must be true or false"),
        (["+model.optimizer.momentun=0.9"], "momentun"),
        (["model.optimizer.lr=true"], "lr must be a number, it is true"),
        (["model.optimizer.momentum=nan"], "momentum must be a finite number, it is nan"),
        (["model.optimizer.lr=0"], "lr is 0, so nothing would be trained; trainer.max_epochs=0 keeps and tests"),
        (["optimizer={_target_: torch.optim.AdamW, _partial_: true, lr: 0.0}"], "lr is 0, so nothing"),
        (["model.optimizer.weight_decay=-1"], "Invalid weight_decay value: -1"),
        (["model.optimizer.momentum=1.5"], "momentum is 1.5; expected less than 1"),
        (["optimizer={_target_: torch.optim.RMSprop, _partial_: true, momentum: 1}"], "momentum is 1; expected"),
        ([*COSINE, "+model.scheduler.min_lr=-1"], r"min_lr is -1; expected 0 or more, and at most .* 0\.01"),
        ([*COSINE, "+model.scheduler.min_lr=1"], r"min_lr is 1; expected 0 or more, and at most .* 0\.01"),
        (["warmup_epochs=2"], r"warmup_epochs=2 leaves no epoch of trainer\.max_epochs=2"),
        (["trainer.max_time=00:00:00:00"], r"trainer\.max_time is 0, so nothing would be trained"),
        (["callbacks.finite.patience=0"], r"callbacks\.finite\.patience is 0; expected a whole number of steps"),
        (["loss.dice=0", "loss.cross_entropy=0"], "both 0, so there is nothing to learn from"),
        (["model.scheduler.power=inf"], "power must be a finite number, it is inf"),
        (["trainer.max_epochs=null"], r"trainer\.max_epochs must be"),
        (["data.prepared_dir=${data.dataset_dir}"], "is the raw data set"),
        (["data.prepared_dir=${data.dataset_dir}/../"], "holds the raw data set"),
        (["data.prepared_dir=${data.dataset_dir}/imagesTr/x"], "lies among the images"),
    ],
)
def test_before_a_case_is_read(train, dataset: Path, monkeypatch, overrides: list[str], message: str) -> None:
    forbid(monkeypatch, NO_CASE, NO_STORE)
    with pytest.raises((ValueError, OSError, HydraException), match=message):
        start(train, dataset, *overrides)
    assert sorted(path.name for path in dataset.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.patch_size=[16,16]"], r"data\.patch_size=\[16, 16\] has 2 axes"),
        (["data.patch_size=[16,16,0]"], "patch_size"),
        (["data.configuration=4d"], "4d"),
        (["data.batch_size=2", "trainer.devices=3", "trainer.strategy=ddp"], "A batch of 2 is too small for 3"),
        (["+model.network.wrong=1"], r"model\.network\.wrong"),
    ],
)
def test_before_a_case_is_preprocessed(train, dataset: Path, monkeypatch, overrides, message: str) -> None:
    forbid(monkeypatch, NO_STORE)
    with pytest.raises(ValueError, match=message):
        start(train, dataset, *overrides)


def test_a_plan_that_was_edited_to_other_blocks(train, dataset: Path, monkeypatch) -> None:
    with pytest.raises(pytest.fail.Exception, match="trains"):
        forbid(monkeypatch)
        start(train, dataset)
    path = dataset.parents[1] / "prepared" / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"]["3d_fullres"]["n_conv_per_stage"][0] = 5
    path.write_text(json.dumps(plan))
    forbid(monkeypatch, NO_CASE, NO_STORE)
    with pytest.raises(ValueError, match="n_conv_per_stage"):
        start(train, dataset)


def test_the_doctor_writes_into_no_raw_data_set(dataset: Path) -> None:
    for output in (dataset, dataset.parent, dataset / "labelsTr" / "doctor"):
        line = ["-m", "umamba.datamodules.doctor", "data=custom", f"data.dataset_dir={dataset}", f"output={output}"]
        result = warm_start.run(*line, cwd=dataset.parents[1])
        assert result.returncode == 2 and f"output={output}" in result.stderr.replace("\n", ""), result.stderr
    assert sorted(path.name for path in dataset.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]
