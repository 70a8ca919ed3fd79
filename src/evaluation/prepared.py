"""Before the first case is predicted: load the checkpoints, choose the cases, and refuse what would fail later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.doctor.quick import header_faults
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import references_of
from umamba.evaluation.postprocessing import refuse_fitted
from umamba.evaluation.record import digest_of
from umamba.evaluation.same_meaning import check_same_meaning
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.tables import check_parquet
from umamba.inference.predictor import Predictor
from umamba.inference.rules import Rule, load_rules
from umamba.raw.checks import log_warnings, raise_errors
from umamba.raw.dataset import RawCase


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What may be asked for when checkpoints are predicted with and scored.

    Attributes:
        cases: "test", or "validation" for the cases that the checkpoints were validated with, see `choose_cases`.
        protocol: "standard", or "paper" for comparisons with the paper's tables.
        grow: Instance data only: px by which predicted instances are grown back over the boundary class; None for what
            the data module says.
        mirror, device, trusted, previous_stage: As for `umamba.inference.predictor.Predictor.from_checkpoint`.
        postprocessing: File of rules; the scores then hold both, apart by "run": "plain" and "post-processed".
        parquet: Write scores.parquet too (needs pyarrow).
        workers: Processes that score; 0 or 1 scores in this one, None takes the CPUs at hand.
    """

    cases: str = "test"
    protocol: str = "standard"
    grow: float | None = None
    mirror: bool = False
    device: str = "auto"
    trusted: str | Sequence[str] = ()
    previous_stage: Any = None
    postprocessing: Path | str | None = None
    parquet: bool = False
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is to be predicted and scored, after all that can be refused before has been looked at.

    Attributes:
        predictor: With the checkpoints' networks.
        members: The checkpoints.
        contents: `digest_of` each of them.
        chosen: The cases.
        scored: What they are, see `choose_cases`.
        rules: Of post-processing; None for none.
        scoring: How the predictions are scored.
    """

    predictor: Predictor
    members: list[Member]
    contents: list[str]
    chosen: list[RawCase]
    scored: str
    rules: list[Rule] | None
    scoring: Scoring


def prepare(
    checkpoints: Sequence[Path | str], datamodule: SegmentationDataModule, folder: Path, options: RunOptions
) -> Prepared:
    """Load checkpoints and choose cases; arguments as of `predict_and_score`. Nothing is written.

    Raises:
        ValueError, FileNotFoundError, ImportError: See `Predictor`, `check_same_meaning`, `choose_cases`, `load_rules`,
            `refuse_fitted`, `Scoring`, `references_of`, `header_faults` and `check_parquet`.
    """
    paths = [Path(path) for path in checkpoints]
    contents = [digest_of(path) if path.is_file() else "" for path in paths]
    predictor = Predictor.from_checkpoint(
        checkpoints, device=options.device, mirror=options.mirror, trusted=options.trusted,
        previous_stage=options.previous_stage,
    )  # fmt: skip
    members = [Member.read(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if digest_of(path) != content:
            raise ValueError(f"{path} was replaced while it was read: its training goes on. Score a copy of it.")
    for member in members:
        check_same_meaning(member, datamodule.raw)
    chosen, scored = choose_cases(members, datamodule, options.cases)
    if predictor.previous is not None and scored != "test":
        predictor.previous.only_unseen([case.identifier for case in chosen])
    rules = None
    if options.postprocessing is not None:
        if datamodule.task == "instances":
            raise ValueError("postprocessing=... keeps the largest component of a class, which no instances survive.")
        rules = load_rules(options.postprocessing, predictor.plan.foreground)
        if scored != "test":
            refuse_fitted(options.postprocessing, [case.identifier for case in chosen])
    scoring = Scoring.of(
        predictor.plan,
        task=datamodule.task,
        tolerance=datamodule.nsd_tolerance,
        protocol=options.protocol,
        grow=datamodule.grow if options.grow is None else options.grow,
    )
    check_parquet(options.parquet)
    references_of(chosen, scoring)
    findings = [finding for case in chosen for finding in header_faults(case)[0]]
    raise_errors(findings)
    log_warnings(findings)
    predictor.outputs(chosen, folder / "predictions")
    return Prepared(
        predictor=predictor,
        members=members,
        contents=contents,
        chosen=chosen,
        scored=scored,
        rules=rules,
        scoring=scoring,
    )
