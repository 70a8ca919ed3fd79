"""The sums of Dice and cross-entropy over every deep-supervision output, with their gradients, in Triton.

Each output's logits are read once forward and once backward, in their dtype and layout; the label stays at full
resolution. What the loss makes of the sums are a few numbers a class, torch's own business (`umamba.models.losses`).
Sums of chunks are joined in a fixed order, without atomic additions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from umamba.models.kernels.dice_ce_inputs import refusal, takes
from umamba.models.kernels.dice_ce_triton import class_sums, logits_gradient
from umamba.models.kernels.norm_act_launch import Direct, laid_out, processors
from umamba.models.mamba.kernels.eager import as_function
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.operation import register
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

FLOAT = torch.float32
ELEMENTS = 2048  # of a tile, 16 a thread
WARPS = 4
PROGRAMS = 16  # a multiprocessor


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _launches(tensors: Description, outputs: int, ignore_label: int | None) -> tuple[list[Callable[..., None]], int]:
    """For `outputs` logits, the label and, of a backward pass, the gradient of the sums: a launch for every output, and
    into how many chunks each of its samples is cut.
    """
    shapes = [tensors.shape(i) for i in range(outputs)]
    batch, classes = shapes[0][:2]
    label_shape = tensors.shape(outputs)
    dtype, of_label, *grad = tensors.types(0, *range(outputs, len(tensors) - 2))
    kernel, types = (
        (logits_gradient, [*grad, dtype, of_label, dtype]) if grad else (class_sums, [dtype, of_label, FLOAT])
    )
    block = next_power_of_2(classes)
    rows = max(1, ELEMENTS // block)
    # All outputs are cut into as many chunks, so that one operation joins them; of small ones some are empty
    largest = max(shape[2:].numel() for shape in shapes)
    wanted = cdiv(PROGRAMS * processors(tensors.device), batch)
    chunks = cdiv(largest, cdiv(cdiv(largest, wanted), rows) * rows)
    launch = Launch if tensors.device >= 0 else Direct
    launches: list[Callable[..., None]] = []
    for i, shape in enumerate(shapes):
        size, last = shape[2:].numel(), tensors[2 + i][1][1] == 1
        spatial, full = ((1, 1, *axes)[-3:] for axes in (shape[2:], label_shape[1:]))
        ratios = [a / b for a, b in zip(full, spatial, strict=True)]
        length = cdiv(cdiv(size, chunks), rows) * rows
        numbers = [size, *spatial[1:], *full, chunks, length, ignore_label or 0, *ratios]
        constants = (classes, last, spatial == full, ignore_label is not None, rows, block)
        grid = (batch * chunks,)
        made = launch(kernel, tensors.device, grid, types, numbers, constants, tensors.aligned, num_warps=WARPS)
        launches.append(made)
    return launches, chunks


def _at(t: Tensor) -> Tensor | int:
    return t.data_ptr() if t.is_cuda else t


def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    """The sums, and an empty tensor: nothing is kept besides the inputs, which are those of `_function`."""
    *tensors, label, ignore_label, counted = inputs
    outputs = [laid_out(o) for o in tensors[:counted]]
    label = label.contiguous()
    launches, chunks = _launches(describe(*outputs, label)[0], counted, ignore_label)
    partial = label.new_empty((counted, chunks, *outputs[0].shape[:1], 4, *outputs[0].shape[1:2]), dtype=FLOAT)
    for launch, output, part in zip(launches, outputs, partial.unbind(), strict=True):
        launch(_at(output), _at(label), _at(part))
    return partial.sum(1), label.new_empty(0)


def backward(grad: Tensor, _: Tensor, *inputs: Any) -> tuple[Tensor | None, ...]:
    """Gradients of the outputs and None for the label."""
    return *_gradients(grad, *inputs), None


def _gradients(grad: Tensor, *inputs: Any) -> list[Tensor]:
    """Gradients of the outputs; zero where an output does not count."""
    *tensors, label, ignore_label, counted = inputs
    outputs = [laid_out(o) for o in tensors[:counted]]
    label, grad = label.contiguous(), grad.contiguous()
    launches, _chunks = _launches(describe(*outputs, label, grad)[0], counted, ignore_label)
    gradients = [torch.empty_like(o) for o in outputs]
    for launch, of_sums, output, made in zip(launches, grad.unbind(), outputs, gradients, strict=True):
        launch(_at(of_sums), _at(output), _at(label), _at(made))
    return [*gradients, *(torch.zeros_like(o) for o in tensors[counted:])]


_inputs = "Tensor[] outputs, Tensor label, SymInt? ignore_label, SymInt counted"
operation = register(
    "dice_ce_sums",
    f"({_inputs}) -> Tensor",
    lambda outputs, *others: forward(*outputs, *others)[0],
    lambda outputs, label, _, counted: label.new_empty(
        (counted, outputs[0].shape[0], 4, outputs[0].shape[1]), dtype=FLOAT
    ),
)
operation_backward = register(
    "dice_ce_sums_backward",
    f"(Tensor grad, {_inputs}) -> Tensor[]",
    lambda grad, outputs, *others: _gradients(grad, *outputs, *others),
    lambda grad, outputs, label, _, counted: [
        torch.empty_like(laid_out(o) if i < counted else o) for i, o in enumerate(outputs)
    ],
)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    outputs, label, *ctx.flags = inputs
    ctx.save_for_backward(*outputs, label)


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor] | None, ...]:
    *outputs, label = ctx.saved_tensors
    return operation_backward(grad, outputs, label, *ctx.flags), None, None, None


operation.register_autograd(_backward, setup_context=_setup)


def _watched(*inputs: Any) -> tuple[Tensor, Tensor]:
    *outputs, label, ignore_label, counted = inputs
    return operation(outputs, label, ignore_label, counted), label


# Of outputs, label, ignore label and the number of outputs that count, to the sums
_function = as_function("DiceCE", _watched, forward, backward, tensors=-2)


def dice_ce_sums(
    outputs: Sequence[Tensor], label: Tensor, ignore_label: int | None = None, counted: int | None = None
) -> Tensor:
    """What Dice and cross-entropy are made of, for the first `counted` outputs, class by class.

    Args:
        outputs: logits (B, K, *S) each, one to three spatial axes, float32, float16 or bfloat16 on a CUDA device;
            channels-last and channels-first maps are read as they lie. At most MAX_CLASSES classes and fewer than
            MAX_SAMPLE elements a sample.
        label: (B, *S) integer, resampled to each output's shape by nearest neighbour with half-pixel centres. Values
            are 0..K-1 or `ignore_label`; with any other value in a sample its sums and gradients are NaN.
        ignore_label: of voxels that do not count; None if all do.
        counted: the others get the gradient zero; None for all.

    Returns:
        (counted, B, 4, K) float32. Of every class, over the sample's voxels that count: the sum of its probability
        where the label is the class, the sum of its probability, the number of voxels whose label it is, and the sum of
        their cross-entropy.

    Raises:
        ValueError: outputs or label that `takes` says no to.
    """
    if not takes(outputs, label):
        raise ValueError(refusal(outputs, label))
    return _function(*outputs, label, ignore_label, len(outputs) if counted is None else counted)
