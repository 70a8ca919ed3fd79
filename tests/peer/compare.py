"""Fingerprint, plan, preprocess and export with this project, and hold it against what nnunetv2 made of the same.

python tests/peer/compare.py RAW_FOLDER REPORT.md NNUNET_OUTPUT [NNUNET_OUTPUT ...]

Plans and labels must be equal, intensity statistics to 1e-6 (relative to the larger of value and deviation), arrays to
1e-4 of their standard deviation. Writes the table and exits with 1 if anything differs by more.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import blosc2
import numpy as np
import torch

from umamba.inference.export import Export
from umamba.planning.configuration import Configuration
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.nnunet_plans import load_plan
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.planning.prepare import prepare
from umamba.raw.dataset import RawDataset

STATISTICS, ARRAYS = 1e-6, 1e-4
PLAN_FILES = {"default": "nnUNetPlans"} | {
    f"resenc_{size}": f"nnUNetResEncUNet{size.upper()}Plans" for size in ("m", "l", "xl")
}
COMPARED = (
    "patch_size", "batch_size", "spacing", "median_shape", "strides", "kernel_sizes", "features_per_stage",
    "n_conv_per_stage", "n_conv_per_stage_decoder", "normalization", "use_mask_for_norm", "batch_dice",
)  # fmt: skip


@dataclass
class Row:
    """What was compared of one data set with one release."""

    dataset: str
    release: str
    cases: int
    plans: list[str] = field(default_factory=list)
    statistics: float = 0.0
    arrays: float = 0.0
    voxels: int = 0
    labels: int = 0
    locations: int = 0
    exported: int = 0
    faults: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        return [
            self.dataset, self.release, str(self.cases), ", ".join(self.plans), f"{self.statistics:.1e}",
            f"{self.arrays:.1e}", str(self.labels), str(self.locations), str(self.exported), f"{self.voxels:,}",
        ]  # fmt: skip


HEAD = """\
# Planning and preprocessing against nnunetv2

Made by `make peer`. Both sides work on the same raw files; `tests/peer/` holds the generators and the comparison.
Plans: patch, batch, spacing, median shape, strides, kernels, features, convolutions per stage, normalisation,
mask, batch Dice, order of axes. Statistics: largest difference relative to the larger of value and standard
deviation (at most 1e-6). Arrays: largest difference over the array's standard deviation (at most 1e-4). Labels and
class locations: how many voxels and classes differ (none may; of a region of several labels, which 2.8 draws label by
label, the voxels are compared without their order). Exported: label maps of random logits brought back
to the original grid; random logits leave near ties, which float32 may decide otherwise than float64.
"""
HEADER = (
    "data set", "nnunetv2", "cases", "plans compared (equal)", "statistics", "arrays / std", "labels differing",
    "class locations differing", "exported voxels differing", "voxels compared",
)  # fmt: skip


def compare_fingerprint(ours: Fingerprint, theirs: Fingerprint, row: Row) -> None:
    for key in ("spacings", "shapes_after_crop", "median_relative_size"):
        if not np.allclose(getattr(ours, key), getattr(theirs, key), rtol=1e-12, atol=0):
            row.faults.append(f"fingerprint: {key}")
    for a, b in zip(ours.intensities, theirs.intensities, strict=True):
        for name, value in vars(b).items():
            scale = max(abs(value), b.std)  # a mean near zero has no relative precision of its own
            row.statistics = max(row.statistics, abs(getattr(a, name) - value) / scale)
    if row.statistics > STATISTICS:
        row.faults.append(f"intensity statistics differ by {row.statistics:.1e}")


def compare_plans(ours: Plan, theirs: Plan, label: str, row: Row) -> None:
    if ours.transpose_forward != theirs.transpose_forward:
        row.faults.append(f"{label}: transpose {ours.transpose_forward} != {theirs.transpose_forward}")
    if set(ours.configurations) != set(theirs.configurations):
        row.faults.append(f"{label}: configurations {sorted(ours.configurations)} != {sorted(theirs.configurations)}")
    for name in ours.configurations.keys() & theirs.configurations.keys():
        for key in COMPARED:
            a, b = (getattr(plan.configurations[name], key) for plan in (ours, theirs))
            if a != b:
                row.faults.append(f"{label}: {name}.{key} {a} != {b}")
    row.plans.append(label)


def load_theirs(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    properties = pickle.loads(path.with_suffix(".pkl").read_bytes())
    if path.with_suffix(".npz").exists():
        arrays = np.load(path.with_suffix(".npz"))
        return arrays["data"], arrays["seg"], properties
    data, seg = (blosc2.open(f"{path.with_suffix('')}{part}.b2nd")[:] for part in ("", "_seg"))
    return data, seg, properties


def same_locations(rows: np.ndarray, theirs: dict, value: int, plan: Plan) -> bool:
    """Whether the voxels kept of a class are the same in the same order; of a region, which 2.8 draws label by label,
    the same in any order, or as many where not all are kept."""
    values = plan.regions[value - 1].labels if plan.regions else (value,)
    expected = np.asarray(theirs[values if len(values) > 1 else values[0]]).reshape(-1, 4)[:, 1:]
    if len(values) == 1 or len(rows) != len(expected):
        return np.array_equal(rows, expected)
    return len(rows) >= 10_000 or {*map(tuple, rows.tolist())} == {*map(tuple, expected.tolist())}


def compare_store(
    raw: RawDataset, ours: Path, theirs: Path, plan: Plan, entry: Configuration, folder: str, row: Row
) -> None:
    _, store = prepare(raw.folder, ours, entry.name, PlannerOptions(rule=plan.rule), workers=1)
    for identifier in store.identifiers:
        case = store.case(identifier)
        data, label, properties = load_theirs(theirs / folder / f"{identifier}.pkl")
        mine, own = case.data[:], case.label[:]
        if mine.shape != data.shape:
            row.faults.append(f"{entry.name} {identifier}: shape {mine.shape} != {data.shape}")
            continue
        row.arrays = max(row.arrays, float(np.abs(mine - data).max() / max(float(data.std()), 1e-8)))
        row.labels += int((own != label[0]).sum())
        row.voxels += own.size
        for value, rows in case.class_locations.items():
            row.locations += not same_locations(rows, properties["class_locations"], value, plan)
        if identifier == store.identifiers[0] and (theirs / f"export_{entry.name}.npy").exists():
            shape = (plan.num_classes, *mine.shape[1:])
            logits = np.random.default_rng(5).normal(size=shape).astype(np.float32)
            export = Export(case.properties, plan, entry)
            export.add(torch.from_numpy(logits))
            exported = export.label
            reference = np.load(theirs / f"export_{entry.name}.npy")
            # Untrained logits leave near ties that float32 decides otherwise than float64.
            row.exported += int((exported != reference).sum()) if exported.shape == reference.shape else exported.size


def compare_dataset(raw_folder: Path, theirs: Path, ours: Path, release: str) -> Row:
    raw = RawDataset.open(raw_folder)
    row = Row(dataset=raw_folder.name, release=release, cases=len(raw.training_cases))
    rule = "2.1" if release.startswith("2.1") else "2.8"
    measured = Fingerprint.load(theirs / "dataset_fingerprint.json")
    folders = {}
    for preset, file in PLAN_FILES.items():
        path = theirs / f"{file}.json"
        if not path.exists():
            continue
        reference = load_plan(path, raw)
        if preset == "default":
            first = next(iter(reference.configurations))
            plan, _ = prepare(raw_folder, ours, first, PlannerOptions(rule=rule), workers=1)
            compare_fingerprint(Fingerprint.load(ours / "fingerprint.json"), measured, row)
            folders = {name: entry.data_identifier for name, entry in reference.configurations.items()}
        # From nnU-Net's own fingerprint too: the planner is compared apart from the statistics.
        planned = plan_dataset(measured, raw, PlannerOptions(rule=rule, preset=preset))
        compare_plans(planned, reference, preset, row)
    for name, folder in folders.items():
        if name != "3d_cascade_fullres" and name in plan.configurations:
            compare_store(raw, ours, theirs, plan, plan.configuration(name), folder, row)
    if row.arrays > ARRAYS:
        row.faults.append(f"arrays differ by {row.arrays:.1e} of their deviation")
    for key in ("labels", "locations"):
        if getattr(row, key):
            row.faults.append(f"{getattr(row, key)} {key} differ")
    if row.exported > 1e-3 * row.voxels:
        row.faults.append(f"{row.exported} exported voxels differ")
    return row


def report(rows: list[Row]) -> str:
    lines = [HEAD, "| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    faults = [f"- {row.dataset}, {row.release}: {fault}" for row in rows for fault in row.faults]
    lines += ["", "All within these bounds." if not faults else "Out of bounds:\n" + "\n".join(faults), ""]
    return "\n".join(lines)


def main() -> int:
    raw, target, outputs = Path(sys.argv[1]), Path(sys.argv[2]), [Path(entry) for entry in sys.argv[3:]]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for output in outputs:
            release = (output / "version.txt").read_text()
            for folder in sorted(raw.iterdir()):
                theirs = output / folder.name
                if not (theirs / "nnUNetPlans.json").exists():
                    continue
                row = compare_dataset(folder, theirs, Path(scratch) / release / folder.name, release)
                rows.append(row)
                sys.stdout.write("\n  ".join([" | ".join(row.cells()), *row.faults]) + "\n")
                sys.stdout.flush()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(report(rows))
    return any(row.faults for row in rows)


if __name__ == "__main__":
    sys.exit(main())
