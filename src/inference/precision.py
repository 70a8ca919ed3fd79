"""The precision of a prediction: that of the training, or another one that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

log = logging.getLogger(__name__)

# Lightning's names of trainer.precision; the dtype of the convolutions, None for float32 throughout.
_AUTOCAST = {
    "32-true": None,
    "32": None,
    "64-true": None,
    "64": None,
    "16-mixed": torch.float16,
    "16": torch.float16,
    "16-true": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}
ASSUMED = "bf16-mixed"  # where nothing says it
_APPROXIMATED = {
    "64-true": "in float32",
    "64": "in float32",
    "16-true": "in mixed float16, its weights and norms in float32",
    "bf16-true": "in mixed bfloat16, its weights and norms in float32",
}

CHOICES: dict[str, torch.dtype | None] = {
    "32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16,
}  # fmt: skip


def trained_precision(config: Mapping[str, Any]) -> str | None:
    """Lightning's name of the precision that a checkpoint was trained with; None if nothing says it.

    An imported network has no trainer, unless this project has exported it: its model names what it is predicted in,
    16-mixed for nnU-Net's, if anything.
    """
    trainer, model = config.get("trainer") or {}, config.get("model") or {}
    found = trainer.get("precision") or model.get("precision")
    return None if found is None else str(found)


def autocast_dtype(precision: str | None, device: torch.device) -> torch.dtype | None:
    """What the convolutions of a network of this training are computed in; None for float32.

    Where the training's precision is not known, as of U-Mamba's checkpoints, it is taken for bf16-mixed: half precision
    without the overflows of float16. This is said.

    A CPU always predicts in float32, for half precision is slow there. A GPU without bfloat16 arithmetic does so too,
    with a warning: float16 could overflow where the training did not.

    Raises:
        ValueError: A precision that a prediction cannot follow.
    """
    if precision is None:
        precision = ASSUMED
        log.warning(
            "Nothing says in which precision the network was trained; predicting %s.",
            "in mixed bfloat16" if device.type == "cuda" else "on the CPU in float32",
        )
        if device.type != "cuda":
            return None
    if precision not in _AUTOCAST:
        raise ValueError(
            f"The network was trained with trainer.precision={precision}; a prediction can follow "
            f"{', '.join(_AUTOCAST)}. Train it with one of these."
        )
    if precision in _APPROXIMATED:
        log.warning("Trained with precision %s; predicting %s.", precision, _APPROXIMATED[precision])
    dtype = _AUTOCAST[precision]
    if dtype is None or device.type != "cuda":
        if dtype is not None:
            log.info("Trained with precision %s; predicting on the CPU in float32.", precision)
        return None
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        log.warning("Trained with precision %s, but %s has no bfloat16: predicting in float32.", precision, name)
        return None
    return dtype


def chosen_dtype(precision: object, device: torch.device) -> torch.dtype | None:
    """What the convolutions are computed in where somebody chooses it; None for float32.

    Raises:
        ValueError: It is none of `CHOICES`, or the device does not compute in it.
    """
    if not isinstance(precision, str) or precision not in CHOICES:
        raise ValueError(
            f"precision={precision}: expected one of {', '.join(CHOICES)}, or null for that of the training."
        )
    dtype = CHOICES[precision]
    if dtype is not None and device.type != "cuda":
        raise ValueError(f"precision={precision}: a CPU predicts in float32. Leave it out, or predict on a GPU.")
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"precision={precision}: {torch.cuda.get_device_name(device)} has no bfloat16.")
    return dtype
