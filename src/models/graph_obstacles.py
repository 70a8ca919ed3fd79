"""Why training steps cannot be replayed from CUDA graphs: layers or strategies that do more than launch kernels."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import nn

KNOWN = ("umamba", "torch")  # packages whose layers do the same in every step, without asking the device for values
HARMLESS = ("gradient_as_bucket_view", "bucket_cap_mb", "broadcast_buffers")  # options of DDP that change no gradient


def obstacle_of_layers(*parts: nn.Module) -> str | None:
    """Why the steps of a network, and a loss if it is given, cannot be replayed from a graph, or None.

    Layers from elsewhere may count, print or decide in Python, which a replay leaves out, and batch norms would count
    the passes before the capture.
    """
    for name, layer in (named for part in parts for named in part.named_modules()):
        if type(layer).__module__.partition(".")[0] not in KNOWN:
            return f"layer {name or 'network'!r} is a {type(layer).__qualname__} of {type(layer).__module__}"
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            return f"layer {name!r} is a {type(layer).__qualname__}, which keeps running statistics"
    return None


def obstacle_of_strategy(strategy: Strategy) -> str | None:
    """Why graphs do not go with a strategy, or None."""
    name = type(strategy).__name__
    if type(strategy) is SingleDeviceStrategy:
        return None
    if type(strategy) is not DDPStrategy:
        return f"it takes a single device, or trainer.strategy=ddp, and this is {name}"
    changed = [key for key, value in strategy._ddp_kwargs.items() if key not in HARMLESS and value]
    if strategy._ddp_comm_hook is not None:
        changed.append("ddp_comm_hook")
    if changed:
        return f"gradients are exchanged after a replay, without what {name} is told by {', '.join(changed)}"
    return None
