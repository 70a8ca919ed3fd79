"""The networks of a bundle, ready to predict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from umamba.inference.averaged import AveragedPredictor
from umamba.inference.bundle import Source, read_bundle, said_of
from umamba.inference.devices import choose_device
from umamba.inference.predictor import Predictor
from umamba.inference.previous_checkpoints import check_previous_plan, facts_of_all
from umamba.inference.previous_stage import PreviousStage

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

    Returns:
        The predictor; and whether rules of post-processing were decided on these networks, if only that there be none.

    Raises:
        ValueError: See `read_bundle` and `Predictor.from_checkpoint`; or the rules do not fit the labels.
    """
    device = choose_device(device)
    bundle = read_bundle(path, trusted)
    parts = [
        _part(path, sources, bundle.previous.get(name, ()), device, mirror) for name, sources in bundle.groups.items()
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
    firsts = {name: f" upon {len(sources)} of the first stage" for name, sources in bundle.previous.items()}
    groups = [
        f"{len(sources)} of {name} ({part.configuration.name}){firsts.get(name, '')}"
        for (name, sources), part in zip(bundle.groups.items(), parts, strict=True)
    ]
    log.info(
        "%s: %s, by %s; %s%s.",
        path, " and ".join(groups), bundle.made_by, said_of(bundle.licence),
        f"; the largest component is kept of {rules}" * bool(rules),
    )  # fmt: skip
    return predictor, bundle.rules is not None


def _part(
    path: Path, sources: Sequence[Source], previous: Sequence[Source], device: torch.device, mirror: bool
) -> Predictor:
    """The networks of a group; of a cascade with those of the first stage before them.

    Raises:
        ValueError: See `predictor_of_bundle`; or the first stage is missing, is another than that of the training, or
            stands before networks that see the image alone.
    """
    own = [(path / one.name, one.content) for one in sources]
    predictor = Predictor.of_contents(own, device, mirror)
    name, stage = predictor.configuration.name, predictor.configuration.previous_stage
    if stage is None:
        if previous:
            raise ValueError(f"{path} holds a first stage for networks of {name}, which see the image alone.")
        return predictor
    facts = facts_of_all(own)
    hashes = dict(enumerate(one.hash for one in previous)) if facts is None else facts.hashes
    known = {one.hash: (path / one.name, one.content) for one in previous}
    if not known or known.keys() != set(hashes.values()):
        raise ValueError(
            f"{path} holds networks of {name} without those of {stage} that they were trained upon. Export it anew."
        )
    predictor.previous = PreviousStage.of_contents(
        {fold: known[one] for fold, one in hashes.items()},
        {} if facts is None else facts.held_out, device, mirror=mirror,
    )  # fmt: skip
    first = predictor.previous
    check_previous_plan(first.plan, first.configuration, predictor.plan, stage, path / previous[0].name)
    return predictor
