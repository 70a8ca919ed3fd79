"""Network, augmentation and data set of docs/extending.md work as they are printed there.

Mixer and order are tried in tests/models/test_extending.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pages import ROOT, blocks, commands

from umamba.raw.dataset import RawDataset
from umamba.resolvers import register_resolvers
from umamba.targets import check_config

FILES = {block.title: block.text for block in blocks(ROOT / "docs" / "extending.md") if block.title}


def module_name(path: str) -> str:
    """Import name of a file below src/."""
    return "umamba." + path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def write_code(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a printed file under the name that it will have."""
    name = module_name(path)
    module = ModuleType(name)
    exec(compile(FILES[path], path, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    monkeypatch.setattr(importlib.import_module(parent), child, module, raising=False)
    return module


def compose_with(path: str, folder: Path, *overrides: str) -> DictConfig:
    """The configuration of train.py with a printed YAML file chosen in its group."""
    group, name = Path(path).parts[1], Path(path).stem
    written = folder / group / f"{name}.yaml"
    written.parent.mkdir(parents=True)
    written.write_text(FILES[path])
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        chosen = [f"hydra.searchpath=[file://{folder}]", f"{group}={name}", "paths.root=/nowhere", *overrides]
        return compose("train", chosen)


def printed_trust(path: str) -> list[str]:
    """What the page's commands trust of a printed file."""
    name = module_name(path)
    found = [words for words in commands(ROOT / "docs" / "extending.md") if f"trusted=[{name}]" in words]
    assert len(found) == 1, f"no command of the page trusts {name}"
    return [name]


def check_trust(config: DictConfig, code: str) -> None:
    """train.py and predict.py take the configuration with the page's ``trusted``, and refuse it without."""
    plain = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("model", "data")}
    check_config(plain, printed_trust(code))
    with pytest.raises(ValueError, match="trusted="):
        check_config(plain)


def test_every_printed_file_is_tried() -> None:
    assert set(FILES) == {
        "src/models/mamba/running_mean.py", "configs/model/umamba_mean.yaml",
        "src/models/mamba/snake.py", "configs/model/umamba_snake.yaml",
        "src/models/basic_unet.py", "configs/model/basic_unet.yaml",
        "src/datamodules/augmentation/inversion.py", "configs/augmentation/inverted.yaml",
        "src/datamodules/lungs.py", "configs/data/lungs.yaml",
    }  # fmt: skip


def test_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code("src/models/basic_unet.py", monkeypatch)
    config = compose_with("configs/model/basic_unet.yaml", tmp_path)
    check_trust(config, "src/models/basic_unet.py")
    model = instantiate(config.model)
    network = model.network(
        spatial_dims=2, in_channels=1, out_channels=3, features_per_stage=(4, 6), kernel_sizes=(3, 3), strides=(1, 2),
        patch_size=(30, 34), deep_supervision=model.deep_supervision,
    )  # fmt: skip
    logits = network(torch.randn(1, 1, 30, 34))
    assert logits.shape == (1, 3, 30, 34)
    logits.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_mixer_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code("src/models/mamba/running_mean.py", monkeypatch)
    config = compose_with("configs/model/umamba_mean.yaml", tmp_path)
    check_trust(config, "src/models/mamba/running_mean.py")


def test_an_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code("src/datamodules/augmentation/inversion.py", monkeypatch)
    config = compose_with("configs/augmentation/inverted.yaml", tmp_path, "augmentation.inversion.p=1")
    assert list(config.augmentation)[-1] == "inversion"
    image, label = torch.randn(2, 4, 5, 6), torch.ones(1, 4, 5, 6, dtype=torch.int16)
    subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))
    changed = instantiate(config.augmentation.inversion)(subject)
    assert torch.equal(changed.image.data, -image) and torch.equal(changed.label.data, label)


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code("src/datamodules/lungs.py", monkeypatch)
    source = tmp_path / "distributed as it is"
    source.mkdir()
    for name in ("a", "b"):
        for ending in ("", "_lung"):
            image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16))
            sitk.WriteImage(image, str(source / f"{name}{ending}.nii.gz"))
    target = tmp_path / "raw" / "Dataset201_Lungs"
    config = compose_with("configs/data/lungs.yaml", tmp_path / "configs", f"data.dataset_dir={target}")
    check_trust(config, "src/datamodules/lungs.py")
    datamodule = instantiate(config.data)
    with pytest.raises(FileNotFoundError, match="data=lungs source="):
        datamodule.make_raw()
    datamodule.make_raw(source)
    raw = RawDataset.open(target)
    assert [case.identifier for case in raw.training_cases] == ["a", "b"]
    assert dict(raw.labels) == {"background": 0, "lung": 1}
