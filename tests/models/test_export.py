"""An exported file predicts as its checkpoint does, and holds no optimiser state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from test_hostile_checkpoints import sound

from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
from umamba.models.export import export_bundle, main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    content = sound()
    momentum = {i: {"momentum_buffer": tensor.clone()} for i, tensor in enumerate(content["state_dict"].values())}
    torch.save({**content, "optimizer_states": [{"state": momentum}], "callbacks": {}}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_the_bundle_gives_the_same_network(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "out" / "bundle.ckpt")
    assert bundle.stat().st_size < 0.6 * checkpoint.stat().st_size
    assert not {"optimizer_states", "callbacks"} & set(torch.load(bundle, weights_only=True))
    (ours, plan), (theirs, _) = (network_from_checkpoint(load_checkpoint(one)) for one in (bundle, checkpoint))
    image = torch.randn(1, 1, *plan.configuration("3d_fullres").patch_size)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


def test_the_checkpoint_is_not_overwritten(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="output is the checkpoint itself"):
        export_bundle(checkpoint, checkpoint)


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="format is 'onnx'; this version writes bundle"):
        main.__wrapped__(OmegaConf.create({"format": "onnx"}))
