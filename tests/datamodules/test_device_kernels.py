"""The augmentation's kernels in Triton's interpreter, and what decides whether they run; neither needs a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from triton_interpreter import run_interpreted

from umamba.datamodules.augmentation.device.kernels import choice

KIND = ("3D", frozenset({("Mirror", None, None)}))


@pytest.mark.slow
def test_the_kernels_in_tritons_interpreter():
    run_interpreted(Path(__file__).with_name("test_device_kernels_interpreted.py"))


def test_a_failed_check_is_said_once_and_torch_runs(monkeypatch, caplog):
    from umamba.models.mamba.scan import selfcheck

    monkeypatch.setattr(selfcheck, "check", lambda device, errors: "the kernels are wrong on this GPU")
    choice._passed.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not choice.kernels_usable(torch.device("cuda", 0), *KIND)
        assert not choice.kernels_usable(torch.device("cuda", 0), *KIND)
    choice._passed.cache_clear()
    assert [r.message for r in caplog.records] == [
        "The augmentation falls back to torch's own operations, which take longer: the kernels are wrong on this GPU."
    ]


def test_on_a_cpu_all_is_torchs_own():
    assert not choice.kernels_usable(torch.device("cpu"), *KIND)
