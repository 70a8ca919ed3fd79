"""What surrounds a run: provenance, a W&B logger that never asks, sweep jobs in own processes."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
RECORDED_PACKAGES = ("torch", "lightning", "monai", "torchio", "numpy", "SimpleITK", "blosc2")


def is_sweep_job() -> bool:
    """Whether this call is one job of ``--multirun``."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_in_own_process(script: str | Path) -> None:
    """Run one job of a sweep as ``python script overrides...``, so that nothing is left behind for the next job.

    Raises:
        RuntimeError: the job failed; its own output says why.
    """
    hydra = HydraConfig.get()
    run_dir = Path(hydra.sweep.dir) / hydra.sweep.subdir
    command = [sys.executable, str(script), *hydra.overrides.task, f"run_dir={run_dir}"]
    log.info("Job %s: %s", hydra.job.num, " ".join(hydra.overrides.task))
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise RuntimeError(
            f"Job {hydra.job.num} ({' '.join(hydra.overrides.task)}) ended with code {result.returncode}."
        )


def save_run(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Write config.yaml (resolved), overrides.txt and provenance.json into the run's folder.

    Returns:
        ``{"config": ..., "provenance": ...}`` as plain data, for the checkpoints.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    config = OmegaConf.to_container(cfg, resolve=True)
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    provenance = {
        "git_revision": git_revision(),
        "overrides": overrides,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in RECORDED_PACKAGES},
    }
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    (run_dir / "overrides.txt").write_text("\n".join(overrides) + "\n")
    (run_dir / "provenance.json").write_text(json.dumps(provenance, indent=1))
    return {"config": config, "provenance": provenance}


def git_revision() -> str | None:
    """Commit of the code, with ``-dirty`` where tracked files were changed; None outside a git checkout."""
    try:
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def has_wandb_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or in the user's netrc."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def wandb_logger(**arguments: Any) -> Any:
    """Lightning's WandbLogger, offline where there is no API key, so that it never prompts or blocks.

    Offline runs are uploaded later with ``wandb sync <run folder>/wandb/offline-run-*``.
    """
    from lightning.pytorch.loggers import WandbLogger

    if os.environ.get("WANDB_MODE") is None and not has_wandb_key():
        log.warning("No W&B API key: logging offline. Upload later with `wandb sync`; `wandb login` sets a key.")
        arguments |= {"offline": True, "mode": "offline"}  # wandb has read WANDB_MODE by now, which offline would set
    return WandbLogger(**arguments)
