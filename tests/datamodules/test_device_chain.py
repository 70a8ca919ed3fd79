"""The whole augmentation on the device: the CPU's patches, the same for any workers, in its place among the user's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import torchio as tio
from hydra.utils import instantiate
from miniatures import make_pictures, make_volumes
from scipy import stats

from tests.composed import composed
from tests.datamodules.recorder import Recorder
from umamba.datamodules.augmentation.device.chain import DeviceChain
from umamba.datamodules.augmentation.spatial import RandomRotationScaling
from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.patches import PatchDataset
from umamba.datamodules.placement import NEVER

CPU = torch.device("cpu")
DEVICE = 0  # as the number of the first sample for the device


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("device_chain")
    make_volumes(folder / "volumes" / "raw", channels=("CT", "MR"), labels=("liver", "spleen"),
                 present=lambda case, label: label == 1 or case % 2 == 0)  # fmt: skip
    make_pictures(folder / "pictures" / "raw")
    return {"volumes": folder / "volumes", "pictures": folder / "pictures"}


def augmentation(name: str, *overrides: str) -> dict:
    return instantiate(composed("train", [f"augmentation={name}", *overrides]).augmentation)


def make(folder: Path, first: int, **settings) -> SegmentationDataModule:
    arguments = {"iterations_per_epoch": 4, "val_iterations": 2, "seed": 3, "batch_size": 4, **settings}
    datamodule = SegmentationDataModule(dataset_dir=folder / "raw", prepared_dir=folder / "prepared", **arguments)
    datamodule.prepare_data()
    datamodule.placement.first.fill_(first)  # as if there were a GPU
    return datamodule


def finished(datamodule: SegmentationDataModule, device: torch.device = CPU) -> list[dict]:
    return [datamodule.transfer_batch_to_device(batch, device, 0) for batch in datamodule.train_dataloader()]


SETTINGS = {
    "3D": ("volumes", {"configuration": "3d_fullres", "patch_size": (16, 16, 16)}),
    "anisotropic": ("volumes", {"configuration": "3d_fullres", "patch_size": (4, 16, 20)}),
    "2D": ("volumes", {"configuration": "2d", "patch_size": (16, 24)}),
    "pictures": ("pictures", {"configuration": "2d", "patch_size": (32, 32)}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["nnunet_21", "nnunet_28", "none"])
def test_but_for_the_noise_batches_are_the_cpus(folders: dict[str, Path], name: str, setting: str) -> None:
    kind, arguments = SETTINGS[setting]
    chosen = {"augmentation": augmentation(name), "iterations_per_epoch": 12, **arguments}
    if name != "none":
        chosen["augmentation"]["noise"] = tio.RandomNoise(p=0.1, std=(0, 0))  # whose draws are in their place
    cpu, device = (finished(make(folders[kind], first, **chosen)) for first in (NEVER, DEVICE))
    for expected, batch in zip(cpu, device, strict=True):
        assert batch.keys() == expected.keys() and batch["case"] == expected["case"]
        torch.testing.assert_close(batch["image"], expected["image"], atol=1e-4, rtol=0)
        assert torch.equal(batch["label"], expected["label"])  # in their type too


def test_batches_do_not_depend_on_workers(folders: dict[str, Path]) -> None:
    settings = {"augmentation": augmentation("nnunet_21"), "patch_size": (16, 16, 16)}
    one, two = (finished(make(folders["volumes"], DEVICE, num_workers=workers, **settings)) for workers in (0, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"]) and a["case"] == b["case"]


def test_the_device_begins_with_a_certain_sample(folders: dict[str, Path]) -> None:
    settings = {"augmentation": augmentation("nnunet_21"), "patch_size": (16, 16, 16), "num_workers": 2}
    datamodule = make(folders["volumes"], NEVER, **settings)
    loader = datamodule.train_dataloader()
    assert ["pending" in batch for batch in loader] == [False] * 4
    datamodule.placement.first.fill_(6 * 4)  # while the workers live
    loader.sampler.set_epoch(1)
    assert ["pending" in batch for batch in loader] == [False, False, True, True]
    assert not any("pending" in batch for batch in datamodule.val_dataloader())


def test_only_what_is_turned_is_read_in_large(folders: dict[str, Path]) -> None:
    datamodule = make(folders["volumes"], DEVICE, augmentation=augmentation("nnunet_21"), patch_size=(8, 8, 8))
    seen = set()
    for index in range(20):
        sample = datamodule.train_dataloader().dataset[index]
        turned = sample["draws"][0] is not None
        assert sample["image"].shape[1:] == (datamodule._transforms[0].input_size if turned else (8, 8, 8))
        seen.add(turned)
    assert seen == {True, False}


def test_a_transform_without_a_version_for_the_device_runs_in_the_worker(folders: dict[str, Path]) -> None:
    spike = "+augmentation.spike={_target_: torchio.RandomSpike, p: 1.0, intensity: [2.0, 3.0]}"
    entries = augmentation("nnunet_21", "augmentation.noise.std=[0,0]", spike)
    entries["after"] = tio.RandomNoise(std=(0, 0))
    order = [*entries]
    for place, on_device in ((0, 10), (4, 6), (9, 1)):  # before the rotation, among the others, after the mirror
        names = [name for name in order if name != "spike"]
        names.insert(place, "spike")
        settings = {"augmentation": {name: entries[name] for name in names}, "patch_size": (16, 16, 16)}
        device = make(folders["volumes"], DEVICE, **settings)
        assert len(device._chain.stages) == on_device
        for expected, batch in zip(
            finished(make(folders["volumes"], NEVER, **settings)), finished(device), strict=True
        ):
            torch.testing.assert_close(batch["image"], expected["image"], atol=2e-4, rtol=1e-4)
            assert torch.equal(batch["label"], expected["label"])


def test_what_counts_as_a_version_for_the_device() -> None:
    class OwnNoise(tio.RandomNoise):
        pass

    for noise in (OwnNoise(), tio.RandomNoise(exclude=["label"]), tio.RandomNoise(keep={"image": "before"})):
        chain = DeviceChain([tio.RandomNoise(), noise, tio.RandomNoise()], (8, 8))
        assert len(chain.stages) == 1 and chain.without_stage == (noise,)
    rotation = RandomRotationScaling((8, 8))
    assert len(DeviceChain([tio.RandomNoise(), rotation, tio.RandomNoise()], (8, 8)).in_worker) == 1
    assert DeviceChain([rotation], (8, 16)).without_stage == (rotation,)  # which the worker refuses, as without a GPU


def _patches(shape: tuple[int, ...], first: int, noise: tio.RandomNoise, count: int) -> list[torch.Tensor]:
    """Patches of an image of zeros, with noise."""
    flat = (1,) * (3 - len(shape)) + shape
    case = SimpleNamespace(
        data=np.zeros((1, *flat), np.float32),
        label=np.zeros(flat, np.int16),
        class_locations={},
        annotated_locations=(),
        previous=None,
    )
    configuration = SimpleNamespace(
        patch_size=shape, batch_size=1, spacing=(1.0,) * 3, spatial_dims=len(shape), use_mask_for_norm=(False,)
    )
    chain = DeviceChain([noise], shape)
    dataset = PatchDataset(
        SimpleNamespace(case=lambda identifier: case), ["a"], configuration=configuration, transforms=[noise],
        chain=chain, first_on_device=torch.tensor(first),
    )  # fmt: skip
    samples = [dataset[index] for index in range(count)]
    if first == NEVER:
        return [sample["image"] for sample in samples]
    return list(chain.apply(chain.collate(samples)["pending"])["image"])


def test_noise_has_the_drawn_strength_and_is_normal() -> None:
    noise = tio.RandomNoise(mean=(1, 2), std=(0.5, 3))
    cpu, device = (_patches((20, 20), first, noise, 40) for first in (NEVER, DEVICE))
    for a, b in zip(cpu, device, strict=True):  # the same strength, other numbers (here: the same generator's)
        spread = 5 / 20  # five standard errors, in standard deviations
        assert abs(float(a.mean() - b.mean())) < 1.5 * spread * float(a.std())
        assert abs(float(a.std() / b.std()) - 1) < spread
    pooled = torch.stack([(patch - patch.mean()) / patch.std() for patch in device]).flatten()
    assert stats.kstest(pooled.numpy(), "norm").pvalue > 0.001
    assert not torch.equal(device[0], device[1])


def _described(batches: list[dict]) -> np.ndarray:
    """Numbers of each patch that depend on every transform, (numbers, patches)."""
    images = torch.cat([batch["image"][:, 0] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    flat = images.flatten(1)
    rough = [images.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(1, images.ndim)]
    share = (labels == 1).flatten(1).float().mean(1)
    return torch.stack([flat.mean(1), flat.std(1), flat.amin(1), flat.amax(1), *rough, share]).numpy()


@pytest.mark.parametrize("setting", ["3D", "2D"])
def test_other_samples_are_of_the_cpus_distribution(folders: dict[str, Path], setting: str) -> None:
    kind, arguments = SETTINGS[setting]
    chosen = {"augmentation": augmentation("nnunet_21"), "iterations_per_epoch": 75, **arguments}
    cpu = _described(finished(make(folders[kind], NEVER, seed=1, **chosen)))
    device = _described(finished(make(folders[kind], DEVICE, seed=2, **chosen)))
    assert cpu.shape == device.shape and cpu.shape[1] == 300
    p_values = [stats.ks_2samp(a, b).pvalue for a, b in zip(cpu, device, strict=True)]
    assert min(p_values) > 0.001, p_values
    assert stats.ks_2samp(cpu[1], 1.1 * device[1]).pvalue < 0.001  # as much would be seen


class _Stop(L.Callback):
    """Saves a checkpoint after a step and ends the run there."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise KeyboardInterrupt


def _fit(folder: Path, first: int, *, checkpoint: Path | None = None, callbacks: tuple = ()) -> list[tuple[int, float]]:
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
        default_root_dir=folder, use_distributed_sampler=False, enable_checkpointing=False, max_epochs=3,
    )  # fmt: skip
    datamodule = make(folder, first, augmentation=augmentation("nnunet_21"), patch_size=(16, 16, 16), num_workers=1)
    trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    return module.seen


def test_training_and_resuming_within_an_epoch(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = _fit(folders["volumes"], DEVICE)
    assert len(set(whole)) == 12
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(SystemExit):
        _fit(folders["volumes"], DEVICE, callbacks=(_Stop(6, path),))
    assert _fit(folders["volumes"], DEVICE, checkpoint=path) == whole[6:]
