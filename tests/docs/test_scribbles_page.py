"""The page's scribbles of dense labels, on real ones: trained on the CPU, and what is ignored changes nothing."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import make_pictures, make_volumes
from pages import PAGES, blocks, name_of

from umamba.datamodules.custom import CustomDataModule
from umamba.evaluation.standard import score_semantic
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.unet import PlainConvUNet
from umamba.raw.dataset import RawDataset
from umamba.raw.readers import read_label

CASES = 6


def derive(dense: Path, folder: Path) -> RawDataset:
    """Run the page's example."""
    (page,) = [page for page in PAGES if name_of(page) == "docs/how_to/regions.md"]
    (block,) = [block for block in blocks(page) if block.language == "python"]
    text = block.text.replace("raw/Dataset712_Dense", str(dense)).replace("raw/Dataset812_Scribbles", str(folder))
    exec(compile(text, str(page), "exec"), {})
    return RawDataset.open(folder)


def check_scribbles(dense: Path, sparse: RawDataset) -> None:
    for case in sparse.training_cases:
        before, _ = read_label(dense / "labelsTr" / case.label_file.name)
        now, _ = read_label(case.label_file)
        kept = now != sparse.ignore_label
        assert kept.mean() < 0.3 and (now[kept] == before[kept]).all() and (now[kept] > 0).any()
        assert (now == 0).any()  # a network needs background too


@pytest.mark.parametrize("make", [make_volumes, make_pictures])
def test_the_example_makes_scribbles(make, tmp_path: Path) -> None:
    dense = make(tmp_path / "Dataset901_Dense")
    check_scribbles(dense, derive(dense, tmp_path / "Dataset902_Scribbles"))


@pytest.mark.data
def test_what_is_ignored_of_real_hearts_changes_nothing(real_data: Path, tmp_path: Path) -> None:
    """Loss, gradients, pseudo Dice and scores, exactly, of a network that was trained a few steps."""
    source = real_data / "Dataset712_Cardiac100"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    dense = tmp_path / "Dataset901_Dense"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))[:CASES]
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (dense / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(source / kind / f"{name}{ending}", dense / kind)
    content = json.loads((source / "dataset.json").read_text()) | {"numTraining": CASES}
    (dense / "dataset.json").write_text(json.dumps(content))
    raw = derive(dense, tmp_path / "Dataset902_Scribbles")
    check_scribbles(dense, raw)
    ignore = raw.ignore_label

    data = CustomDataModule(
        dataset_dir=raw.folder, prepared_dir=tmp_path / "prepared", planning={"base_features": 4}, batch_size=2,
        patch_size=[8, 64, 64], iterations_per_epoch=6, val_iterations=1,
    )  # fmt: skip
    data.prepare_data()
    torch.manual_seed(0)
    module = SegmentationModule(
        plan=data.plan, configuration=data.configuration, network=partial(PlainConvUNet),
        optimizer=partial(torch.optim.SGD, lr=0.01), scheduler=poly,
    )  # fmt: skip
    optimizer, losses = torch.optim.SGD(module.network.parameters(), lr=0.01, momentum=0.9), []
    for batch in data.train_dataloader():
        assert (batch["label"] == ignore).float().mean() > 0.5 and (batch["label"] != ignore).any()
        optimizer.zero_grad()
        loss = module.loss(module.network(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and np.mean(losses[-2:]) < losses[0]

    (batch,) = data.val_dataloader()
    ignored = batch["label"] == ignore
    outputs = [out.detach().requires_grad_() for out in module.network(batch["image"])]
    module.loss(outputs, batch["label"]).backward()
    everywhere = ignored.unsqueeze(1).expand_as(outputs[0])
    assert not outputs[0].grad[everywhere].any() and outputs[0].grad[~everywhere].any()
    noise = torch.randn_like(outputs[0]) * 50
    others = [torch.where(everywhere, noise, outputs[0]).detach(), *(out.detach() for out in outputs[1:])]
    plain = [out.detach() for out in outputs]
    assert torch.equal(module.loss(plain, batch["label"]), module.loss(others, batch["label"]))
    found = []
    for output in (plain[0], others[0]):
        module.pseudo_dice.reset()
        module.pseudo_dice.update(output, batch["label"])
        found.append(module.pseudo_dice.compute())
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)

    reference, geometry = read_label(raw.training_cases[0].label_file)
    random = np.random.default_rng(0)
    prediction = random.integers(0, 4, reference.shape)
    perturbed = np.where(reference == ignore, random.integers(0, 4, reference.shape), prediction)
    assert (prediction != perturbed).any()
    labels = {name: value for name, value in raw.labels.items() if value}
    one, other = (
        score_semantic(reference, label, geometry.spacing, labels, dict.fromkeys(labels, 2.0), ignore)
        for label in (prediction, perturbed)
    )
    assert one == other
