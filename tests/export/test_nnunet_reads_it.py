"""nnunetv2 itself predicts with what was written for it; skips where it is not installed (it brings a torch along)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.made import save
from tests.inference.small import write_image
from umamba.export.given import read_given
from umamba.export.model_folder import write_model_folder
from umamba.inference.predictor import Predictor
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint

# nnU-Net sums up windows in float16: where two classes are this close it may take the other one. In the corners of a
# volume its float16 weights have one bit left; so the image is one window, and weighs all of it alike.
UNDECIDED = 0.01
SHAPE = (15, 16, 13)  # the patch is 16, 16, 16


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    return pytest.importorskip(
        "nnunetv2.inference.predict_from_raw_data", reason="nnunetv2 is not installed", exc_type=ImportError
    )


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("network", ["nnunet", "resenc"])
def test_label_maps_of_nnunet_are_ours(network: str, configuration: str, peer, tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    checkpoint = save(tmp_path / "last.ckpt", f"model={network}", configuration=configuration, fold=2)
    folder = tmp_path / "out" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    write_model_folder(read_given(str(checkpoint)), folder)
    files = [write_image(tmp_path / f"case_{c:04d}.nii.gz", SHAPE, seed=c) for c in (0, 1)]
    image, properties = SimpleITKIO().read_images([str(path) for path in files])
    for mirror in (False, True):
        theirs = peer.nnUNetPredictor(
            use_gaussian=False, use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False
        )
        theirs.initialize_from_trained_model_folder(str(folder), None, "checkpoint_final.pth")
        assert theirs.list_of_parameters and theirs.trainer_name == "nnUNetTrainer"
        found = theirs.predict_single_npy_array(image, properties, None, None, False)
        ours = Predictor.from_checkpoint(checkpoint, "cpu", mirror)
        label, probabilities = ours.segment(image, (1.0, 1.0, 1.0), probabilities=True)
        best = np.sort(probabilities.astype(np.float32), axis=0)
        assert not ((found != label) & (best[-1] - best[-2] > UNDECIDED)).any()
        assert (found != label).mean() < 0.01 and len(np.unique(label)) > 1
    network_here, plan = network_from_checkpoint(load_checkpoint(checkpoint))
    patch = torch.randn(1, 2, *plan.configuration(configuration).patch_size)
    with torch.no_grad():
        torch.testing.assert_close(theirs.network.eval()(patch), network_here(patch), rtol=0, atol=1e-5)
