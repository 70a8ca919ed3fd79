"""One file to hand over: the weights of a checkpoint with its plan and configuration, without optimiser states.

    umamba export checkpoint=logs/.../checkpoints/last.ckpt output=liver.ckpt

predict.py and eval.py read it as they read the checkpoint, at about a third of its size where the optimiser keeps one
state for each weight. Nothing of where it was trained stays in it but what the configuration says.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "export")  # before the imports that take seconds

import logging
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from umamba.files import atomic_file
from umamba.locations import CONFIGS
from umamba.models.checkpoint import load_checkpoint

KEPT = ("state_dict", "plan", "configuration", "config", "provenance", "cases", "epoch", "global_step", "loops")
FORMATS = ("bundle",)

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="export")
def main(cfg: DictConfig) -> None:
    """See the module."""
    if cfg.format not in FORMATS:
        raise ValueError(f"format is {cfg.format!r}; this version writes {', '.join(FORMATS)}.")
    path = export_bundle(Path(cfg.checkpoint), Path(cfg.output), trusted=cfg.trusted)
    log.info("%s: %.1f MB.", path, path.stat().st_size / 1e6)


def export_bundle(checkpoint: Path, output: Path, *, trusted: Any = ()) -> Path:
    """Write the part of a checkpoint that predicting and scoring need.

    Args:
        checkpoint: of train.py or of the importer.
        output: file to write.
        trusted: see `load_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: see `load_checkpoint`.
        ValueError: `output` is the checkpoint itself.
    """
    if output.resolve() == checkpoint.resolve():
        raise ValueError(f"output is the checkpoint itself ({output}), which would lose its optimiser states.")
    content = load_checkpoint(checkpoint, trusted)
    with atomic_file(output) as beside, open(beside, "wb") as file:
        torch.save({key: content[key] for key in KEPT if key in content}, file)
    return output


if __name__ == "__main__":
    main()
