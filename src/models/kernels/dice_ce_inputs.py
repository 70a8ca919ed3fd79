"""What the fused Dice and cross-entropy can be given; needs no Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MAX_CLASSES = 1024  # a tile holds all of them
MAX_SAMPLE = 2**31  # elements of one sample's logits: offsets inside it are 32-bit


def takes(outputs: Sequence[Tensor], label: Tensor) -> bool:
    """Whether the fused Dice and cross-entropy take these outputs and this label, but for the kind of device."""
    first = outputs[0]
    return (
        first.dtype in DTYPES
        and 3 <= first.dim() <= 5
        and 2 <= first.shape[1] <= MAX_CLASSES
        and label.dtype in LABELS
        and label.shape[0] == first.shape[0]
        and label.device == first.device
        and all(
            o.dtype == first.dtype
            and o.device == first.device
            and o.dim() == first.dim() == label.dim() + 1
            and o.shape[:2] == first.shape[:2]
            and 0 < o.shape[1:].numel() < MAX_SAMPLE
            for o in outputs
        )
    )


def refusal(outputs: Sequence[Tensor], label: Tensor) -> str:
    """What is expected and what came, where `takes` says no."""
    logits = ", ".join(f"{tuple(o.shape)} in {_name(o)} on {o.device}" for o in outputs)
    return (
        "The fused Dice and cross-entropy take logits (B, K, *S), all of one dtype (float32, float16 or bfloat16), "
        f"with 2 to {MAX_CLASSES} classes, one to three spatial axes and fewer than {MAX_SAMPLE} elements a sample, "
        f"and an integer label (B, *S) of at most 64 bits, all on one device, but got logits {logits} and a label "
        f"{tuple(label.shape)} in {_name(label)} on {label.device}."
    )


def _name(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")
