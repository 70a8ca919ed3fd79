"""The precision that is taken where neither the user nor the model names one."""

import logging

import pytest
import torch

from umamba import resolvers
from umamba.resolvers import auto_precision

CARDS = {"Tesla V100": (7, 0), "Tesla T4": (7, 5), "A100": (8, 0), "H200": (9, 0)}


@pytest.fixture
def cards(monkeypatch):
    """Pretends that the machine has the cards named."""

    def pretend(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: CARDS[names[card]])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: names[card])

    resolvers._say_once.cache_clear()
    return pretend


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Tesla V100"], "16-mixed"), (["Tesla T4"], "16-mixed"), (["A100"], "bf16-mixed"), (["H200"], "bf16-mixed"),
        (["A100", "Tesla V100"], "16-mixed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_the_card_is_asked_whether_it_has_bfloat16(cards, caplog, accelerator, names, expected) -> None:
    cards(*names)
    with caplog.at_level(logging.INFO):
        assert auto_precision(accelerator, None) == expected
    assert expected in caplog.text and names[-1 if expected == "16-mixed" else 0] in caplog.text


def test_amd_cards_compute_in_bfloat16_whatever_their_number(cards, monkeypatch) -> None:
    cards("Tesla V100")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert auto_precision("gpu", None) == "bf16-mixed"


def test_cuda_is_left_alone_where_it_is_not_used(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("CUDA was asked")

    for name in ("device_count", "get_device_capability", "get_device_name", "is_available"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert auto_precision("cpu", None) == "32-true"
    assert auto_precision("gpu", "32-true") == "32-true"


def test_auto_without_a_card_is_the_cpu(cards) -> None:
    cards()
    assert auto_precision("auto", None) == "32-true"
