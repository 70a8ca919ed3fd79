"""Which prediction belongs to which reference."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umamba.evaluation.scoring import Scoring
from umamba.raw.dataset import RawCase
from umamba.raw.sources import Source
from umamba.words import listed

_TIFF = (".tif", ".tiff")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prediction and what it is compared with.

    Attributes:
        case: Name of the case.
        prediction: Label map (for instance data: class map or instance map).
        reference: Label map (for instance data: instance map).
        images: The case's images, for figures; may be empty.
        source: The data set that the case is of, where several were made into one.
    """

    case: str
    prediction: Path
    reference: Path
    images: tuple[Path, ...] = ()
    source: Source | None = None

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Classes that are not scored: nobody has looked for them in this case."""
        return () if self.source is None else self.source.unlabelled

    def known(self, reference: np.ndarray, ignore_label: int | None) -> np.ndarray:
        """A reference as the classes that are scored see it: background is where only others may lie.

        Returns:
            `reference` itself where all classes are known; else a copy in which what is ignored is background.
        """
        if not self.unlabelled or ignore_label is None:
            return reference
        return np.where(reference == ignore_label, 0, reference)


def pair_cases(cases: Iterable[RawCase], predictions: Path, scoring: Scoring) -> list[Pair]:
    """Pair the labelled cases of a data set with the files of a folder of predictions.

    Label maps of other cases, which an earlier call has left in the folder, are named and not scored.

    Args:
        cases: Cases of a data set, each with a label.
        predictions: Folder with a file NAME + `scoring.file_ending` for each; instance maps may be TIFF.
        scoring: Says what the files are called.

    Raises:
        ValueError: A case has no label.
        FileNotFoundError: The folder, a prediction or an instance map is missing.
    """
    cases = list(cases)
    references = references_of(cases, scoring)
    images = {case.identifier: case.images for case in cases}
    found = _predictions(predictions, scoring)
    others = [str(found.pop(name)) for name in sorted(found.keys() - references.keys())]
    if others:
        log.warning("%d label map(s) of other cases lie here too and are not scored: %s.", len(others), listed(others))
    return _pair(found, references, predictions, images, {case.identifier: case.source for case in cases})


def references_of(cases: Iterable[RawCase], scoring: Scoring) -> dict[str, Path]:
    """Case -> the file that its prediction is scored against.

    Args:
        cases: Cases with a label. For instance data the reference is ``instancesTs/NAME.tif`` beside ``labelsTs``
            (or ``labelsVal-instance-mask/NAME_label.tiff`` beside ``labelsVal``).
        scoring: Says what the references are.

    Raises:
        ValueError: A case has no label.
        FileNotFoundError: An instance map is missing.
    """
    cases = list(cases)
    unlabelled = [case.identifier for case in cases if case.label is None]
    if unlabelled:
        raise ValueError(f"No reference label for {listed(unlabelled)}: these cases can be predicted, but not scored.")
    return {case.identifier: _reference(case.label_file, scoring) for case in cases}


def pair_folders(
    predictions: Path, references: Path, scoring: Scoring, sources: Mapping[str, Source] | None = None
) -> list[Pair]:
    """Pair the files of two folders by name.

    Protocol paper leaves out a reference without a prediction, as the paper's scripts do.

    Args:
        predictions: Folder with NAME + `scoring.file_ending`; instance maps may be TIFF.
        references: Folder with NAME + `scoring.reference_ending`.
        scoring: Says what the files are called.
        sources: Case -> the data set that it is of, see `umamba.raw.sources`.

    Returns:
        The pairs, sorted by name.

    Raises:
        FileNotFoundError: A folder does not exist or holds no such file, or a prediction is missing.
        ValueError: A prediction has no reference.
    """
    found = _predictions(predictions, scoring)
    expected = _visible(references, scoring.reference_ending)
    left_out = sorted(expected.keys() - found.keys())
    if scoring.protocol == "paper" and left_out:
        log.warning("Protocol paper: %d case(s) without prediction left out: %s.", len(left_out), listed(left_out))
        expected = {name: path for name, path in expected.items() if name in found}
    return _pair(found, expected, predictions, {}, sources or {})


def _reference(label: Path, scoring: Scoring) -> Path:
    if not scoring.of_instances:
        return label
    name = label.name.removesuffix(scoring.file_ending)
    candidates = [
        label.parent.with_name(label.parent.name.replace("labels", "instances")) / f"{name}{scoring.reference_ending}",
        # as U-Mamba's Dataset703_NeurIPSCell has them
        label.parent.with_name(f"{label.parent.name}-instance-mask") / f"{name}_label.tiff",
    ]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"Instances are scored against instance maps: expected {candidates[0]} beside {label}.")
    return path


def _predictions(folder: Path, scoring: Scoring) -> dict[str, Path]:
    """Instance maps also as TIFF, in which other programs write them whatever the images are."""
    return _visible(folder, scoring.file_ending, *(_TIFF if scoring.instance_predictions else ()))


def _visible(folder: Path, *endings: str) -> dict[str, Path]:
    """Name -> file; of several endings all files have the same."""
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist.")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    found = {e: kind for e in dict.fromkeys(endings) if (kind := [p for p in files if p.name.endswith(e)])}
    if not found:
        raise FileNotFoundError(f"{folder} holds no file that ends in {' or '.join(endings)}.")
    if len(found) > 1:
        raise ValueError(f"{folder} holds files that end in {' and in '.join(found)}. Leave those to be scored.")
    ((ending, paths),) = found.items()
    return {path.name.removesuffix(ending): path for path in paths}


def _pair(
    predictions: dict[str, Path],
    references: dict[str, Path],
    folder: Path,
    images: dict[str, tuple[Path, ...]],
    sources: Mapping[str, Source | None],
) -> list[Pair]:
    missing = [str(references[name]) for name in sorted(references.keys() - predictions.keys())]
    if missing:
        raise FileNotFoundError(f"{folder} lacks the predictions of {len(missing)} reference(s): {listed(missing)}.")
    surplus = [str(predictions[name]) for name in sorted(predictions.keys() - references.keys())]
    if surplus:
        raise ValueError(f"{folder} holds {len(surplus)} prediction(s) without a reference: {listed(surplus)}.")
    return [
        Pair(
            case=name,
            prediction=predictions[name],
            reference=references[name],
            images=images.get(name, ()),
            source=sources.get(name),
        )
        for name in sorted(references)
    ]
