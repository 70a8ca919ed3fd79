"""A trained network as a file for others.

    umamba export checkpoint=logs/.../checkpoints/last.ckpt output=liver.ckpt

format=bundle writes one file for predict.py, with weights, plan, configuration, post-processing rules, hashes and
licence, at about a third of the checkpoint's size where the optimiser keeps one state for each weight.
format=torch_export (.pt2) and format=onnx (.onnx) write the network alone, as a graph whose outputs were compared with
the network's; a .json beside it says what must go in. format=nnunet writes a model folder for nnU-Net's own tools.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "export")  # before the imports that take seconds

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from umamba.export.given import read_given, read_licence
from umamba.export.model_folder import write_model_folder
from umamba.export.onnx_file import check_packages, write_onnx
from umamba.export.place import SUFFIXES, check_place, check_suffix
from umamba.export.traced import write_torch_export
from umamba.files import amount
from umamba.inference.bundle import said_of, write_bundle
from umamba.plain import check_option_types, plain
from umamba.run.command import command, run_command
from umamba.words import count

FORMATS: dict[str, Callable[..., Any]] = {
    "bundle": write_bundle,
    "torch_export": write_torch_export,
    "onnx": write_onnx,
    "nnunet": write_model_folder,
}
# Options of some formats: their values that change nothing, and the formats
OPTIONS: dict[str, tuple[object, tuple[str, ...]]] = {
    "postprocessing": (None, ("bundle",)),
    "previous_stage": (None, ("bundle",)),
    "fixed_size": (False, tuple(SUFFIXES)),
}
TYPES = {  # of the configuration
    "checkpoint": Path | list[Path], "output": Path, "format": str, "overwrite": bool, "licence": str | None,
    "postprocessing": Path | bool | None, "fixed_size": bool, "trusted": str | list[str] | None,
    "previous_stage": Path | list[Path] | None,
}  # fmt: skip

log = logging.getLogger(__name__)


@command("export")
def main(cfg: DictConfig) -> None:
    """See the module."""
    check_option_types(cfg, TYPES)
    if cfg.format not in FORMATS:
        raise ValueError(f"format is {cfg.format!r}; known are {', '.join(FORMATS)}.")
    for name, (neutral, formats) in OPTIONS.items():
        if cfg[name] != neutral and cfg.format not in formats:
            raise ValueError(
                f"{name}={cfg[name]} does nothing with format={cfg.format}; it is for {', '.join(formats)}."
            )
    output, checkpoint = Path(cfg.output), plain(cfg.checkpoint)
    check_place(output, checkpoint, folder=cfg.format == "nnunet", overwrite=cfg.overwrite)
    if cfg.format in SUFFIXES:
        check_suffix(output, SUFFIXES[cfg.format], overwrite=cfg.overwrite)
    elif other := next((name for name, suffix in SUFFIXES.items() if output.suffix == suffix), None):
        raise ValueError(
            f"output={output} ends as a file of format={other} does, and this is format={cfg.format}. Give the other "
            "format, or another name."
        )
    if cfg.format == "onnx":
        check_packages()
    given = read_given(
        checkpoint,
        postprocessing=cfg.postprocessing,
        licence=read_licence(cfg.licence),
        trusted=plain(cfg.trusted),
        previous_stage=plain(cfg.previous_stage),
    )
    FORMATS[cfg.format](given, output, **({"fixed_size": cfg.fixed_size} if cfg.format in SUFFIXES else {}))
    size = sum(path.stat().st_size for path in (output.rglob("*") if output.is_dir() else [output]) if path.is_file())
    networks = count(len(given.sources), "network")
    log.info("%s: %s, %s; %s.", output, amount(size), networks, said_of(given.licence))
    if given.licence is None:
        log.info("No licence was given. To say how others may use it: licence=CC-BY-4.0, or a file with the text.")


if __name__ == "__main__":
    run_command(main)
