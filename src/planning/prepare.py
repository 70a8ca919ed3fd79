"""From a raw data set to a plan and a store that can be trained on: made if missing, kept if fresh, remade if stale.

Layout: ``<prepared_dir>/{fingerprint,plan,raw_files,state}.json``, and ``<data_identifier>-<key>/<case>/...`` beside.
Everything is written beside its place and moved there, so a preparation that was interrupted is picked up where it
stopped.

Memory per worker: see `bytes_per_worker`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from umamba.files import content_hash, read_json, write_json
from umamba.parallel import fitting_workers, map_cases, track
from umamba.planning.cascade import previous_stage
from umamba.planning.configuration import PlanError
from umamba.planning.edits import edited_topology, refuse_idle_edits
from umamba.planning.fingerprint import CaseFacts, Fingerprint, case_facts, combine
from umamba.planning.intensities import samples_per_case
from umamba.planning.locking import READ_ONLY, disk_errors, locked, write_record
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan, said_by
from umamba.planning.planner import plan_dataset
from umamba.planning.raw_files import RawFiles, file_key
from umamba.planning.store import Store
from umamba.planning.stores import fresh_store, needed_bytes
from umamba.planning.transfer import load_source, move_plan
from umamba.raw.checks import Finding, load_and_check, log_warnings, raise_errors
from umamba.raw.dataset import RawCase, RawDataset, refuse_raw_folders
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.image_marks import voxel_marks
from umamba.raw.readers import read_geometry, read_images, read_label

log = logging.getLogger(__name__)

_LABEL_BYTES = 20  # per voxel beside the channels; 8 + 17 were measured for one channel and 14 labels


def prepare(
    dataset_dir: Path | str,
    prepared_dir: Path | str,
    configuration: str,
    options: PlannerOptions | None = None,
    workers: int | None = None,
) -> tuple[Plan, Store]:
    """Make what is missing or stale of a data set's fingerprint, plan and store.

    Stale is what was made from other raw files (see `umamba.planning.raw_files`), other options or another plan. An
    edited plan.json is kept as long as data and options stay. Several processes may call this at once; one works, the
    others wait.

    Args:
        dataset_dir: Raw data set in nnU-Net's layout.
        prepared_dir: Where everything goes.
        configuration: Name of the plan's configuration to preprocess, such as "3d_fullres".
        options: For the planner.
        workers: Processes, fewer where they do not fit into the free memory; None takes one per core, at most 8.

    Raises:
        FileNotFoundError: There is no raw data set.
        DatasetError: The raw data have faults; all of them are listed.
        PlanError: plan.json contradicts itself, the data or the options.
        ValueError: The plan has no such configuration.
        ValueError: `prepared_dir` is the raw data set, or holds it.
        OSError: The disk is full or cannot be written to.
    """
    prepared_dir, options = Path(prepared_dir), options or PlannerOptions()
    refuse_raw_folders(prepared_dir, Path(dataset_dir), "data.prepared_dir")
    raw = RawDataset.open(dataset_dir)
    with locked(prepared_dir):
        workers = fitting_workers(workers, bytes_per_worker(raw))
        files = RawFiles.read(raw, prepared_dir, workers)
        plan = _fresh_plan(raw, prepared_dir, options, workers, files)
        entry = plan.configuration(configuration)
        previous_stage(plan.configurations, configuration)  # refuses what is no cascade
        with disk_errors(prepared_dir, lambda: needed_bytes(prepared_dir, plan, entry)):
            folder = fresh_store(raw, prepared_dir, plan, entry, workers, files.keys)
    return plan, Store.open(folder)


def prepare_plan(
    dataset_dir: Path | str, prepared_dir: Path | str, options: PlannerOptions, workers: int | None = None
) -> Plan:
    """Fingerprint and plan alone. Arguments and errors as `prepare`."""
    prepared_dir = Path(prepared_dir)
    refuse_raw_folders(prepared_dir, Path(dataset_dir), "data.prepared_dir")
    raw = RawDataset.open(dataset_dir)
    with locked(prepared_dir):
        workers = fitting_workers(workers, bytes_per_worker(raw))
        return _fresh_plan(raw, prepared_dir, options, workers, RawFiles.read(raw, prepared_dir, workers))


def topology_edits(prepared_dir: Path, plan: Plan, configuration: str) -> list[str]:
    """Keys of a configuration's topology that plan.json has otherwise than it was planned; see `edited_topology`."""
    planned = read_json(prepared_dir / "state.json").get("planned")
    return edited_topology(plan, planned, configuration) if planned else []


def bytes_per_worker(raw: RawDataset) -> int:
    """Memory that a worker may need at its peak: that of the case whose files are largest, by its header.

    Per voxel: every channel twice (read, resampled), one channel as it is worked on, the label map and what is drawn
    from it. docs/benchmarks/preprocess.md has the measurement.
    """
    largest = max(raw.training_cases, key=lambda case: sum(path.stat().st_size for path in case.images))
    try:
        voxels = math.prod(read_geometry(largest.images[0]).shape)
    except DatasetError:
        return 0  # the check of every case will say so, with all others
    return voxels * (8 * len(raw.channel_names) + _LABEL_BYTES)


def _fresh_plan(raw: RawDataset, prepared_dir: Path, options: PlannerOptions, workers: int, files: RawFiles) -> Plan:
    """The plan of these data and options, or the user's edited one."""
    path, state_path = prepared_dir / "plan.json", prepared_dir / "state.json"
    state = read_json(state_path)
    dataset = _identity(raw, files)
    _check_owner(dataset, state.get("dataset"), prepared_dir)
    files.save()
    given, of_another = load_source(Path(options.plans), raw) if options.plans else (None, False)  # refused early
    fingerprint = _fresh_fingerprint(raw, prepared_dir / "fingerprint.json", workers, files)
    source = {
        "fingerprint": content_hash(fingerprint.to_dict()),
        "description": _description_hash(raw),
        "options": dataclasses.asdict(options),
        "plans_file": file_key(Path(options.plans)) if options.plans else None,
    }
    if path.is_file():
        plan = Plan.load(path)
        edited = plan.hash() != state.get("plan")
        if state.get("source") == source or not state:
            if edited:
                log.info("Using %s, which differs from what was planned.", path)
            _check_fits(plan, raw, path)
            # Of a plan that was edited under an earlier version, or is kept for other data, nothing tells the edits.
            planned = state.get("planned", plan.to_dict())
            refuse_idle_edits(plan, planned, path)
            if not state:
                write_json({"dataset": dataset, "source": source, "plan": None, "planned": planned}, state_path)
            elif (state.get("dataset"), state.get("planned")) != (dataset, planned):
                write_record({**state, "dataset": dataset, "planned": planned}, state_path, tolerated=READ_ONLY)
            return plan
        if edited:
            raise PlanError(
                f"{path} was edited by hand, but the raw data or the planning options changed since it was planned. "
                "Delete it to plan anew, or delete state.json beside it to keep your plan for the changed data."
            )
        log.info("The data or the planning options have changed: planning %s again.", raw.name)
    if given is not None and of_another:
        given = move_plan(given, raw, fingerprint)
    plan = given or plan_dataset(fingerprint, raw, options)
    _check_fits(plan, raw, Path(options.plans) if options.plans else path)
    # In this order a kill at any point leaves no plan, and the next run plans anew.
    path.unlink(missing_ok=True)
    state = {"dataset": dataset, "source": source, "plan": plan.hash(), "planned": plan.to_dict()}
    write_json(state, state_path)
    plan.save(path)
    return plan


def _fresh_fingerprint(raw: RawDataset, path: Path, workers: int, files: RawFiles) -> Fingerprint:
    """The stored fingerprint if it is of exactly these files, else a new one; checks every case on the way."""
    made_from = content_hash([*files.keys.values(), *sorted(raw.allowed_values)])
    if read_json(path).get("made_from") == made_from:
        _hash_voxels(raw, workers, files)
        return Fingerprint.load(path)
    cases = raw.training_cases
    measure = partial(_measure, description=raw.description, num_samples=samples_per_case(len(cases)))
    findings: list[Finding] = []

    def facts() -> Iterator[CaseFacts]:
        results = map_cases(measure, cases, lambda case: case.identifier, workers)
        pairs = zip(cases, results, strict=True)
        for case, (measured, found, marks) in track(pairs, len(cases), f"Fingerprint of {raw.name}"):
            findings.extend(found)
            if measured is not None:
                files.note_voxels(case, raw.folder, marks)
                yield measured
        raise_errors(findings)

    fingerprint = combine(facts())
    log_warnings(findings)
    files.save()
    write_json({"made_from": made_from, **fingerprint.to_dict()}, path)
    return fingerprint


def _hash_voxels(raw: RawDataset, workers: int, files: RawFiles) -> None:
    """Of cases that an earlier version has prepared: read them once, so that they are known by their voxels."""
    cases = files.of_unknown_voxels(raw)
    if not cases:
        return
    results = map_cases(_voxels, cases, lambda case: case.identifier, workers)
    for case, marks in zip(cases, track(results, len(cases), f"Hashing the voxels of {raw.name}"), strict=True):
        files.note_voxels(case, raw.folder, marks)
    files.save()


def _voxels(case: RawCase) -> list[str]:
    image, geometry = read_images(case.images)
    return voxel_marks(image, len(case.images), geometry.spacing, read_label(case.label_file)[0])


def _measure(
    case: RawCase, description: DatasetDescription, num_samples: int
) -> tuple[CaseFacts | None, list[Finding], list[str]]:
    loaded, findings = load_and_check(case, description)
    if loaded is None or any(finding.severity == "error" for finding in findings):
        return None, findings, []
    if loaded.label is None:
        raise DatasetError(f"Case {case.identifier} has no label; only labelled cases are planned from.")
    marks = voxel_marks(loaded.image, len(case.images), loaded.geometry.spacing, loaded.label)
    return case_facts(loaded.image, loaded.label, loaded.geometry.spacing, num_samples), findings, marks


def _check_fits(plan: Plan, raw: RawDataset, path: Path) -> None:
    """A plan must be of these data: same channels, labels, ignore label and format."""
    found = said_by(plan)
    for key, expected in said_by(raw).items():
        if expected != found[key]:
            raise PlanError(
                f"{path}: {key} is {found[key]}, but {raw.folder / 'dataset.json'} has {expected}. Correct one of them."
            )


def _identity(raw: RawDataset, files: RawFiles) -> dict[str, str]:
    """Which raw data set this is: where it lies, and what its training files are called, how large and how old."""
    keys = [*files.keys.values()]
    sizes = [[entry[:2] if isinstance(entry, list) else entry for entry in key] for key in keys]
    return {"folder": str(raw.folder.resolve()), "files": content_hash(keys), "sizes": content_hash(sizes)}


def _check_owner(dataset: dict[str, str], recorded: dict[str, str] | None, prepared_dir: Path) -> None:
    """Two data sets of one name must not share a prepared folder; one that was moved or copied keeps it."""
    if recorded is None or recorded["folder"] == dataset["folder"] or recorded["files"] == dataset["files"]:
        return
    gone = not (Path(recorded["folder"]) / "dataset.json").is_file()
    if gone and recorded["sizes"] == dataset["sizes"]:
        return
    raise DatasetError(
        f"{prepared_dir} holds what was prepared of the data set in {recorded['folder']}"
        f"{' (which is no longer there)' if gone else ''}; the one in {dataset['folder']} has other files. Give it a "
        "folder of its own with data.prepared_dir=..., or delete the prepared folder if its data set is not needed."
    )


def _description_hash(raw: RawDataset) -> str:
    """Of what dataset.json says; that of a data set without regions is what it was before there were any."""
    content = dataclasses.asdict(raw.description)
    return content_hash(content | {"regions": content["regions"] or {}})
