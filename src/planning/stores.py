"""The stores of a prepared folder, side by side: one for each set of raw files and way to preprocess them.

A store's folder is named after its content, ``<data_identifier>-<key>``, and never changes once it is whole: other
options, another plan or changed raw files make another store, and a run that reads the first goes on reading it. Cases
that two stores have in common are hard links to the same files. Nothing is deleted; what is no longer used is said.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.files import content_hash
from umamba.parallel import map_cases, track
from umamba.planning.configuration import Configuration
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.plan import Plan
from umamba.planning.planner import resampled_shape
from umamba.planning.preprocess import preprocess_case, target_of
from umamba.planning.sound_cases import case_faults, damaged_cases
from umamba.planning.store import VERSION, link_case, read_meta, remove_unfinished_cases, stored_identifiers, write_case
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.readers import read_images, read_label

log = logging.getLogger(__name__)


def fresh_store(
    raw: RawDataset,
    prepared_dir: Path,
    plan: Plan,
    configuration: Configuration,
    workers: int,
    files: Mapping[str, list[Any]],
) -> Path:
    """Make the store of these data and this plan: cases are preprocessed that no store beside it has yet, undamaged.

    Args:
        raw: The data set.
        prepared_dir: Where its stores lie.
        plan: Of the data set.
        configuration: The plan's, that is to be trained.
        workers: Processes.
        files: Case -> key of its raw files, see `umamba.planning.raw_files`.
    """
    key = _store_key(plan, configuration)
    keys = {name: content_hash([key, own]) for name, own in files.items()}
    folder = store_folder(prepared_dir, configuration.data_identifier, keys)
    missing = set(missing_cases(folder, keys))
    missing |= damaged_cases(folder, keys.keys() - missing, workers)
    if not missing:
        return folder
    folder.mkdir(exist_ok=True)
    remove_unfinished_cases(folder)
    name_others(folder)
    missing -= link_known_cases(folder, {name: keys[name] for name in missing})
    if not missing:
        return folder
    log.info("Preprocessing %d of %d cases for %s into %s", len(missing), len(keys), configuration.name, folder)
    job = _Job(folder=folder, plan=plan, configuration=configuration, keys=keys)
    cases = [case for case in raw.training_cases if case.identifier in missing]
    results = map_cases(job, cases, lambda case: case.identifier, workers)
    for _ in track(results, len(cases), f"Preprocessing {raw.name}"):
        pass
    return folder


def needed_bytes(prepared_dir: Path, plan: Plan, configuration: Configuration) -> int:
    """Upper bound of a store's size on disk, in bytes: all cases uncompressed."""
    fingerprint = Fingerprint.load(prepared_dir / "fingerprint.json")
    total = 0
    for shape, spacing in zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True):
        size, old = [shape[axis] for axis in plan.transpose_forward], [spacing[axis] for axis in plan.transpose_forward]
        voxels = math.prod(resampled_shape(size, old, target_of(configuration, old)))
        total += voxels * (4 * len(plan.channel_names) + 2)  # float32 channels, int16 label
    return total


def store_folder(prepared_dir: Path, data_identifier: str, keys: Mapping[str, str]) -> Path:
    """Where the store of these cases is or will be.

    Returns:
        The folder named after the keys; or ``data_identifier`` itself, as folders were named before they had a key,
        if exactly these cases are in it.
    """
    former = prepared_dir / data_identifier
    if set(stored_identifiers(former)) == keys.keys() and not missing_cases(former, keys):
        return former
    return prepared_dir / f"{data_identifier}-{content_hash(sorted(keys.items()))[:8]}"


def missing_cases(folder: Path, keys: Mapping[str, str]) -> list[str]:
    """The cases that a store lacks or has with another content."""
    return [name for name, key in keys.items() if read_meta(folder / name).get("key") != key]


def link_known_cases(folder: Path, keys: Mapping[str, str]) -> set[str]:
    """Take cases from the other stores beside `folder`, where they are undamaged; they keep them too.

    Returns:
        The cases that it has now.
    """
    found: set[str] = set()
    for other in _others(folder):
        for name in keys.keys() - found:
            known = read_meta(other / name).get("key") == keys[name]
            if known and not case_faults(other / name) and link_case(other, folder, name):
                found.add(name)
    if found:
        log.info("%d case(s) of %s are shared with the stores beside it.", len(found), folder)
    return found


def name_others(folder: Path) -> None:
    """Say which stores lie beside one, what they hold and that they may be deleted."""
    others = list(_others(folder))
    if others:
        sizes = ", ".join(f"{other} ({_size(other) / 1e9:.2f} GB)" for other in others)
        log.info(
            "This run reads %s. Other stores are kept for runs that use them: %s. To free their space delete the "
            "folders that no run needs.", folder, sizes,
        )  # fmt: skip


def _store_key(plan: Plan, configuration: Configuration) -> str:
    """Hash of all that the preprocessed arrays depend on; a change of patch or batch is none of it."""
    used = [
        dataclasses.asdict(intensities) if scheme == "CTNormalization" else None
        for scheme, intensities in zip(configuration.normalization, plan.intensities, strict=True)
    ]
    return content_hash(
        [
            VERSION,
            plan.transpose_forward,
            plan.labels,
            plan.ignore_label,
            configuration.spacing,
            configuration.normalization,
            configuration.use_mask_for_norm,
            used,
            *([[region.name, region.labels] for region in plan.regions]),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What a worker needs to preprocess cases into a store."""

    folder: Path
    plan: Plan
    configuration: Configuration
    keys: dict[str, str]

    def __call__(self, case: RawCase) -> None:
        image, geometry = read_images(case.images)
        label, _ = read_label(case.label_file)
        try:
            done = preprocess_case(image, geometry, label, self.plan, self.configuration)
        except DatasetError as error:  # of an array, which has no name
            raise DatasetError(f"Case {case.identifier}, {case.images[0]}: {error}") from error
        del image, label
        write_case(
            self.folder, case.identifier, done, self.plan, self.configuration.patch_size, self.keys[case.identifier]
        )


def _others(folder: Path) -> Iterator[Path]:
    for other in sorted(folder.parent.iterdir()):
        if other != folder and other.is_dir() and stored_identifiers(other):
            yield other


def _size(folder: Path) -> int:
    """Bytes that deleting a store would free: files that no other store shares."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
