"""Whether the fused kernels of the convolution blocks run, and the layout of feature maps that goes with them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from umamba.models.kernels.dice_ce_inputs import takes
from umamba.models.ranks import all_agree, count_ranks

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

log = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def kernels_usable(device_type: str, device_index: int | None) -> bool:
    """Whether the fused instance norm can be used on a device: CUDA, Triton there, and its self-check passed.

    The device is given as plain values so that torch.compile can take the answer as a constant.
    """
    return _usable(device_type, device_index)


@functools.cache  # so that it is checked and said once; torch.compile would look through a cache around the above
def _usable(device_type: str, device_index: int | None) -> bool:
    if device_type != "cuda":
        return False
    from umamba.models.kernels.selfcheck import relative_errors
    from umamba.models.mamba.scan.choice import device_of
    from umamba.models.mamba.scan.selfcheck import check

    fault = check(device_of(device_type, device_index), relative_errors)
    if fault:
        log.warning("Instance norm falls back to torch's own, which is slower: %s.", fault)
    else:
        log.info("Instance norm, residual sum and activation on %s: fused Triton kernels.", device_type)
    return not fault


def loss_fused(outputs: Sequence[Tensor], label: Tensor, ignore_label: int | None) -> bool:
    """Whether the fused Dice and cross-entropy are used for these logits, highest resolution first, and this label.

    They are on a CUDA device for what they take, if the kernels as they are compiled for it pass their check.
    """
    if not outputs or not outputs[0].is_cuda:
        return False
    logits = outputs[0]
    kind = (logits.shape[1], logits.dtype, is_channels_last(logits), label.dtype, ignore_label is not None)
    return takes(outputs, label) and _loss_checked(logits.device.type, logits.device.index, *kind)


@torch.compiler.assume_constant_result
def _loss_checked(device_type: str, device_index: int | None, *kind: Any) -> bool:
    """All ranks or none: for a batch Dice the ranks sum one thing together, or one for each output."""
    from umamba.models.mamba.scan.choice import device_of

    device = device_of(device_type, device_index)
    usable = _loss_usable(device, *kind)
    return _agreed(torch.distributed.group.WORLD, usable, device, *kind) if count_ranks() > 1 else usable


@functools.cache
def _loss_usable(device: torch.device, *kind: Any) -> bool:
    """Whether the kernels for this number of classes, dtype, layout, label dtype, and with or without an ignore label
    pass their check on a CUDA device.
    """
    from umamba.models.kernels.loss_check import relative_errors
    from umamba.models.mamba.scan.selfcheck import check

    fault = check(device, functools.partial(relative_errors, *kind))
    if fault:
        log.warning("The loss falls back to torch's own operations, which are slower: %s.", fault)
    return fault is None


@functools.cache
def _agreed(_group: Any, usable: bool, device: torch.device, *_kind: Any) -> bool:
    """Whether a kind is usable on every rank of a process group.

    Every rank asks at the first loss of this kind in this group, whatever it has checked before: were the answer of an
    earlier training or of a pass alone taken, the other ranks' question would be answered by this rank's next sum.
    """
    return all_agree(usable, device)


def in_preferred_layout(x: Tensor) -> Tensor:
    """A network's input (B, C, *S), channels-last in memory where the fused kernels run, else as it is.

    Under autocast it is in the dtype that the first convolution would cast it to. cuDNN's tensor-core convolutions work
    on channels-last maps and turn others before and after, and Mamba layers read positions as tokens. It takes the
    fused norms, because torch's own are slow on such maps. Later layers keep the layout they get.
    """
    if not fused(x):
        return x
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    # A copy, because the strides of a map of one channel do not say which layout it has
    return x.movedim(1, -1).to(dtype, copy=True, memory_format=torch.contiguous_format).movedim(-1, 1)


def weight_in_preferred_layout(weight: Tensor) -> Tensor:
    """A convolution's weight channels-last in memory where its maps are, so that it is not turned in every step; any
    other tensor as it is.
    """
    if weight.dim() not in CHANNELS_LAST or not fused(weight):
        return weight
    return weight.to(memory_format=CHANNELS_LAST[weight.dim()])


def fused(x: Tensor) -> bool:
    """Whether the fused kernels do the work of the layers around a convolution for this map: on a CUDA device, in any
    dtype but float64.
    """
    return x.is_cuda and x.dtype != torch.float64 and kernels_usable(x.device.type, x.device.index)


def is_channels_last(x: Tensor) -> bool:
    """Whether (B, C, *S) lies in memory as (B, *S, C)."""
    return x.dim() in (4, 5) and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def with_layout_of(x: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`x` channels-last if `other` is, else channels-first, in `dtype` if given; a copy only where it is needed."""
    layout = CHANNELS_LAST[other.dim()] if is_channels_last(other) else torch.contiguous_format
    return x.to(dtype or x.dtype, memory_format=layout).contiguous(memory_format=layout)
