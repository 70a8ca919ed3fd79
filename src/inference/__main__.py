"""Segment the images of a folder with a trained checkpoint; no data set definition is needed.

    python predict.py checkpoint=logs/.../checkpoints/last.ckpt input=images output=predictions

Several checkpoints (``checkpoint=[a.ckpt,b.ckpt]``) are averaged. Images of several channels are named NAME_0000,
NAME_0001, ... as nnU-Net does; single-channel images may have any name. A case that cannot be predicted is named, the
others are predicted all the same, and the exit code is then 1.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig

from umamba.files import writing_into
from umamba.inference.folders import cases_in_folder, check_apart
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor
from umamba.locations import CONFIGS
from umamba.run.errors import explained
from umamba.run.stop import ends_on_signals

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="predict")
@explained()
def main(cfg: DictConfig) -> None:
    check_apart(Path(cfg.input), Path(cfg.output))
    checkpoints = list(cfg.checkpoint) if isinstance(cfg.checkpoint, ListConfig) else cfg.checkpoint
    predictor = Predictor.from_checkpoint(checkpoints, device=cfg.device, mirror=cfg.mirror, trusted=cfg.trusted)
    ending = cfg.file_ending or predictor.plan.file_ending
    faults: dict[str, str] = {}
    cases = cases_in_folder(Path(cfg.input), ending, len(predictor.plan.channel_names), faults)
    unnamed = list(faults)
    predictor.outputs(cases, Path(cfg.output))  # refused before the folder is made
    try:
        with writing_into(Path(cfg.output)):
            written = predictor.predict_cases(cases, Path(cfg.output))
    except CasesFailedError as failed:
        written = failed.written
        log.error("%s", failed)
        faults |= failed.failures
    for name in unnamed:
        log.error("Case %r was left out: %s", name, faults[name])
    log.info("Wrote %d label map(s) to %s.", len(written), cfg.output)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    with ends_on_signals(), explained():
        main()
