"""Of which data set each case is, where several were made into one, and which classes nobody has looked for in it.

`umamba.datamodules.prepare.joint` writes it into dataset.json: ``"sources": {name: {"cases": [...], "unlabelled":
[...], ...}}``. Programs that do not know the key pass over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.raw.description import DatasetError
from umamba.words import in_words

KEY = "sources"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set among those that were made into one.

    Attributes:
        name: What it is called.
        unlabelled: Classes that its labels do not know. Its background, where one of them may lie, carries the ignore
            label: for these classes nothing is known there, for all others it is background.
    """

    name: str
    unlabelled: tuple[str, ...] = ()


def sources_of(content: Mapping[str, Any], path: Path) -> dict[str, Source]:
    """Case -> data set that it is of; empty where dataset.json names none (else DatasetError)."""
    try:
        return {
            str(case): Source(name=name, unlabelled=tuple(map(str, entry.get("unlabelled") or ())))
            for name, entry in (content.get(KEY) or {}).items()
            for case in entry["cases"]
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise DatasetError(
            f'{path}: {KEY} must map names of data sets to {{"cases": [...], "unlabelled": [...]}} ({in_words(error)}).'
            " Correct it, or leave it out."
        ) from error
