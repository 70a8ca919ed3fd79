"""torch joins freed memory of a GPU where it can, unless the user has chosen otherwise."""

from __future__ import annotations

import pytest
import torch

from umamba.models import device_memory
from umamba.models.device_memory import SETTINGS, use_expandable_segments

GPU = torch.device("cuda", 0)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What torch is told, on a machine that has everything."""
    settings: list[str] = []
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device_memory, "_set", settings.append)
    monkeypatch.setattr(device_memory.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    return settings


def test_it_is_set_on_a_gpu_alone(said) -> None:
    assert not use_expandable_segments(torch.device("cpu")) and not said
    assert use_expandable_segments(GPU) and said == ["expandable_segments:True"]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_users_choice_is_kept(said, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:128")
    assert not use_expandable_segments(GPU) and not said


def test_where_the_driver_cannot_it_is_taken_back(said, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA driver error: operation not supported")

    monkeypatch.setattr(torch, "empty", refuse)
    assert not use_expandable_segments(GPU)
    assert said == ["expandable_segments:True", "expandable_segments:False"]


def test_elsewhere_it_is_left_alone(said, monkeypatch) -> None:
    monkeypatch.setattr(device_memory.sys, "platform", "win32")
    assert not use_expandable_segments(GPU) and not said


@pytest.mark.gpu
def test_a_freed_place_serves_for_larger_tensors_beside_it() -> None:
    assert use_expandable_segments(GPU)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    small = [torch.empty(2**27, dtype=torch.uint8, device=GPU) for _ in range(4)]
    del small
    large = torch.empty(2**29, dtype=torch.uint8, device=GPU)
    assert torch.cuda.memory_reserved() - held <= 2**29 + 2**26
    del large
