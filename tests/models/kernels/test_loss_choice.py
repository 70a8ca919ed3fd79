"""What decides whether the fused loss runs; no GPU is needed."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from umamba.models.kernels import choice
from umamba.models.kernels.dice_ce_inputs import takes
from umamba.models.losses import DiceCELoss
from umamba.models.mamba.scan import selfcheck

DEVICE = torch.device("cuda", 0)
KIND = (DEVICE, 14, torch.float16, True, torch.int16, False)


@pytest.fixture(autouse=True)
def nothing_known():
    choice._loss_usable.cache_clear()
    yield
    choice._loss_usable.cache_clear()


def test_a_failed_check_is_said_once_and_torch_runs(monkeypatch, caplog):
    monkeypatch.setattr(selfcheck, "check", lambda device, errors: "the kernels are wrong on this GPU")
    with caplog.at_level(logging.WARNING):
        assert not choice._loss_usable(*KIND)
        assert not choice._loss_usable(*KIND)
    assert caplog.text.count("loss falls back") == 1


def test_the_check_is_of_the_kernels_that_will_run(monkeypatch):
    seen = []
    monkeypatch.setattr(selfcheck, "check", lambda device, errors: seen.append((device, errors.args)))
    assert choice._loss_usable(*KIND)
    assert seen == [(DEVICE, KIND[1:])]


def test_on_the_cpu_torch_runs():
    assert not choice.loss_fused([torch.zeros(1, 3, 4)], torch.zeros(1, 4, dtype=torch.int16), None)


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        (torch.zeros(1, 1, 4), torch.zeros(1, 4, dtype=torch.int16)),
        (torch.zeros(1, 3, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.int16)),
        (torch.zeros(1, 3, 4), torch.zeros(1, 4)),
        (torch.zeros(2, 3, 4), torch.zeros(1, 4, dtype=torch.int16)),
        (torch.zeros(1, 3, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2, dtype=torch.int16)),
        (torch.zeros(1, 3, 4), torch.zeros(1, 4, 4, dtype=torch.int16)),
        (torch.zeros(1, 3, 1, 1).expand(1, 3, 2**15, 2**15), torch.zeros(1, 1, 1, dtype=torch.int16)),
    ],
    ids=["one class", "float64", "float label", "batch", "axes", "axes of the label", "too large"],
)
def test_what_the_kernels_do_not_take(logits, label):
    assert not takes([logits], label)
    assert not takes([torch.zeros(1, 3, 4), logits], label)


def test_without_triton_there_is_a_reason(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "umamba.models.kernels.dice_ce", None)
    with caplog.at_level(logging.WARNING):
        assert not choice._loss_usable(*KIND)
    assert "Triton with Gluon is not installed" in caplog.text


def test_a_device_that_is_none_is_not_asked(monkeypatch):
    """The loss on the CPU neither imports Triton nor checks anything."""
    monkeypatch.setattr(choice, "_loss_usable", lambda *kind: pytest.fail("checked"))
    logits = torch.randn(1, 3, 8)
    assert DiceCELoss(False)(logits, torch.zeros(1, 8, dtype=torch.int16)).isfinite()
