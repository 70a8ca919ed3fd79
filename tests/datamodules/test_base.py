"""The data module from raw files to batches: 3D, 2D, 2D on 3D, workers, resuming, and what users can get wrong."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from hydra.utils import instantiate
from omegaconf import OmegaConf
from skimage import io as skio

from tests.composed import composed
from tests.datamodules.recorder import Recorder
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.patches import PatchDataset

CONFIGS = str(Path(__file__).parents[2] / "configs")
SMALL = {"iterations_per_epoch": 4, "val_iterations": 2, "seed": 3}


def _write_volume(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def _describe(folder: Path, channels: list[str], labels: dict[str, int], ending: str) -> None:
    names = {str(i): name for i, name in enumerate(channels)}
    content = {"channel_names": names, "labels": labels, "numTraining": 6, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content))


def _make_volumes(folder: Path) -> None:
    """Six volumes of noise with a block of class 1 and a corner of class 2; in the last one there is nothing."""
    rng = np.random.default_rng(0)
    for split, count in (("Tr", 6), ("Ts", 2)):
        for i in range(count):
            label = np.zeros((20, 26, 24), np.uint8)
            if i < 5:
                label[5:12, 6 : 16 + i, 6:18] = 1
                label[-3:, -4:, -4:] = 2
            image = rng.normal(size=label.shape).astype(np.float32) + 3 * label + 10
            _write_volume(folder / f"images{split}/case_{i}_0000.nii.gz", image)
            _write_volume(folder / f"labels{split}/case_{i}.nii.gz", label)
    _describe(folder, ["MR"], {"background": 0, "block": 1, "corner": 2}, ".nii.gz")


class BlockDataModule(SegmentationDataModule):
    """All that a new data set needs: where it comes from, and how it is scored."""

    nsd_tolerance = 1.0  # mm

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        _make_volumes(self.dataset_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


def _blocks(folder: Path, **settings) -> BlockDataModule:
    arguments = {"dataset_dir": folder / "raw", "prepared_dir": folder / "prepared", **SMALL, **settings}
    datamodule = BlockDataModule(**arguments)
    datamodule.prepare_data()
    return datamodule


def _augmentation(name: str = "nnunet_21", *overrides: str):
    return instantiate(composed("train", [f"augmentation={name}", *overrides]).augmentation)


def _fingerprints(loader) -> list[tuple[float, int, tuple[str, ...]]]:
    return [(b["image"].double().sum().item(), int(b["label"].sum()), tuple(b["case"])) for b in loader]


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("augmentation", ["nnunet_21", "nnunet_28", "none"])
def test_batches_of_a_volume_data_set(folder: Path, configuration: str, augmentation: str) -> None:
    datamodule = _blocks(folder, configuration=configuration, augmentation=_augmentation(augmentation))
    expected = datamodule.plan_configuration
    assert expected.spatial_dims == (2 if configuration == "2d" else 3)
    for loader, batches in ((datamodule.train_dataloader(), 4), (datamodule.val_dataloader(), 2)):
        assert len(loader) == batches == len(list(loader))
        for batch in loader:
            assert batch["image"].shape == (expected.batch_size, 1, *expected.patch_size)
            assert batch["image"].dtype == torch.float32 and batch["image"].isfinite().all()
            assert batch["label"].shape == (expected.batch_size, *expected.patch_size)
            assert batch["label"].dtype == torch.int16 and set(batch["label"].unique().tolist()) <= {0, 1, 2}
            assert len(batch["case"]) == expected.batch_size and set(batch["case"]) <= set(datamodule.store.identifiers)


def test_batches_do_not_depend_on_workers_or_on_what_was_drawn_before(folder: Path) -> None:
    settings = {"augmentation": _augmentation(), "oversample": 0.5}
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    alone = _fingerprints(_blocks(folder, num_workers=0, **settings).train_dataloader())
    assert torch.equal(torch.random.get_rng_state(), state)  # the network's own draws are not disturbed
    torch.manual_seed(2)
    shared = _blocks(folder, num_workers=2, **settings)
    loader = shared.train_dataloader()
    assert _fingerprints(loader) == alone
    loader.sampler.set_epoch(1)
    assert _fingerprints(loader) != alone
    validation = shared.val_dataloader()
    first = _fingerprints(validation)
    validation.sampler.set_epoch(1)
    assert _fingerprints(validation) == first
    assert _fingerprints(_blocks(folder, **settings | {"seed": 4}).train_dataloader()) != alone


@pytest.mark.parametrize("augmentation", ["nnunet_21", "nnunet_28"])
def test_samples_do_not_depend_on_torchs_threads(folder: Path, augmentation: str) -> None:
    # 40^3 voxels: torch shares sums of more than 32768 elements among its threads
    loader = _blocks(folder, augmentation=_augmentation(augmentation), patch_size=(40, 40, 40)).train_dataloader()
    threads = torch.get_num_threads()
    samples = {}
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            samples[number] = [loader.dataset[index]["image"] for index in range(24)]
            assert torch.get_num_threads() == number, "a sample must leave the main process as it was"
    finally:
        torch.set_num_threads(threads)
    assert [torch.equal(one, other) for one, other in zip(*samples.values(), strict=True)] == [True] * 24


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_forced_patches_hold_foreground_and_a_case_without_any_is_no_problem(folder: Path, configuration: str) -> None:
    settings = {"fold": "all", "oversample": 1.0, "iterations_per_epoch": 20}
    patch_size = (8, 8, 8) if configuration == "3d_fullres" else (8, 8)
    datamodule = _blocks(folder, configuration=configuration, patch_size=patch_size, **settings)
    seen = set()
    for batch in datamodule.train_dataloader():
        for label, case in zip(batch["label"], batch["case"], strict=True):
            assert bool(label.any()) == (case != "case_5")
            assert case == "case_5" or label[(4,) * label.ndim] > 0 or 2 in label  # centred, but for the far corner
            seen.add(case)
    assert seen == set(datamodule.store.identifiers)


def test_patch_and_batch_size_can_be_chosen_and_become_the_plan(folder: Path) -> None:
    datamodule = _blocks(folder, patch_size=[8, 16, 8], batch_size=3)
    assert datamodule.plan_configuration.patch_size == (8, 16, 8) and datamodule.plan_configuration.batch_size == 3
    assert datamodule.plan.configuration("3d_fullres") == datamodule.plan_configuration
    assert next(iter(datamodule.train_dataloader()))["image"].shape == (3, 1, 8, 16, 8)
    with pytest.raises(ValueError, match="patch_size"):
        _blocks(folder, patch_size=[8, 15, 7])


def test_a_torchio_transform_is_added_in_yaml(folder: Path) -> None:
    spike = "+augmentation.spike={_target_: torchio.RandomSpike, p: 1.0, intensity: [2.0, 3.0]}"
    plain = _blocks(folder, augmentation=_augmentation("none")).train_dataloader()
    spiked = _blocks(folder, augmentation=_augmentation("none", spike)).train_dataloader()
    for before, after in zip(plain, spiked, strict=True):
        assert after["image"].shape == before["image"].shape and torch.equal(before["label"], after["label"])
        assert (after["image"] - before["image"]).abs().max() > 0.1
    entries = _augmentation("nnunet_21", spike, "~augmentation.gamma")
    assert list(entries)[-2:] == ["mirror", "spike"] and "gamma" not in entries


def test_the_documented_augmentation_works(folder: Path) -> None:
    text = (Path(CONFIGS).parent / "docs" / "augmentation.md").read_text()
    example = OmegaConf.create(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert list(example.pop("defaults")) == ["nnunet_21", "_self_"]
    added = instantiate(example)
    for entry in added.values():
        entry.probability = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # this small patch may fold
        for batch in _blocks(folder, augmentation={**_augmentation(), **added}).train_dataloader():
            assert batch["image"].isfinite().all() and set(batch["label"].unique().tolist()) <= {0, 1, 2}
    for command in re.findall(r"python train.py (.*?)(?:  #.*)?\n", text):
        overrides = [part for part in shlex.split(command) if "augmentation" in part]
        instantiate(composed("train", overrides=overrides).augmentation)


def test_folds_test_cases_and_splits_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    datamodule = _blocks(folder)
    assert sorted((*datamodule.train_ids, *datamodule.val_ids)) == [f"case_{i}" for i in range(6)]
    assert [case.identifier for case in datamodule.test_cases] == ["case_0", "case_1"]
    assert all(case.label is not None for case in datamodule.test_cases)
    (folder / "prepared" / "splits_final.json").write_text('[{"train": ["case_0"], "val": ["case_1", "case_2"]}]')
    try:
        assert _blocks(folder).val_ids == ("case_1", "case_2")
    finally:
        (folder / "prepared" / "splits_final.json").unlink()
    datamodule.raw = SimpleNamespace(test_cases=(), training_cases=datamodule.raw.training_cases)
    assert tuple(case.identifier for case in datamodule._choose_test_cases()) == datamodule.val_ids


def test_processes_share_a_batch(folder: Path) -> None:
    settings = {"batch_size": 5, "patch_size": (8, 8, 8)}
    whole = [set(batch) for _, _, batch in _fingerprints(_blocks(folder, **settings).train_dataloader())]
    shares = []
    for rank in range(2):
        datamodule = _blocks(folder, **settings)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=2, fit_loop=trainer.fit_loop)
        shares.append([batch for _, _, batch in _fingerprints(datamodule.train_dataloader())])
    assert [len(batch) for share in shares for batch in share] == [3] * 4 + [2] * 4
    assert [set(a) | set(b) for a, b in zip(*shares, strict=True)] == whole


def _fit(folder: Path, log: Path, *, workers: int = 0, checkpoint: Path | None = None, **trainer_settings) -> Recorder:
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=log,
        use_distributed_sampler=False, num_sanity_val_steps=0, enable_checkpointing=False, **trainer_settings,
    )  # fmt: skip
    trainer.fit(module, _blocks(folder, augmentation=_augmentation(), num_workers=workers), ckpt_path=checkpoint)
    if checkpoint is None and "callbacks" not in trainer_settings:
        trainer.save_checkpoint(log / "last.ckpt", weights_only=False)
    return module


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(folder: Path, tmp_path: Path, workers: int) -> None:
    whole = _fit(folder, tmp_path / "whole", max_epochs=3).seen
    assert len(set(whole)) == 12  # every batch is another one
    first = _fit(folder, tmp_path, max_epochs=1, workers=workers).seen
    second = _fit(folder, tmp_path, max_epochs=3, workers=workers, checkpoint=tmp_path / "last.ckpt").seen
    assert first + second == whole


class _Stop(L.Callback):
    """Saves a checkpoint in a hook at a step and ends the run there, as a pre-empted job does."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def stop(trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == step:
                trainer.save_checkpoint(path)
                raise KeyboardInterrupt

        setattr(self, hook, stop)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("hook", "step"), [("on_train_batch_end", 6), ("on_validation_end", 8), ("on_train_epoch_end", 4)]
)
def test_a_run_resumed_from_any_hook_goes_on_with_the_next_batch(
    folder: Path, tmp_path: Path, hook: str, step: int, workers: int
) -> None:
    whole = _fit(folder, tmp_path / "whole", max_epochs=3).seen
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(SystemExit):
        _fit(folder, tmp_path, max_epochs=3, workers=workers, callbacks=[_Stop(hook, step, path)])
    assert _fit(folder, tmp_path, max_epochs=3, workers=workers, checkpoint=path).seen == whole[step:]


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_sees_the_same_batches_in_every_epoch(folder: Path, tmp_path: Path) -> None:
    seen = _fit(folder, tmp_path, max_epochs=2, overfit_batches=2).seen
    batches = [value for _, value in seen]
    assert len(batches) == 4 and batches[:2] == batches[2:] and batches[0] != batches[1]


def test_outside_of_the_mask_data_are_zero_and_labels_background() -> None:
    label = np.full((1, 12, 12), -1, np.int16)
    label[:, 3:9, 3:9] = 1
    image = np.full((2, 1, 12, 12), 5, np.float32)
    case = SimpleNamespace(
        data=image, label=label, previous=None, class_locations={1: np.array([[0, 6, 6]])}, annotated_locations=()
    )
    configuration = SimpleNamespace(
        patch_size=(12, 12), batch_size=2, spacing=(999.0, 0.5, 0.5), spatial_dims=2, use_mask_for_norm=(True, False)
    )
    noise = tio.RandomNoise(std=(1, 1))
    store = SimpleNamespace(case=lambda identifier: case)
    sample = PatchDataset(store, ["a"], configuration=configuration, transforms=[noise])[0]
    outside = torch.from_numpy(label[0] < 0)
    assert not sample["image"][0][outside].any() and sample["image"][1][outside].all()
    assert torch.equal(sample["label"], (~outside).to(torch.int16))
    assert (image == 5).all()  # what was read is not changed


def test_a_subject_knows_the_spacing(folder: Path) -> None:
    seen = []
    datamodule = _blocks(folder, configuration="2d", augmentation=[tio.Lambda(lambda x: x)])
    dataset = datamodule.train_dataloader().dataset
    dataset.transforms = (lambda subject: seen.append(subject.spacing) or subject,)
    dataset[0]
    assert seen == [(1.0, 1.0, 1.0)] and datamodule.plan_configuration.spacing[-2:] == (1.0, 1.0)


@pytest.mark.parametrize("workers", [0, 1])  # torch waits 5 s for each worker that has failed
def test_an_error_in_a_worker_names_the_case(folder: Path, workers: int) -> None:
    wrong = {"pad": tio.Pad(3)}
    loader = _blocks(folder, augmentation=wrong, num_workers=workers).train_dataloader()
    with pytest.raises(RuntimeError, match=r"Sample 0 failed, a patch of case 'case_\d': the augmentation must give"):
        next(iter(loader))


def test_a_partial_that_is_none_of_ours(folder: Path) -> None:
    wrong = {"noise": {"_target_": "torchio.RandomNoise", "_partial_": True}}
    with pytest.raises(ValueError, match="torchio transform, or a `_partial_: true` one that takes patch_size"):
        _blocks(folder, augmentation=instantiate(wrong))


def test_settings_that_cannot_be(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data.planning has unknown keys \['memry_gb'\]; allowed are \['rule'"):
        _blocks(folder, planning={"memry_gb": 8})
    with pytest.raises(ValueError, match="data.oversample is a share of the batch, 0 to 1; it is 33"):
        _blocks(folder, oversample=33)
    with pytest.raises(ValueError, match=r"data\.batch_size=0: expected a whole number from 1"):
        _blocks(folder, batch_size=0)
    with pytest.raises(ValueError, match="has no configuration '3d'; it has 2d"):
        _blocks(folder, configuration="3d")


def test_missing_raw_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no raw data set at .*nowhere.*data.dataset_dir"):
        SegmentationDataModule(dataset_dir=tmp_path / "nowhere", prepared_dir=tmp_path / "new").prepare_data()


def test_rgb_pictures_with_an_ignore_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        label = np.full((40, 48), 2, np.uint8)  # ignored but for a strip
        label[10:14] = 0
        label[10:14, 10 : 20 + i] = 1
        image = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        for kind, array, name in (("images", image, f"c{i}_0000.png"), ("labels", label, f"c{i}.png")):
            (tmp_path / f"{kind}Tr").mkdir(exist_ok=True)
            skio.imsave(tmp_path / f"{kind}Tr" / name, array, check_contrast=False)
    _describe(tmp_path, ["R", "G", "B"], {"background": 0, "cell": 1, "ignore": 2}, ".png")
    datamodule = SegmentationDataModule(
        dataset_dir=tmp_path, prepared_dir=tmp_path / "prepared", configuration="2d", patch_size=(16, 16), batch_size=6,
        augmentation=_augmentation(), **SMALL,
    )  # fmt: skip
    datamodule.prepare_data()
    for batch in datamodule.train_dataloader():
        assert batch["image"].shape == (6, 3, 16, 16) and batch["label"].shape == (6, 16, 16)
        assert set(batch["label"].unique().tolist()) == {0, 1, 2}
    for batch in datamodule.val_dataloader():
        assert ((batch["label"] == 2).float().mean(dim=(1, 2)) < 1).all()  # centred on something annotated
    assert [case.identifier for case in datamodule.test_cases] == list(datamodule.val_ids)
