"""The loss that docs/how_to/loss.md prints is one that can be trained with, on data with an ignore label too."""

from __future__ import annotations

import functools

import pytest
import torch
from pages import ROOT, blocks

from umamba.models.build_loss import build_loss


def test_a_loss_of_ones_own() -> None:
    (text,) = (block.text for block in blocks(ROOT / "docs" / "how_to" / "loss.md") if block.title == "mymix.py")
    code: dict = {}
    exec(compile(text, "mymix.py", "exec"), code)
    loss = build_loss(
        functools.partial(code["SquaredError"], scale=2.0), num_classes=3, batch_dice=True, ignore_label=9, regions=()
    )
    label = torch.tensor([[[0, 1, 2, 9]]], dtype=torch.int16)
    logits = torch.zeros(1, 3, 1, 4, requires_grad=True)
    value = loss(logits, label)
    assert value.item() == pytest.approx(2 * (4 / 9 + 1 / 9 + 1 / 9) / 3)
    value.backward()
    assert logits.grad is not None and not logits.grad[..., 3].any() and logits.grad[..., :3].any()
    with pytest.raises(ValueError, match="has regions"):
        build_loss(
            code["SquaredError"], num_classes=3, batch_dice=True, ignore_label=None, regions=[(1,), (1, 2), (2,)]
        )
