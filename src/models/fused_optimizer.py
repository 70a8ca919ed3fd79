"""torch's optimisers as one kernel over all parameters, where they lie on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

FUSED = (SGD, Adam, AdamW)  # those of torch that have such a kernel on CUDA; a subclass may do something else


def fuse(optimizer: Optimizer) -> None:
    """Let an optimiser take each step as one kernel on CUDA; to be called when parameters and state are in place.

    A kernel can also skip its step without the host knowing (`FiniteWatch`). ``fused`` or ``foreach`` in the settings
    of the optimiser are kept. The choice belongs to the device and not to the run: what a checkpoint brought is put
    right, so that a run may go on elsewhere.

    Args:
        optimizer: of any class; one that has no such kernel is left alone.
    """
    if type(optimizer) not in FUSED:
        return
    settings = {key: optimizer.defaults[key] for key in ("fused", "foreach")}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if settings == {"fused": None, "foreach": None} and not optimizer.defaults["differentiable"]:
        on_gpu = all(parameter.is_cuda and parameter.is_floating_point() for parameter in parameters)
        settings["fused"] = True if on_gpu else None
    for group in optimizer.param_groups:
        group.update(settings)
    if not settings["fused"]:
        return
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        state.update({key: _beside(value, parameter) for key, value in state.items() if isinstance(value, Tensor)})
    # Else a gradient scaler would leave it to the kernel to unscale the gradients, which clipping wants unscaled before
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def _beside(value: Tensor, parameter: Tensor) -> Tensor:
    """State on its parameter's device and, if it is of that shape, in its layout, as the kernels want it."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    if value.device == parameter.device and value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
