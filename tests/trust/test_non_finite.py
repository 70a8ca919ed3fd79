"""NaN and Inf in weights, input, loss and a layer's output: named and recovered from, or stopped with the name."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from plant import PLACES, Plant

from umamba.callbacks.finite_watch import FiniteWatch
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.umamba import UMamba
from umamba.planning.plan import Plan

STEPS = 30  # of a training that does not get that far
PATIENCE = 5  # steps in a row before it stops
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NAMES = {  # what the message says
    "weights": "weight|parameter|layer", "input": "input", "loss": "loss", "layer": "layer",
}  # fmt: skip

each_precision = pytest.mark.parametrize("precision", PRECISIONS)
each_place = pytest.mark.parametrize("where", PLACES)
each_value = pytest.mark.parametrize(
    "value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)], ids=["nan", "inf"]
)


class Data(torch.utils.data.Dataset):
    """Patches of noise with a class that is bright, for so many steps of two."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return 2 * self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        label = (torch.rand(8, 16, 16, generator=generator) > 0.7).short()
        image = torch.randn(1, 8, 16, 16, generator=generator) + 2 * label
        return {"image": image, "label": label, "case": f"case_{index}"}


def module_of(plan: Plan) -> SegmentationModule:
    return SegmentationModule(
        plan=plan,
        configuration="3d_fullres",
        network=partial(UMamba, mamba="bottleneck"),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        scheduler=partial(poly, power=0.9),
    )


def fit(tmp_path: Path, plan: Plan, precision: str, plant: Plant, steps: int = STEPS) -> SegmentationModule:
    """Train one epoch on the CPU; under 16-mixed with a real gradient scaler."""
    torch.manual_seed(0)
    module = module_of(plan)
    plugins = []
    if precision == "16-mixed":
        plugins = [MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", precision=None if plugins else precision, plugins=plugins, logger=False,
        callbacks=[plant, FiniteWatch(patience=PATIENCE)], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, gradient_clip_val=12, limit_val_batches=0,
    )  # fmt: skip
    # On CPUs with avx512_bf16, oneDNN of torch 2.13 leaves parts of a bf16 convolution's weight gradient unwritten
    # (Conv3d(16, 16, 3) at 2 x 2 x 2 and 2 x 4 x 4 for example); here the values under test are to be the only ones.
    with torch.backends.mkldnn.flags(enabled=precision != "bf16-mixed"):
        trainer.fit(module, torch.utils.data.DataLoader(Data(steps), batch_size=2))
    return module


@pytest.fixture(scope="module")
def plan(prepared: Path) -> Plan:
    return Plan.load(prepared / "data" / "prepared" / "Dataset900_Phantom" / "plan.json")


@each_precision
@each_value
@pytest.mark.parametrize("where", [place for place in PLACES if place != "weights"])
def test_a_passing_fault_is_named_and_recovered_from(tmp_path, caplog, plan, where, value, precision) -> None:
    with caplog.at_level(logging.WARNING):
        module = fit(tmp_path, plan, precision, Plant(where, value, (3, 9)), steps=12)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    if (where, precision) == ("loss", "16-mixed"):  # to a gradient scaler an overflow like any other: counted, not said
        return
    said = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert len(said) >= 1, f"nothing was said:\n{caplog.text}"
    assert NAMES[where] in said[0], said


@each_precision
@each_value
@each_place
def test_a_lasting_fault_stops_the_training_with_its_name(tmp_path, plan, where, value, precision) -> None:
    plant = Plant(where, value, tuple(range(4, STEPS)))
    with pytest.raises(RuntimeError, match=NAMES[where]) as caught:
        fit(tmp_path, plan, precision, plant)
    if where == "layer":
        assert plant.layer in str(caught.value)
    assert plant.batch <= 4 + PATIENCE + 12, f"stopped only after {plant.batch - 4} steps"
