"""Post-processing as nnU-Net offers it: keep the largest connected component where that helped on validation cases.

Off by default, as in U-Mamba's paper. The rules are decided on predictions of the validation folds and kept in a JSON
file; `eval.py postprocessing=FILE` shows their effect on a test set, and `predict.py` applies them. To decide them:

    python eval.py ckpt_path=[fold_0.ckpt,...] cases=validation fit_postprocessing=true
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from umamba.evaluation.overlap import count_overlap
from umamba.evaluation.pairs import Pair
from umamba.evaluation.score_pair import read_pair
from umamba.files import load_json, write_text
from umamba.inference.rules import KEY, Rule, apply_rules, rules_to_plain, values_of
from umamba.raw.readers import read_label, write_label
from umamba.typed import has_type

POSTPROCESSED = "postprocessed"  # the folder beside predictions/
POSTPROCESSED_RUN = "post-processed"  # in the column "run" of the scores


def fit_rules(
    pairs: Sequence[Pair], labels: Mapping[str, int | Sequence[int]], ignore_label: int | None = None
) -> list[Rule]:
    """Decide the rules on predictions of validation cases, as nnU-Net does.

    First all classes as one object: kept where it raises the mean DSC over classes and lowers that of none. Then each
    class by itself, on top of that: kept where it raises the mean DSC of the class. Means are over the cases in which
    one of the two label maps has the class. Of regions each counts as a class; what is removed of one becomes
    background, and is gone from those around it too.

    Args:
        pairs: Validation cases with their predictions; every case was predicted by a network that did not see it.
        labels: Class name -> value, or region name -> the values it is made of.
        ignore_label: Voxels with this value in the reference count for nothing.
    """
    classes = {name: value for name, value in labels.items() if value != 0}
    rules: list[Rule] = []
    # Where nobody has labelled a class, nothing tells whether the rule of all would remove it.
    whole = [pair for pair in pairs if not pair.unlabelled]
    if len(classes) > 1 and whole:
        everything = _rule(classes)
        before, after = _dice(whole, [], [everything], classes, ignore_label)
        old, new = (_mean([*dice.values()]) for dice in (before, after))
        if new > old and not any(after[name] < before[name] for name in classes):
            rules.append(replace(everything, dice_before=old, dice_after=new))
    # A class's own rule changes no other class, so all are tried in one go; regions have voxels in common.
    own = {name: _rule({name: value}) for name, value in classes.items()}
    apart = len(values_of(classes, classes)) == sum(len(rule.labels) for rule in own.values())
    for some in [list(own)] if apart else [[name] for name in own]:
        before, after = _dice(pairs, rules, [own[name] for name in some], classes, ignore_label)
        for name in some:
            if after[name] > before[name]:
                rules.append(replace(own[name], dice_before=before[name], dice_after=after[name]))
    return rules


def _rule(classes: Mapping[str, int | Sequence[int]]) -> Rule:
    return Rule(classes=tuple(classes), labels=values_of(classes, classes), dice_before=0.0, dice_after=0.0)


def postprocess_pairs(pairs: Sequence[Pair], rules: Sequence[Rule], folder: Path) -> list[Pair]:
    """Write post-processed copies of the predictions into a folder."""
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
    content = {KEY: rules_to_plain(rules), "fitted_on": sorted(set(cases))}
    write_text(json.dumps(content, indent=1) + "\n", Path(path))


def refuse_fitted(path: Path | str, cases: Sequence[str]) -> None:
    """See that rules were not fitted on the cases that they are to be scored with (else ValueError).

    Args:
        path: Of the rules; files of older versions do not say which cases these were.
        cases: Training cases of the data set (test cases cannot have been fitted on).
    """
    known = load_json(path).get("fitted_on", list(cases))
    if not has_type(known, list[str]):
        raise ValueError(f"{path}: fitted_on is {known!r:.100}; expected names of cases. Fit the rules again.")
    fitted = sorted({*known} & {*cases})
    if fitted:
        raise ValueError(
            f"The rules of {path} were (or may have been) fitted on {len(fitted)} of the cases to be scored, such as "
            f"{fitted[0]}: their scores would flatter. Score them on test cases."
        )


def _dice(
    pairs: Sequence[Pair],
    rules: Sequence[Rule],
    more: Sequence[Rule],
    classes: Mapping[str, int | Sequence[int]],
    ignore_label: int | None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean DSC of each class over the cases, after some rules and after more of them."""
    ways = (list(rules), [*rules, *more])
    values: list[dict[str, list[float]]] = [{name: [] for name in classes} for _ in ways]
    for pair in track(pairs, f"Trying {len(more)} rule(s)", transient=True):
        reference, prediction, _ = read_pair(pair)
        reference = pair.known(reference, ignore_label)
        ignored = None if ignore_label is None else reference == ignore_label
        if ignored is not None:
            reference = np.where(ignored, 0, reference)
        for way, found in zip(ways, values, strict=True):
            processed = apply_rules(prediction, way)
            if ignored is not None:
                processed = np.where(ignored, 0, processed)
            overlap = count_overlap(reference, processed, max(values_of(classes, classes)) + 1)
            for name, value in classes.items():
                found[name].append(np.nan if name in pair.unlabelled else overlap.dice(value))
    before, after = ({name: _mean(v) for name, v in found.items()} for found in values)
    return before, after


def _mean(values: Sequence[float]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan
