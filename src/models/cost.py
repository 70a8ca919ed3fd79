"""What a network costs, without running it: parameters, operations, memory kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from umamba.models.mamba.block import Mamba


def count_parameters(network: nn.Module) -> int:
    """All parameters, frozen ones included, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Floating-point operations of one forward pass; a multiply-add counts as two.

    Convolutions and matrix products are counted by torch, Mamba blocks by `mamba_flops`; norms, activations and
    interpolation are left out, as is usual. A network on the CPU gets a tensor without data, one on a GPU runs once.

    Args:
        network: on the CPU or a GPU.
        input_shape: (B, C, *S).
    """
    device = next(network.parameters()).device
    without_data = FakeTensorMode(allow_non_fake_inputs=True) if device.type == "cpu" else nullcontext()
    counter = FlopCounterMode(display=False)
    with without_data, torch.no_grad(), mamba_left_out(network) as blocks, counter:
        network(torch.zeros(*input_shape, device=device))
    return counter.get_total_flops() + sum(mamba_flops(block, *size) for block, size in blocks)


def mamba_flops(block: Mamba, batch: int, length: int) -> int:
    """Operations of one Mamba block on `batch` sequences of `length` tokens.

    Per token: the four projections and the convolution as products; 9 per channel and state of the scan (VMamba's
    count, arXiv 2401.10166); 4 per channel for the skip D and the gate.
    """
    inner, states = block.A_log.shape
    projections = (block.in_proj, block.x_proj, block.dt_proj, block.out_proj)
    products = 2 * sum(p.in_features * p.out_features for p in projections) + 2 * block.conv1d.weight.numel()
    return batch * length * (products + 9 * inner * states + 4 * inner)


def activation_bytes(network: nn.Module, input_shape: Sequence[int], autocast: torch.dtype | None = None) -> int:
    """Bytes of distinct storages a forward pass keeps for the backward pass, weights not counted.

    Computed on tensors without data with the CPU's operators (for Mamba the torch scan). The peak on a GPU also holds
    gradients and what operators need in between, and its fused scan keeps less.

    Args:
        network: on the CPU.
        input_shape: (B, C, *S).
        autocast: dtype of mixed precision, or None.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding a storage keeps its number from being given again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=autocast, enabled=autocast is not None),
    ):
        network(torch.empty(*input_shape))
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def mamba_left_out(network: nn.Module) -> Iterator[list[tuple[Mamba, tuple[int, int]]]]:
    """Within the block the network's Mamba blocks return their input and are not computed.

    Yields:
        The Mamba blocks that were called, each with the (batch, length) of its sequences.
    """
    seen: list[tuple[Mamba, tuple[int, int]]] = []
    blocks = [module for module in network.modules() if isinstance(module, Mamba)]

    def passing_on(block: Mamba) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            seen.append((block, (x.shape[0], x.shape[1])))
            return x

        return forward

    for block in blocks:
        block.forward = passing_on(block)  # type: ignore[method-assign, assignment]  # hides the class's own until it is deleted
    try:
        yield seen
    finally:
        for block in blocks:
            del block.forward
