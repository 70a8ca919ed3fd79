"""What the configs interpolate beyond OmegaConf's own resolvers."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from umamba.machine import usable_cpus

log = logging.getLogger(__name__)

_LONGEST_NAME = 120  # characters of a job's name


def auto_precision(accelerator: str, wanted: str | None) -> str:
    """Precision for the trainer: what the model asks for, else what suits the device.

    bf16-mixed on a GPU that computes in bfloat16, 16-mixed on an older one (V100, T4, RTX 20), 32-true on a CPU. Asking
    the GPU sets CUDA up in this process, so it happens where the value is used: composing alone does not ask.
    """
    if wanted:
        return wanted
    precision, reason = _device_precision(accelerator)
    _say_once(f"Precision {precision}: {reason} (trainer.precision changes it).")
    return precision


def _device_precision(accelerator: str) -> tuple[str, str]:
    if accelerator not in ("auto", "gpu", "cuda"):
        return "32-true", f"trainer.accelerator={accelerator}"
    import torch  # here, because tools that only plan or read data do without it

    if not torch.cuda.device_count():
        return ("32-true", "no GPU was found") if accelerator == "auto" else ("bf16-mixed", "no GPU to ask was found")
    cards = range(torch.cuda.device_count())
    old = [card for card in cards if torch.cuda.get_device_capability(card) < (8, 0)]  # below Ampere it is emulated
    if torch.version.hip is None and old:
        return "16-mixed", f"{torch.cuda.get_device_name(old[0])} has no bfloat16 arithmetic"
    return "bf16-mixed", f"{torch.cuda.get_device_name(cards[0])} computes in bfloat16"


def job_name(overrides: Sequence[str], params: Mapping[str, Any] | None) -> str:
    """Name of the folder of a sweep's job: the overrides that the sweep varies; of one that varies nothing, all.

    It is the same whatever other jobs the sweep has, so that a sweep that is asked again finds those that are done.
    """
    varied = {*(params or {}), *_varied_on_the_command_line()}
    shown = [override for override in overrides if override.partition("=")[0].lstrip("+~") in varied] or overrides
    text = "_".join(sorted(override.replace("=", "-", 1) for override in shown))
    name = re.sub(r"[^\w.+-]+", "_", text).strip("._")  # as it needs no quotes on the command line
    if name and name == text and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME] or 'default'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _varied_on_the_command_line() -> set[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # only a sweep needs it

    given = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(given)
    except HydraException:  # other programs' arguments
        return set()
    return {override.key_or_group for override in parsed if override.is_sweep_override()}


@cache
def _say_once(message: str) -> None:
    log.info(message)


def register_resolvers() -> None:
    """Make the configs' own resolvers known: ``auto_precision``, ``basename``, ``cpu_count``, ``cwd``, ``job_name``."""
    OmegaConf.register_new_resolver("auto_precision", auto_precision, replace=True)
    OmegaConf.register_new_resolver("cpu_count", lambda most: min(usable_cpus(), most), replace=True)
    # Not Hydra's runtime.cwd, which is unknown while the folder of a sweep is decided.
    OmegaConf.register_new_resolver("cwd", os.getcwd, replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("basename", lambda path: Path(path).name, replace=True)
