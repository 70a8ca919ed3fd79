"""A prediction computes in what its training computed in."""

from __future__ import annotations

import logging

import pytest
import torch

from umamba.inference import precision as module
from umamba.inference.precision import autocast_dtype, trained_precision

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"trainer": {"precision": "32-true"}, "model": {"precision": None}}, "32-true"),
        ({"trainer": {"precision": "16-mixed"}, "model": {"precision": "32-true"}}, "16-mixed"),
        ({"trainer": {"precision": 32}, "model": {}}, "32"),
        ({"model": {"precision": "32-true"}}, "32-true"),
        ({"model": {"precision": None}}, "bf16-mixed"),
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


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_what_is_not_followed_to_the_letter_is_said(modern, precision, caplog) -> None:
    with caplog.at_level(logging.WARNING, module.__name__):
        autocast_dtype(precision, GPU)
    assert f"Trained with precision {precision}; predicting" in caplog.text


@pytest.mark.parametrize("precision", ["transformer-engine", "8-true"])
def test_what_cannot_be_followed_is_refused(precision) -> None:
    with pytest.raises(ValueError, match=f"trainer.precision={precision}.*bf16-mixed"):
        autocast_dtype(precision, GPU)
