"""What a checkpoint of a cascade's second stage says of the first one: which networks they were, where they lay."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from umamba.words import in_words

KEY = "previous_stage"  # of a checkpoint; in configurations: where the previous stage lies


@dataclass(frozen=True, kw_only=True)
class PreviousMember:
    """A fold of the previous stage.

    Attributes:
        fold: Its number.
        checkpoint: Its file, absolute.
        relative: The same, from the folder of the second stage's checkpoint.
        hash: `umamba.files.file_hash` of the file.
        held_out: The cases that it did not see.
    """

    fold: int
    checkpoint: str
    relative: str
    hash: str
    held_out: tuple[str, ...]

    def find(self, beside: Path) -> list[Path]:
        """Where its file may lie, for the second stage's checkpoint `beside`."""
        places = (Path(os.path.abspath(beside.parent / self.relative)), Path(self.checkpoint))
        return [path for path in places if path.is_file()]


@dataclass(frozen=True, kw_only=True)
class PreviousFacts:
    """The previous stage of a network.

    Attributes:
        configuration: Of the plan.
        training: Hash of all that decided its weights but fold and seed.
        mirror: Whether what it segmented for the training is averaged over mirrored inputs.
        members: Its folds.
        trained_on: Case that any of them has seen -> mark by which it is known, see `umamba.raw.image_marks`.
    """

    configuration: str
    training: str
    mirror: bool
    members: tuple[PreviousMember, ...]
    trained_on: Mapping[str, str]

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], path: Path | str) -> Self | None:
        """What a checkpoint says; None of one that has no previous stage (else ValueError)."""
        content = checkpoint.get(KEY)
        if content is None:
            return None
        try:
            members = tuple(
                PreviousMember(
                    fold=int(one["fold"]), held_out=tuple(map(str, one["held_out"])),
                    **{key: str(one[key]) for key in ("checkpoint", "relative", "hash")},
                )
                for one in content["members"]
            )  # fmt: skip
            seen = {str(case): str(mark) for case, mark in content["trained_on"].items()}
            if not members or len({one.fold for one in members}) < len(members):
                raise ValueError("it names no fold, or one twice")
            return cls(
                configuration=str(content["configuration"]), training=str(content["training"]),
                mirror=content["mirror"] is True, members=members, trained_on=seen,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: {KEY} does not say what the previous stage was ({in_words(error)}).") from error

    def to_plain(self) -> dict[str, Any]:
        """As checkpoints keep it."""
        content = dataclasses.asdict(self)
        members = [{**one, "held_out": list(one["held_out"])} for one in content["members"]]
        return {**content, "members": members, "trained_on": dict(self.trained_on)}

    @property
    def hashes(self) -> dict[int, str]:
        """Fold -> hash of its checkpoint."""
        return {one.fold: one.hash for one in self.members}

    @property
    def held_out(self) -> dict[str, int]:
        """Case -> the fold that did not see it."""
        return {case: one.fold for one in self.members for case in one.held_out}


def member_of(fold: int, path: Path, known: str, held_out: Iterable[str], folder: Path) -> PreviousMember:
    """A fold as it is now.

    Args:
        fold: Its number.
        path: Of its checkpoint.
        known: `umamba.files.file_hash` of that.
        held_out: The cases that it did not see.
        folder: In which the second stage's checkpoint will lie.
    """
    path = path.resolve()
    return PreviousMember(
        fold=fold, checkpoint=str(path), relative=os.path.relpath(path, folder.resolve()), hash=known,
        held_out=tuple(sorted(held_out)),
    )  # fmt: skip
