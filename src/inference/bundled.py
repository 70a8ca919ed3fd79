"""The networks of a bundle, ready to predict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from umamba.inference.averaged import AveragedPredictor
from umamba.inference.bundle import read_bundle, said_of
from umamba.inference.devices import choose_device
from umamba.inference.predictor import Predictor

log = logging.getLogger(__name__)


def predictor_of_bundle(
    path: Path,
    *,
    device: str | torch.device = "auto",
    mirror: bool = False,
    trusted: str | Sequence[str] = (),
    postprocessing: bool = True,
) -> tuple[Predictor, bool]:
    """Load what a bundle holds.

    Args:
        path: Of the file, see `umamba.inference.bundle`.
        device: As of `Predictor.from_checkpoint`.
        mirror: As of `Predictor.from_checkpoint`.
        trusted: As of `Predictor.from_checkpoint`.
        postprocessing: Apply its rules.

    Returns:
        The predictor; and whether rules of post-processing were decided on these networks, if only that there be none.

    Raises:
        ValueError: See `read_bundle` and `Predictor.from_checkpoint`; or the rules do not fit the labels.
    """
    device = choose_device(device)
    bundle = read_bundle(path, trusted)
    parts = [
        Predictor.of_contents([(path / one.name, one.content) for one in sources], device, mirror)
        for sources in bundle.groups.values()
    ]
    predictor = parts[0] if len(parts) == 1 else AveragedPredictor(parts)
    if bundle.mirror not in (None, mirror):
        log.warning(
            "The rules in %s were decided with mirror=%s; this prediction is made with mirror=%s.",
            path, str(bundle.mirror).lower(), str(mirror).lower(),
        )  # fmt: skip
    if postprocessing:
        predictor.rules = bundle.rules_for(predictor.plan.foreground, path)
    rules = "; ".join(", ".join(rule.classes) for rule in predictor.rules)
    log.info(
        "%s: %s, by %s; %s%s.",
        path, " and ".join(f"{len(sources)} of {name}" for name, sources in bundle.groups.items()), bundle.made_by,
        said_of(bundle.licence), f"; the largest component is kept of {rules}" * bool(rules),
    )  # fmt: skip
    return predictor, bundle.rules is not None
