"""What the configs interpolate beyond OmegaConf's own resolvers."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf


def auto_precision(accelerator: str, wanted: str | None) -> str:
    """Precision for the trainer: what the model asks for, else bf16-mixed on a GPU and 32-true on a CPU."""
    if accelerator == "auto":
        import torch  # here, because tools that only plan or read data do without it

        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    on_gpu = accelerator in ("gpu", "cuda")
    return wanted or ("bf16-mixed" if on_gpu else "32-true")


def register_resolvers() -> None:
    """Make the configs' own resolvers known: ``auto_precision``, ``basename``, ``cpu_count`` and ``cwd``."""
    OmegaConf.register_new_resolver("auto_precision", auto_precision, replace=True)
    OmegaConf.register_new_resolver("cpu_count", lambda most: min(len(os.sched_getaffinity(0)), most), replace=True)
    # Not Hydra's runtime.cwd, which is unknown while the folder of a sweep is decided.
    OmegaConf.register_new_resolver("cwd", os.getcwd, replace=True)
    OmegaConf.register_new_resolver("basename", lambda path: Path(path).name, replace=True)
