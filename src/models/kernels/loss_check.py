"""What the fused Dice and cross-entropy get wrong on a device: compared with float64 before their first use there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from umamba.models.mamba.scan.selfcheck import HALF_TOLERANCE, TOLERANCE, random_tensor, relative_error

NAMES = ("intersection", "probability", "voxels", "cross-entropy")
SHAPES = ((9, 10, 12), (5, 5, 6))  # of the label and of two outputs, the first of several chunks


def reference(logits: Tensor, label: Tensor, ignore_label: int | None) -> Tensor:
    """`dice_ce.dice_ce_sums` of one output in torch's own operations and the logits' dtype: (B, 4, K)."""
    if label.shape[1:] != logits.shape[2:]:
        label = F.interpolate(label[:, None].double(), logits.shape[2:], mode="nearest-exact")[:, 0].to(label.dtype)
    counted = torch.ones_like(label, dtype=torch.bool) if ignore_label is None else label != ignore_label
    classes = torch.arange(logits.shape[1], device=label.device).view(-1, *[1] * (label.dim() - 1))
    hit = (label[:, None] == classes) & counted[:, None]
    probability = logits.softmax(1) * counted[:, None]
    entropy = torch.where(hit, -logits.log_softmax(1), 0)
    return torch.stack([t.flatten(2).sum(2) for t in (probability * hit, probability, hit.to(logits), entropy)], 1)


def relative_errors(
    classes: int, dtype: torch.dtype, channels_last: bool, label_dtype: torch.dtype, ignore: bool, device: torch.device
) -> dict[str, float]:
    """Relative errors of the sums and of the logits' gradients on `device`; the latter, where logits are in half
    precision, as shares of what `TOLERANCE` is in float32.
    """
    from umamba.models.kernels.dice_ce import backward, forward

    values = min(classes, torch.iinfo(label_dtype).max)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(values, (2, *SHAPES[0]), generator=generator).to(label_dtype)
    ignore_label = values if ignore else None
    if ignore:
        label[1, 3:5] = values
    exact = [(2 * random_tensor((2, classes, *s), i)).to(dtype).double().requires_grad_() for i, s in enumerate(SHAPES)]
    sums = torch.stack([reference(logits, label, ignore_label) for logits in exact])
    weight = random_tensor(sums.shape, 2)
    gradients = torch.autograd.grad(sums, exact, weight)

    outputs = [logits.detach().to(device, dtype) for logits in exact]
    if channels_last:
        outputs = [o.movedim(1, -1).contiguous().movedim(-1, 1) for o in outputs]
    inputs = (*outputs, label.to(device), ignore_label, len(outputs))
    got, kept = forward(*inputs)
    *got_gradients, _ = backward(weight.float().to(device), kept, *inputs)
    errors = {name: relative_error(got[:, :, i], sums[:, :, i]) for i, name in enumerate(NAMES)}
    share = TOLERANCE / HALF_TOLERANCE.get(dtype, TOLERANCE)
    for shape, a, b in zip(SHAPES, (g for g in got_gradients if g is not None), gradients, strict=True):
        errors[f"gradient at {shape}"] = share * relative_error(a, b)
    return errors
