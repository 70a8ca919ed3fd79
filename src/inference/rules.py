"""Post-processing of label maps: of some classes keep the largest connected component, where that was found to help.

Which rules help is decided by `umamba.evaluation.postprocessing`; here they are applied, and read from plain data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.measure

from umamba.files import load_json
from umamba.typed import has_type
from umamba.words import in_words

KEY = "keep_largest"  # of the rules in a file of JSON
_NO_RULES = (
    "{} holds no post-processing rules ({}). Expected the postprocessing.json that eval.py fit_postprocessing=true "
    "writes, or the ensemble.json of a cross-validation."
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Keep only the largest connected component of the union of some classes.

    Attributes:
        classes: Their names; several are taken as one object.
        labels: Their values; of regions, those that one of them is made of.
        dice_before: Mean validation DSC over these classes without the rule, in [0, 1].
        dice_after: The same with it.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    dice_before: float
    dice_after: float


def keep_largest(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """A copy of a label map in which only the largest component of the union of some values is left.

    Connectivity is full, diagonals included; everything else of these values becomes background.
    """
    mask = np.isin(label, values)
    components = skimage.measure.label(mask, connectivity=label.ndim)
    sizes = np.bincount(components.ravel())
    if len(sizes) <= 2:
        return label.copy()
    sizes[0] = 0
    return np.where(mask & (components != sizes.argmax()), 0, label).astype(label.dtype)


def apply_rules(label: np.ndarray, rules: Sequence[Rule]) -> np.ndarray:
    """A label map after all rules, in their order."""
    for rule in rules:
        label = keep_largest(label, rule.labels)
    return label


def rules_to_plain(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Rules as a file keeps them under `KEY`."""
    return [asdict(rule) for rule in rules]


def values_of(labels: Mapping[str, int | Sequence[int]], names: Iterable[str]) -> tuple[int, ...]:
    """All values of some classes or regions, each once, in their order."""
    made_of = (labels[name] for name in names)
    return tuple(dict.fromkeys(v for values in made_of for v in ([values] if isinstance(values, int) else values)))


def rules_of(content: Mapping[str, Any], labels: Mapping[str, int | Sequence[int]], path: Path) -> list[Rule]:
    """The rules in the content of a file, if they fit a label set.

    Raises:
        ValueError: It holds no rules, or they name a class that the labels lack or number differently.
    """
    try:
        if not isinstance(content[KEY], list):
            raise TypeError(f"{KEY} is no list")
        rules = [Rule(**(entry | {k: tuple(entry[k]) for k in ("classes", "labels")})) for entry in content[KEY]]
        if any(not rule.classes or not has_type(rule.classes, tuple[str, ...]) for rule in rules):
            raise TypeError("classes must be names, at least one")
        if not all(has_type(rule.labels, tuple[int, ...]) for rule in rules):
            raise TypeError("labels must be whole numbers")
        if not all(has_type((rule.dice_before, rule.dice_after), tuple[float, ...]) for rule in rules):
            raise TypeError("dice_before and dice_after must be numbers")
    except (KeyError, TypeError) as error:
        raise ValueError(_NO_RULES.format(path, in_words(error))) from error
    for rule in rules:
        known = all(name in labels for name in rule.classes)
        if not known or rule.labels != values_of(labels, rule.classes):
            raise ValueError(
                f"{path} has a rule for {', '.join(rule.classes)} = {', '.join(map(str, rule.labels))}; the labels are "
                f"{dict(labels)}. Fit the rules on this data set."
            )
    return rules


def load_rules(path: Path | str, labels: Mapping[str, int | Sequence[int]]) -> list[Rule]:
    """Read rules and check that they fit a label set, as of `rules_of`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: See `rules_of`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No post-processing rules at {path}. Make them with fit_postprocessing=true.")
    try:
        content = load_json(path)
    except ValueError as error:
        raise ValueError(_NO_RULES.format(path, error)) from error
    return rules_of(content, labels, path)
