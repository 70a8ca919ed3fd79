"""A prediction computes in what its training computed in, or in what is asked for."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.inference.small import make_plan, save_checkpoint
from umamba.inference import precision as module
from umamba.inference.averaged import AveragedPredictor
from umamba.inference.precision import CHOICES, autocast_dtype, chosen_dtype, trained_precision
from umamba.inference.predictor import Predictor

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"trainer": {"precision": "32-true"}, "model": {"precision": None}}, "32-true"),
        ({"trainer": {"precision": "16-mixed"}, "model": {"precision": "32-true"}}, "16-mixed"),
        ({"trainer": {"precision": 32}, "model": {}}, "32"),
        ({"model": {"precision": "32-true"}}, "32-true"),
        ({"model": {"precision": None}}, None),
    ],
)
def test_the_trainer_decides_and_then_the_model(config, precision) -> None:
    assert trained_precision(config) == precision


@pytest.fixture
def modern(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", None), ("32", None), ("64-true", None),
        ("bf16-mixed", torch.bfloat16), ("bf16", torch.bfloat16), ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.float16), ("16", torch.float16), ("16-true", torch.float16),
    ],
)  # fmt: skip
def test_convolutions_follow_the_training_on_a_gpu_and_are_float32_on_a_cpu(modern, precision, dtype) -> None:
    assert autocast_dtype(precision, GPU) == dtype
    assert autocast_dtype(precision, CPU) is None


def test_a_card_without_bfloat16_predicts_in_float32_and_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with caplog.at_level(logging.WARNING, module.__name__):
        assert autocast_dtype("bf16-mixed", GPU) is None
    assert "Tesla V100 has no bfloat16" in caplog.text


@pytest.mark.parametrize(("device", "dtype", "said"), [(GPU, torch.bfloat16, "mixed bfloat16"), (CPU, None, "float32")])
def test_what_nobody_knows_is_said(modern, caplog, device, dtype, said) -> None:
    with caplog.at_level(logging.INFO, module.__name__):
        assert autocast_dtype(None, device) == dtype
    assert "Nothing says in which precision" in caplog.text and said in caplog.text
    assert "Trained with" not in caplog.text


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_what_is_not_followed_to_the_letter_is_said(modern, precision, caplog) -> None:
    with caplog.at_level(logging.WARNING, module.__name__):
        autocast_dtype(precision, GPU)
    assert f"Trained with precision {precision}; predicting" in caplog.text


@pytest.mark.parametrize("precision", ["transformer-engine", "8-true"])
def test_what_cannot_be_followed_is_refused(precision) -> None:
    with pytest.raises(ValueError, match=f"trainer.precision={precision}.*bf16-mixed"):
        autocast_dtype(precision, GPU)


def test_a_precision_that_is_chosen_is_taken_or_refused(modern) -> None:
    assert [chosen_dtype(name, GPU) for name in CHOICES] == [None, torch.float16, torch.bfloat16]
    assert chosen_dtype("32-true", CPU) is None
    with pytest.raises(ValueError, match="precision=16-mixed: a CPU predicts in float32"):
        chosen_dtype("16-mixed", CPU)
    for wrong in (16, "half", True):
        with pytest.raises(ValueError, match=f"precision={wrong}: expected one of 32-true, 16-mixed, bf16-mixed"):
            chosen_dtype(wrong, GPU)


def test_a_card_without_bfloat16_refuses_to_be_chosen_for_it(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(ValueError, match="bf16-mixed: Tesla V100 has no bfloat16"):
        chosen_dtype("bf16-mixed", GPU)


def test_all_networks_of_an_ensemble_take_the_precision(tmp_path) -> None:
    patches: list[tuple[int, ...]] = [(8, 8, 8), (8, 8)]
    files = [save_checkpoint(tmp_path / f"{len(patch)}.ckpt", make_plan(patch=patch)) for patch in patches]
    predictor = AveragedPredictor([Predictor.from_checkpoint(path, "cpu") for path in files])
    with pytest.raises(ValueError, match="a CPU predicts in float32"):
        predictor.run_in("16-mixed")
    for one in (predictor, *predictor.parts):
        one.device = GPU  # nothing is computed
    before = predictor.made_by()
    predictor.run_in("16-mixed")
    assert {member.autocast for part in (predictor, *predictor.parts) for member in part.members} == {torch.float16}
    precisions = [[one["precision"] for one in networks] for networks in predictor.made_by()["networks"]]
    assert precisions == [["float16"], ["float16"]] and predictor.made_by() != before
