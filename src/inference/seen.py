"""Which images the networks of a prediction were trained on: scores of these say nothing of new ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from umamba.inference.previous_facts import PreviousFacts
from umamba.raw.dataset import RawCase
from umamba.raw.image_marks import of_cases
from umamba.raw.known_images import WHY_DOUBT, known_marks
from umamba.words import count, listed

log = logging.getLogger(__name__)

KEY = "trained_on"  # of a record: case -> one of the answers; a case of which nothing is known is not there
YES, NO, BY_NAME = "yes", "no", "another image of that name"
UNTOLD = "cannot be told"
ANSWERS = (YES, NO, BY_NAME, UNTOLD)


@dataclass(frozen=True, kw_only=True)
class TrainingCases:
    """The training cases of one or more networks.

    Attributes:
        own: Marks by which they are known, see `umamba.raw.image_marks`.
        previous: Likewise of the networks of a cascade's previous stage.
        names: What they are called.
        complete: Whether those of all networks are known; imported ones and earlier versions do not say it.
    """

    own: frozenset[str] = frozenset()
    previous: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    complete: bool = False

    @classmethod
    def of(cls, checkpoints: Sequence[tuple[Any, Mapping[str, Any]]]) -> Self:
        """Those of checkpoints, given as files and their contents."""
        told: list[dict[str, str] | None] = []
        previous: set[str] = set()
        for path, content in checkpoints:
            cases = content.get("cases")
            cases = cases if isinstance(cases, dict) else {}
            known = cases.get("trained_on")
            told.append(of_cases(known, cases.get("files")) if isinstance(known, dict) else None)
            stage = PreviousFacts.of(content, path)
            previous |= set() if stage is None else set(stage.trained_on.values())
        found = [one for one in told if one is not None]
        return cls(
            own=frozenset(mark for one in found for mark in one.values()),
            previous=frozenset(previous),
            names=frozenset(name for one in found for name in one),
            complete=len(found) == len(told) > 0,
        )

    @classmethod
    def together(cls, parts: Iterable[Self]) -> Self:
        """Those of several predictors that are averaged."""
        parts = list(parts)
        return cls(
            own=frozenset[str]().union(*(part.own for part in parts)),
            previous=frozenset[str]().union(*(part.previous for part in parts)),
            names=frozenset[str]().union(*(part.names for part in parts)),
            complete=all(part.complete for part in parts),
        )

    def answer(self, case: RawCase, image: np.ndarray, *, out_of_fold: bool = False) -> dict[str, str]:
        """Case -> whether it is one of them, told by its image; nothing if nobody knows.

        Args:
            case: With its images.
            image: What they hold, (C, Z, Y, X) float32.
            out_of_fold: Whether networks of a cascade's previous stage see none of the cases that they have seen.
        """
        known = known_marks(self.own if out_of_fold else self.own | self.previous)
        try:
            match = known.find(case.images, array=image)
        except OSError:  # gone since it was read
            return {}
        if match.name is not None or match.doubt:
            return {case.identifier: UNTOLD if match.doubt else YES}
        if case.identifier in self.names:
            return {case.identifier: BY_NAME}
        if match.copy:
            return {case.identifier: UNTOLD}
        return {case.identifier: NO} if self.complete else {}


def say_seen(answers: Mapping[str, str], cases: Sequence[RawCase]) -> None:
    """Say which of the cases that were predicted the networks have been trained on."""
    if seen := sorted(case.identifier for case in cases if answers.get(case.identifier) == YES):
        log.warning(
            "The network was trained on %d of these cases: %s. Scores of them say nothing about new cases.",
            len(seen), listed(seen),
        )  # fmt: skip
    if doubtful := sorted(case.identifier for case in cases if answers.get(case.identifier) == UNTOLD):
        log.warning(
            "Nobody can tell whether the network was trained on %s: %s. %s",
            count(len(doubtful), "case"), listed(doubtful), WHY_DOUBT,
        )  # fmt: skip
