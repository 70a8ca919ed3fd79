"""ensemble.json: which checkpoints predict together, and what is done to their label maps; plain data.

A cross-validation writes one into its folder, and so does the search for the best configuration. Checkpoints of one
plan and configuration are a group: their logits are averaged. Of several groups the probabilities are, on the image's
own grid, where alone they lie on one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from umamba.files import file_hash, load_json, write_json
from umamba.inference.rules import KEY, Rule, rules_of, rules_to_plain
from umamba.models.checkpoint import checkpoint_in
from umamba.words import in_words

FILE = "ensemble.json"
_VERSION = 1
_RUN_AGAIN = "Run the command that made it again: it goes on with what is missing."


@dataclass(frozen=True, kw_only=True)
class Group:
    """Checkpoints of one plan and configuration.

    Attributes:
        name: What messages call the group.
        checkpoints: The checkpoint files.
        hashes: `umamba.files.file_hash` of each file, in the same order.
    """

    name: str
    checkpoints: tuple[Path, ...]
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, checkpoints: Sequence[Path]) -> Self:
        """A group of checkpoints as they are now."""
        return cls(name=name, checkpoints=tuple(checkpoints), hashes=tuple(file_hash(path) for path in checkpoints))


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What an ensemble.json says.

    Attributes:
        path: Where the ensemble.json lies.
        groups: One, or several whose probabilities are averaged.
        mirror: Whether the rules were decided on predictions averaged over mirrored inputs.
        content: All that the file holds, as plain data.
    """

    path: Path
    groups: tuple[Group, ...]
    mirror: bool
    content: Mapping[str, Any]

    def rules(self, labels: Mapping[str, int | Sequence[int]]) -> list[Rule]:
        """The rules of post-processing (else ValueError)."""
        return rules_of(self.content, labels, self.path)

    def check_unchanged(self) -> None:
        """See that the checkpoints are those that the rules were decided with (else ValueError)."""
        for group in self.groups:
            for path, known in zip(group.checkpoints, group.hashes, strict=True):
                if file_hash(path) != known:
                    raise ValueError(
                        f"{path} is another checkpoint than the one that {self.path} was made with: it was trained on, "
                        f"or replaced. {_RUN_AGAIN}"
                    )


def find_ensemble(checkpoint: object) -> Path | None:
    """The ensemble.json that a ``checkpoint=...`` names: itself, or the folder that holds it; None for a checkpoint.

    Raises:
        FileNotFoundError: It names a folder without one; says which folds it has.
    """
    if not isinstance(checkpoint, (str, Path)):
        return None
    path = Path(checkpoint)
    if path.suffix == ".json":
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}.")
        return path
    if not path.is_dir():
        return None
    if (path / FILE).is_file():
        return path / FILE
    if (one := checkpoint_in(path)) is not None:
        raise FileNotFoundError(f"{path} is the folder of one run, not of a cross-validation. Give checkpoint={one}")
    folds = sorted(folder.name for folder in path.glob("fold_*") if folder.is_dir())
    trained = [name for name in folds if (path / name / "checkpoints" / "last.ckpt").is_file()]
    found = f"it has checkpoints of {', '.join(trained) or 'no fold'}"
    unfinished = sorted(set(folds) - set(trained))
    found += f", and {', '.join(unfinished)} without one" if unfinished else ""
    raise FileNotFoundError(
        f"{path} holds no {FILE}, which a cross-validation writes when all its folds are trained and scored; {found}. "
        f"{_RUN_AGAIN} Single checkpoints are given as checkpoint=[a.ckpt,b.ckpt]."
    )


def read_ensemble(path: Path) -> Ensemble:
    """Read an ensemble.json; nothing is loaded of what it names.

    Raises:
        ValueError: It is none.
        FileNotFoundError: Checkpoints that it names are missing; names all of them.
    """
    try:
        content = load_json(path)
        if content["version"] != _VERSION:
            raise ValueError(f"its version is {content['version']!r}, expected {_VERSION}")
        groups = tuple(
            Group(
                name=str(group["name"]),
                checkpoints=tuple(path.parent / member["checkpoint"] for member in group["members"]),
                hashes=tuple(str(member["hash"]) for member in group["members"]),
            )
            for group in content["groups"]
        )
        mirror = content["mirror"]
        if not groups or not all(group.checkpoints for group in groups) or not isinstance(mirror, bool):
            raise ValueError("it names no checkpoints, or does not say whether to mirror")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no ensemble of checkpoints ({in_words(error)}). A cross-validation writes one, as {FILE}, and "
            "so does `python -m umamba.cross_validation`."
        ) from error
    missing = [str(one) for group in groups for one in group.checkpoints if not one.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} names checkpoints that are not there: {', '.join(missing)}. {_RUN_AGAIN} Paths are relative to "
            "the file: move it together with them."
        )
    return Ensemble(path=path, groups=groups, mirror=mirror, content=content)


def write_ensemble(
    path: Path,
    groups: Sequence[Group],
    rules: Sequence[Rule],
    *,
    mirror: bool,
    fitted_on: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write an ensemble.json.

    Args:
        path: The file to write.
        groups: The checkpoints that predict together, by plan and configuration.
        rules: Rules of post-processing, in the order in which they are applied.
        mirror: Whether the rules were decided on predictions averaged over mirrored inputs.
        fitted_on: Names of the cases that the rules were decided on.
        facts: What else the file shall hold, as plain data.
    """
    place = path.parent.resolve()
    content = {
        "version": _VERSION,
        "groups": [
            {
                "name": group.name,
                "members": [
                    {"checkpoint": os.path.relpath(one.resolve(), place), "hash": known}
                    for one, known in zip(group.checkpoints, group.hashes, strict=True)
                ],
            }
            for group in groups
        ],
        "mirror": mirror,
        KEY: rules_to_plain(rules),
        "fitted_on": sorted(fitted_on),
        **facts,
    }
    write_json(content, path)
