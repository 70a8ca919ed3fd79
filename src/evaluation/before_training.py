"""Before a training: what its test would refuse when all epochs are done, and whether that has been made already."""

from __future__ import annotations

from pathlib import Path

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.pairs import references_of
from umamba.evaluation.record import is_scored
from umamba.evaluation.scoring import Scoring, check_tolerance_names
from umamba.raw.readers import read_geometry, read_label


def check_test(datamodule: SegmentationDataModule) -> None:
    """See that the test cases of a data set can be scored as a training does it.

    Raises:
        ValueError: There is no class to score, data.nsd_tolerance is none for its classes, or an instance map cannot
            be read or has another shape than its image: the preparation looks at labels alone.
        FileNotFoundError: A reference is missing.
    """
    raw = datamodule.raw
    if not raw.foreground:
        raise ValueError(f"{raw.folder / 'dataset.json'} has no class to score in the labels {dict(raw.labels)}.")
    if "nsd_tolerance" in vars(datamodule):  # set by the user: all of it should act
        check_tolerance_names(datamodule.nsd_tolerance, raw.foreground)
    scoring = _scoring(datamodule)
    references = references_of(datamodule.test_cases, scoring)
    for case in datamodule.test_cases if scoring.of_instances else ():
        shape, expected = read_label(references[case.identifier])[1].shape, read_geometry(case.images[0]).shape
        if shape != expected:
            raise ValueError(
                f"{references[case.identifier]} has the shape {shape}, its image {case.images[0]} {expected}: "
                "predictions could not be scored against it. Correct the file."
            )


def is_tested(checkpoint: Path, folder: Path, datamodule: SegmentationDataModule) -> bool:
    """Whether a checkpoint has been scored on the test cases of a data set as they are now, and as they are to be.

    That is with its NSD tolerances and growth of instances. Images, too, are told by their content, which is read only
    where the file system does not show them unchanged.

    Raises:
        ValueError, FileNotFoundError: As `check_test`.
    """
    scoring = _scoring(datamodule)
    cases = datamodule.test_cases
    images = {case.identifier: case.images for case in cases}
    return is_scored(checkpoint, folder, references_of(cases, scoring), images, scoring)


def _scoring(datamodule: SegmentationDataModule) -> Scoring:
    how = {"task": datamodule.task, "tolerance": datamodule.nsd_tolerance, "grow": datamodule.grow}
    return Scoring.of(datamodule.raw, **how)
