"""Segment the images of a folder with a trained checkpoint; no data set definition is needed.

    python predict.py checkpoint=logs/.../checkpoints/last.ckpt input=images output=predictions

Several checkpoints (``checkpoint=[a.ckpt,b.ckpt]``) are averaged, and so are the folds of a cross-validation
(``checkpoint=<its folder>``), with the post-processing that was decided on them. Images of several channels are named
NAME_0000, NAME_0001, ... as nnU-Net does; single-channel images may have any name. A case that cannot be predicted is
named, the others are predicted all the same, and the exit code is then 1.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "predict")  # before the imports that take seconds

import logging
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from umamba.files import check_takes_files
from umamba.inference.averaged import predictor_of
from umamba.inference.bundle import bundle_in
from umamba.inference.bundled import predictor_of_bundle
from umamba.inference.devices import choose_device
from umamba.inference.ensemble import find_ensemble
from umamba.inference.folders import check_apart
from umamba.inference.kept import parse_probabilities
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor
from umamba.inference.record import parse_part
from umamba.inference.rules import load_rules
from umamba.inference.sliding_window import check_step
from umamba.plain import check_option_types, plain
from umamba.run.command import command, run_command
from umamba.run.errors import environment_of_children
from umamba.run.stop import goes_on_with
from umamba.run.sweep import config_options, follow_sweep, tied

TYPES = {  # of the configuration; what is not here is looked at where it is used
    "checkpoint": Path | list[Path] | None, "model_folder": Path | None, "previous_stage": Path | list[Path] | None,
    "folds": list[int | str] | None, "input": Path, "output": Path, "file_ending": str | None, "mirror": bool,
    "postprocessing": Path | bool | None, "labels": str | list | None, "save_logits": bool, "continue": bool,
    "trusted": str | list[str] | None,
}  # fmt: skip

log = logging.getLogger(__name__)


@command("predict")
def main(cfg: DictConfig) -> None:
    follow_sweep()
    check_option_types(cfg, TYPES)
    kind = parse_probabilities(cfg.probabilities)
    check_step(cfg.step)
    check_apart(Path(cfg.input), Path(cfg.output))
    check_takes_files(cfg.output, "output")
    if isinstance(cfg.device, ListConfig):
        share(list(cfg.device), cfg.part)
        return
    part = parse_part(cfg.part)
    keep = [name for name, wanted in (("probabilities", kind), ("logits", cfg.save_logits)) if wanted]
    if (cfg.checkpoint is None) == (cfg.model_folder is None):
        raise ValueError("Give either checkpoint=... or model_folder=...")
    predictor = load(cfg)
    predictor.step = cfg.step
    if cfg.precision is not None:
        predictor.run_in(cfg.precision)
    if not cfg["continue"]:
        goes_on_with("continue=true")
    try:
        predictor.segment_files(
            cfg.input, cfg.output, file_ending=cfg.file_ending, keep=keep, nifti=kind == "nifti",
            labels=plain(cfg.labels), resume=cfg["continue"], part=part,
        )  # fmt: skip
    except CasesFailedError as failed:
        log.error("%s", failed)
        sys.exit(1)


def load(cfg: DictConfig) -> Predictor:
    """The networks, and the rules of post-processing, that the call names.

    Raises:
        ValueError, FileNotFoundError: See `Predictor`, `predictor_of`, `predictor_of_bundle` and `load_rules`; or an
            option would do nothing.
    """
    rules, decided = cfg.postprocessing, False
    if cfg.model_folder is not None:
        if cfg.previous_stage is not None:
            raise ValueError(
                "previous_stage=... is of our checkpoints; model_folder=... of a cascade is not predicted with. Import "
                "both stages (python -m umamba.models.import_weights) and give checkpoint=... and previous_stage=..."
            )
        if cfg.trusted:
            raise ValueError(
                f"trusted={plain(cfg.trusted)} would do nothing: of model_folder=... only networks of nnU-Net and "
                "U-Mamba are built. Leave it out."
            )
        predictor = Predictor.from_model_folder(
            cfg.model_folder, plain(cfg.folds), device=cfg.device, mirror=cfg.mirror
        )
    else:
        if cfg.folds is not None:
            raise ValueError("folds=... chooses among those of model_folder=...; give their checkpoints instead.")
        checkpoint, place = plain(cfg.checkpoint), plain(cfg.previous_stage)
        ensemble, bundle = find_ensemble(checkpoint), bundle_in(checkpoint)
        if ensemble is not None:
            decided = True
            predictor = predictor_of(
                ensemble, device=cfg.device, mirror=cfg.mirror, trusted=cfg.trusted, postprocessing=rules is None,
                previous_stage=place,
            )  # fmt: skip
        elif bundle is not None:
            if place is not None:
                raise ValueError(
                    f"previous_stage={place} would do nothing: a bundle of a cascade holds both stages. Leave it out."
                )
            predictor, decided = predictor_of_bundle(
                bundle, device=cfg.device, mirror=cfg.mirror, trusted=cfg.trusted, postprocessing=rules is None
            )
        else:
            predictor = Predictor.from_checkpoint(checkpoint, cfg.device, cfg.mirror, cfg.trusted, place)
    if isinstance(rules, bool):
        if rules or not decided:
            raise ValueError(
                "postprocessing=... is a file of rules, or false to leave out those of an ensemble.json or a bundle, "
                f"which are applied without it; it is {rules} for checkpoints that have none."
            )
    elif rules is not None:
        predictor.rules = load_rules(rules, predictor.plan.foreground)
    return predictor


def share(devices: list[str], part: str | None) -> None:
    """Run this program once per device, each with its part of the cases, and end as they end.

    Raises:
        ValueError: There is no device, or the parts are given too.
    """
    if not devices or part is not None:
        raise ValueError(f"device={devices} makes a part of the cases for each device: name some, and leave part out.")
    for device in devices:  # or the others would predict their part before this one is refused
        choose_device(device)
    given = [line for line in HydraConfig.get().overrides.task if not line.startswith(("device=", "part="))]
    command = [sys.executable, "-m", "umamba.inference", *config_options(HydraConfig.get()), *given]
    environment = {**environment_of_children(), **tied()}
    running = [
        subprocess.Popen([*command, f"device={device}", f"part={number}/{len(devices)}"], env=environment)
        for number, device in enumerate(devices)
    ]
    try:
        codes = [process.wait() for process in running]
    finally:
        for process in running:  # told to stop, this program takes them along
            process.terminate()
            process.wait()
    if any(codes):
        log.error("Of the processes for %s some failed, with exit codes %s; see above.", devices, codes)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
