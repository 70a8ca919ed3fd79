"""The examples of docs/extending.md and docs/networks.md, as they are printed there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]


def printed_files() -> dict[str, str]:
    """Path -> content of every block that follows a line with a path in backquotes."""
    text = (ROOT / "docs" / "extending.md").read_text()
    return dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("code", "config"),
    [
        ("src/models/mamba/running_mean.py", "configs/model/umamba_mean.yaml"),
        ("src/models/mamba/snake.py", "configs/model/umamba_snake.yaml"),
    ],
)
def test_one_file_and_one_yaml(code: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = printed_files()
    (tmp_path / "code.py").write_text(files[code])
    module_name = code.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(module_name, tmp_path / "code.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module_name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(f"umamba.models.mamba.{module_name.rsplit('.', 1)[1]}", module, raising=False)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / Path(config).name).write_text(files[config])
    for shipped in (ROOT / "configs" / "model").glob("*.yaml"):
        (tmp_path / "model" / shipped.name).write_text(shipped.read_text())
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        model = compose(overrides=[f"+model={Path(config).stem}"]).model
    assert OmegaConf.missing_keys(model) == set()
    network = instantiate(model.network)(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        features_per_stage=(4, 6),
        kernel_sizes=(3, 3),
        strides=(1, 2),
        patch_size=(6, 10),
        deep_supervision=False,
    )
    layer = network.encoder_stages[1].mamba
    if "snake" in code:
        raster = torch.arange(6.0).reshape(1, 6, 1)
        arranged = layer.directions[0].arrange(raster, (2, 3))
        assert arranged.flatten().tolist() == [0, 1, 2, 5, 4, 3]
        assert torch.equal(layer.directions[0].restore(arranged, (2, 3)), raster)
    else:
        assert layer.mixers[0].out_proj.bias is not None
    network(torch.randn(1, 1, 6, 10)).mean().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_stand_alone_example_of_the_network_page() -> None:
    text = (ROOT / "docs" / "networks.md").read_text()
    (example,) = re.findall(r"```python\n(import torch\n.*?)```", text, re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["logits"].shape == (1, 14, 32, 32, 32)
