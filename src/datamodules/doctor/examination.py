"""The whole examination: files, every case in parallel, the cases together; resumable."""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO

from umamba.datamodules.doctor.across import compare_cases
from umamba.datamodules.doctor.case import GEOMETRY_KINDS, CaseFacts, case_key, examine
from umamba.datamodules.doctor.repair import repair_label
from umamba.datamodules.doctor.report import Report
from umamba.files import atomic_file
from umamba.parallel import map_cases, track
from umamba.raw.checks import Finding
from umamba.raw.dataset import RawCase, RawDataset, pair_files, test_split
from umamba.raw.description import DatasetDescription, DatasetError, read_dataset_json

log = logging.getLogger(__name__)

GeometryChoice = Literal["error", "ignore", "resample_label", "copy_header"]
GEOMETRY_CHOICES = ("error", "ignore", "resample_label", "copy_header")
CASES_FILE = "cases.jsonl"


def examine_dataset(
    dataset_dir: Path, output: Path, *, workers: int = 1, geometry: GeometryChoice = "error"
) -> tuple[Report, list[tuple[RawCase, str]]]:
    """Examine a raw data set.

    What was found of each case is kept in `<output>/cases.jsonl` as it comes in: an interrupted examination goes on
    where it stopped, and a second one reads only the cases whose files have changed.

    Args:
        dataset_dir: in nnU-Net's raw layout.
        output: folder for what is kept.
        workers: processes.
        geometry: what to do where a label's grid is not its image's: "error" reports it, "ignore" makes it a
            warning, "resample_label" and "copy_header" rewrite the label (`umamba.datamodules.doctor.repair`).

    Raises:
        FileNotFoundError: there is no data set.
        DatasetError: dataset.json is malformed.
        ValueError: `geometry` is none of the four.
    """
    if geometry not in GEOMETRY_CHOICES:
        raise ValueError(f"geometry={geometry}: expected one of {', '.join(GEOMETRY_CHOICES)}")
    if not dataset_dir.is_dir():
        raise FileNotFoundError(f"{dataset_dir} does not exist: check data.dataset_dir")
    description = DatasetDescription.read(dataset_dir / "dataset.json")
    cases, findings = list_cases(dataset_dir, description)
    facts = examine_cases(cases, description, output, workers, dataset_dir.name)
    if geometry in ("resample_label", "copy_header"):
        facts = [
            repair(case, split, found, description, geometry) for (case, split), found in zip(cases, facts, strict=True)
        ]
    findings += [finding for case in facts for finding in case.findings]
    if geometry == "ignore":
        findings = [replace(f, severity="warning") if f.kind in GEOMETRY_KINDS else f for f in findings]
    if facts:
        findings += compare_cases(facts, description)
    return Report(folder=dataset_dir, description=description, facts=facts, findings=findings), cases


def list_cases(folder: Path, description: DatasetDescription) -> tuple[list[tuple[RawCase, str]], list[Finding]]:
    """The cases with all their channels, and what is wrong with the files as such."""
    cases: list[tuple[RawCase, str]] = []
    findings = hidden_files(folder)

    def error(message: str) -> None:
        findings.append(Finding(case="", kind="files", severity="error", message=message))

    if read_dataset_json(folder / "dataset.json").get("dataset"):
        try:
            raw = RawDataset.open(folder)  # files listed in dataset.json, not found by name
            cases = [(case, "Tr") for case in raw.training_cases] + [(case, "Ts") for case in raw.test_cases]
        except DatasetError as refusal:
            error(str(refusal))
            return [], findings
    else:
        for split, files in (("Tr", "Tr"), ("Ts", test_split(folder))):
            found, faults = pair_files(folder, files, description)
            cases += [(case, split) for case in found]
            for fault in faults:
                error(fault)
    for message in missing_instances(folder, cases):
        error(message)
    number = sum(split == "Tr" for _, split in cases)
    if number == 0:
        error(f"{folder / 'imagesTr'} has no complete training case NAME_0000{description.file_ending}.")
    elif number != description.num_training:
        message = f"dataset.json says numTraining {description.num_training}, there are {number} training cases."
        findings.append(Finding(case="", kind="dataset.json", severity="warning", message=message))
    return cases, findings


def missing_instances(folder: Path, cases: list[tuple[RawCase, str]]) -> list[str]:
    """Labelled cases without instance map, where a data set has instance maps at all."""
    return [
        f"{case.label} has no instance map; expected {path}"
        for case, split in cases
        if case.label is not None and (folder / f"instances{split}").is_dir()
        if not (path := folder / f"instances{split}" / f"{case.identifier}.tif").is_file()
    ]


def hidden_files(folder: Path) -> list[Finding]:
    """One warning per folder with hidden files, such as the `._NAME` that macOS leaves."""
    findings = []
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesVal", "labelsVal"):
        if (folder / name).is_dir():
            hidden = sorted(path.name for path in (folder / name).iterdir() if path.name.startswith("."))
            if hidden:
                message = f"{folder / name} has {len(hidden)} hidden files, such as {hidden[0]}. They are skipped."
                findings.append(Finding(case="", kind="hidden files", severity="warning", message=message))
    return findings


def examine_cases(
    cases: list[tuple[RawCase, str]], description: DatasetDescription, output: Path, workers: int, name: str
) -> list[CaseFacts]:
    """The facts of every case, from cases.jsonl where they are up to date."""
    output.mkdir(parents=True, exist_ok=True)
    known = read_facts(output / CASES_FILE)
    keys = [(split, case.identifier, case_key(case, description)) for case, split in cases]
    missing = [job for job, key in zip(cases, keys, strict=True) if key not in known]
    if len(missing) < len(cases):
        log.info("%d of %d cases are unchanged since they were examined", len(cases) - len(missing), len(cases))
    rewrite_facts(output / CASES_FILE, [known[key] for key in keys if key in known])
    with (output / CASES_FILE).open("a", encoding="utf-8") as file:
        results = map_cases(
            functools.partial(examine, description=description), missing, lambda job: job[0].identifier, workers
        )
        for facts in track(results, len(missing), f"Examining {name}"):
            known[facts.split, facts.case, facts.key] = facts
            write_facts(file, facts)
    return [known[key] for key in keys]


def read_facts(path: Path) -> dict[tuple[str, str, str], CaseFacts]:
    """What an earlier examination kept; a last line that was cut off is left out."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            facts = CaseFacts.from_dict(json.loads(line))
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # cut off by a kill, or written by another version: the case is read again
        known[facts.split, facts.case, facts.key] = facts
    return known


def rewrite_facts(path: Path, facts: list[CaseFacts]) -> None:
    """Start the file anew with the facts that still hold."""
    with atomic_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        for case in facts:
            write_facts(file, case)


def write_facts(file: TextIO, facts: CaseFacts) -> None:
    """Add a line of JSON, which is on its way to the disk when this returns."""
    file.write(json.dumps(facts.to_dict()) + "\n")
    file.flush()


def repair(case: RawCase, split: str, facts: CaseFacts, description: DatasetDescription, how: str) -> CaseFacts:
    """Repair the label of a case whose grid is not its image's, and examine it again."""
    if case.label is None or not any(finding.kind in GEOMETRY_KINDS for finding in facts.findings):
        return facts
    try:
        original = repair_label(case, how)
    except DatasetError as fault:
        refusal = Finding(case=case.identifier, kind="repair", severity="error", message=str(fault))
        return replace(facts, findings=(*facts.findings, refusal))
    facts = examine((case, split), description)
    message = f"{case.label} was rewritten (geometry={how}); the original is {original}."
    done = Finding(case=case.identifier, kind="repaired", severity="warning", message=message)
    return replace(facts, findings=(*facts.findings, done))
