"""Post-processing as nnU-Net offers it: keep the largest connected component where that helped on validation cases.

Off by default, as in U-Mamba's paper. The rules are decided on predictions of the validation folds and kept in a JSON
file; `eval.py postprocessing=FILE` shows their effect on a test set. To decide them:

    python eval.py ckpt_path=[fold_0.ckpt,...] cases=validation fit_postprocessing=true
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import skimage.measure
from rich.progress import track

from umamba.evaluation.overlap import count_overlap
from umamba.evaluation.pairs import Pair
from umamba.evaluation.read_pair import read_pair
from umamba.files import write_text
from umamba.raw.readers import read_label, write_label

POSTPROCESSED = "postprocessed"  # the folder beside predictions/
POSTPROCESSED_RUN = "post-processed"  # in the column "run" of the scores


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Of the union of some classes, keep the largest connected component.

    Attributes:
        classes: Their names; several are taken as one object.
        labels: Their values.
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


def fit_rules(pairs: Sequence[Pair], labels: Mapping[str, int], ignore_label: int | None = None) -> list[Rule]:
    """Decide the rules on predictions of validation cases, as nnU-Net does.

    First all classes as one object, then each class by itself on top of that; a rule is kept where it raises the mean
    DSC (cases without the class in both label maps left out).

    Args:
        pairs: Validation cases with their predictions; every case was predicted by a network that did not see it.
        labels: Class name -> value.
        ignore_label: Voxels with this value in the reference count for nothing.
    """
    classes = {name: value for name, value in labels.items() if value != 0}
    candidates = [tuple(classes)] if len(classes) > 1 else []
    candidates += [(name,) for name in classes]
    rules: list[Rule] = []
    before = _dice(pairs, rules, classes, ignore_label)
    for names in candidates:
        rule = Rule(classes=names, labels=tuple(classes[n] for n in names), dice_before=0.0, dice_after=0.0)
        after = _dice(pairs, [*rules, rule], classes, ignore_label)
        old, new = (float(np.nanmean([dice[name] for name in names])) for dice in (before, after))
        if new > old:
            rules.append(replace(rule, dice_before=old, dice_after=new))
            before = after
    return rules


def postprocess_pairs(pairs: Sequence[Pair], rules: Sequence[Rule], folder: Path) -> list[Pair]:
    """Write post-processed copies of the predictions into a folder.

    Returns:
        The pairs with the copies as predictions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processed = []
    for pair in pairs:
        label, geometry = read_label(pair.prediction)
        path = folder / pair.prediction.name
        write_label(apply_rules(label, rules), path, geometry)
        processed.append(replace(pair, prediction=path))
    return processed


def save_rules(rules: Sequence[Rule], path: Path | str, cases: Sequence[str]) -> None:
    """Write rules as JSON, with the cases they were fitted on."""
    content = {"keep_largest": [asdict(rule) for rule in rules], "fitted_on": sorted(set(cases))}
    write_text(Path(path), json.dumps(content, indent=1) + "\n")


def refuse_fitted(path: Path | str, cases: Sequence[str]) -> None:
    """See that rules were not fitted on the cases that they are to be scored with.

    Args:
        path: Of the rules; files of older versions do not say which cases these were.
        cases: Training cases of the data set (test cases cannot have been fitted on).

    Raises:
        ValueError: They were; names the cases.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    fitted = sorted(set(content.get("fitted_on", cases)) & set(cases))
    if fitted:
        raise ValueError(
            f"The rules of {path} were (or may have been) fitted on {len(fitted)} of the cases to be scored, such as "
            f"{fitted[0]}: their scores would flatter. Score them on test cases."
        )


def load_rules(path: Path | str, labels: Mapping[str, int]) -> list[Rule]:
    """Read rules and check that they fit a label set.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of rules, or names a class that the labels lack or number differently.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No post-processing rules at {path}. Make them with fit_postprocessing=true.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["keep_largest"]
        rules = [Rule(**(entry | {k: tuple(entry[k]) for k in ("classes", "labels")})) for entry in entries]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no post-processing rules ({error!r}).") from error
    for rule in rules:
        for name, value in zip(rule.classes, rule.labels, strict=True):
            if labels.get(name) != value:
                raise ValueError(
                    f"{path} has a rule for {name} = {value}; the labels are {dict(labels)}. Fit the rules on this "
                    "data set."
                )
    return rules


def _dice(
    pairs: Sequence[Pair], rules: Sequence[Rule], classes: Mapping[str, int], ignore_label: int | None
) -> dict[str, float]:
    """Mean DSC of each class over the cases after the rules."""
    values: dict[str, list[float]] = {name: [] for name in classes}
    for pair in track(pairs, f"Trying {len(rules)} rule(s)", transient=True):
        reference, prediction, _ = read_pair(pair)
        prediction = apply_rules(prediction, rules)
        if ignore_label is not None:
            ignored = reference == ignore_label
            reference, prediction = np.where(ignored, 0, reference), np.where(ignored, 0, prediction)
        overlap = count_overlap(reference, prediction, max(classes.values()) + 1)
        for name, value in classes.items():
            values[name].append(overlap.dice(value))
    return {name: float(np.nanmean(v)) if not np.isnan(v).all() else np.nan for name, v in values.items()}
