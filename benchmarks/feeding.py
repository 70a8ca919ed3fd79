"""Time what a loader's worker and the main process spend on a batch that the GPU will augment; no GPU is needed.

    OMP_NUM_THREADS=1 python benchmarks/feeding.py

Cases are generated and stored compressed, one worker reads patches of them and puts batches together, and the main
process takes these over as far as the CPU does that. Measured in three ways: as PyTorch sends batches, each in a new
file that the main process maps and copies (into pinned memory, on a GPU); in memory that the worker shares with the
main process; and so with small cases decoded. Times are those of the system's scheduler for each process, so that
other work on the machine counts little. Writes docs/benchmarks/feeding.{json,md}.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from augmentation_device import BATCH
from batches import OUT, SETTINGS, build, load_rules
from batches_peer import make_sample
from common import processor
from umamba.datamodules.augmentation.device.chain import Collate, DeviceChain
from umamba.datamodules.augmentation.device.ring import Ring
from umamba.datamodules.loaders import start_worker
from umamba.datamodules.patches import PatchDataset
from umamba.datamodules.placement import WatchedLoader
from umamba.datamodules.sampling import EpochSampler
from umamba.datamodules.shared_memory import PREFETCH
from umamba.files import write_json, write_text
from umamba.planning.arrays import compress, open_array
from umamba.planning.configuration import Configuration
from umamba.planning.preprocess import CaseProperties
from umamba.planning.store import Store, StoredCase

# Shape and number of the cases: as in the Decathlon's hippocampus, a CT of 45 cm, pictures of EndoVis
CASES = {
    "hippocampus 3D": ((36, 50, 35), 40),
    "abdomen CT 3D": ((120, 400, 400), 2),
    "endoscopy 2D": ((1, 1024, 1280), 6),
}
WAYS = {  # whether memory is shared, and bytes for decoded cases
    "a new file for each": (False, 0),
    "shared memory": (True, 0),
    "shared memory, small cases decoded": (True, 2 << 30),
}
SLOT = 160 << 20  # bytes, enough for each of these batches
COLUMNS = ("worker_ms", "faults", "main_ms", "mib")


@dataclass(frozen=True)
class Cases:
    """Generated cases in a folder, as a store gives them."""

    folder: Path

    def case(self, identifier: str) -> StoredCase:
        folder = self.folder / identifier
        count = len(np.load(folder / "locations.npy", mmap_mode="r"))
        return StoredCase(
            identifier, folder, open_array(folder / "data.b2nd"), open_array(folder / "label.b2nd"),
            cast(CaseProperties, None), {1: count}, 0,
        )  # fmt: skip


def make_cases(folder: Path, name: str) -> list[str]:
    (patch_size, channels, labels, _), (shape, count) = SETTINGS[name], CASES[name]
    names = [f"case_{number:03d}" for number in range(count)]
    for number, identifier in enumerate(names):
        image, label = make_sample(shape, channels, labels, seed=number)
        (folder / identifier).mkdir(parents=True)
        for part, array in (("data", image), ("label", label)):
            (folder / identifier / f"{part}.b2nd").write_bytes(compress(array, patch_size))
        np.save(folder / identifier / "locations.npy", np.argwhere(label == 1)[:10000].astype(np.int32))
    return names


def make_loader(folder: Path, names: list[str], name: str, rule: dict, shared: bool, room: int, batches: int) -> Any:
    patch_size, channels, *_ = SETTINGS[name]
    configuration = SimpleNamespace(
        patch_size=patch_size, batch_size=BATCH[name], spacing=(1.0,) * 3, spatial_dims=len(patch_size),
        use_mask_for_norm=(False,) * channels,
    )  # fmt: skip
    transforms = [build(entry, patch_size) for entry in rule.values()]
    chain = DeviceChain(transforms, patch_size)
    dataset = PatchDataset(
        cast(Store, Cases(folder)), names, configuration=cast(Configuration, configuration), transforms=transforms,
        chain=chain, first_on_device=torch.tensor(0), room_for_cases=room,
    )  # fmt: skip
    sampler = EpochSampler(num_batches=batches, batch_size=BATCH[name])
    return WatchedLoader(
        dataset, sampler=sampler, batch_size=BATCH[name], num_workers=1, prefetch_factor=PREFETCH,
        collate_fn=Collate(chain, Ring(SLOT, 1, PREFETCH) if shared else None), worker_init_fn=start_worker,
    )  # fmt: skip


def of_process(pid: int) -> tuple[float, int]:
    """ms that a process has run, and its page faults."""
    ran = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return ran / 1e6, int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


def measure(loader: Any, warm_up: int) -> dict[str, float]:
    """Means per batch, after those in which cases are opened and memory is used for the first time."""
    iterator: Iterator[Any] = iter(loader)
    (worker,) = iterator._workers  # type: ignore[attr-defined]
    sizes: list[int] = []
    for number, batch in enumerate(iterator):
        if number == warm_up:
            (worker_ms, faults), own, first = of_process(worker.pid), time.process_time(), number
        if number == len(loader) - PREFETCH - 1:  # while the worker is still there, as far ahead as at the beginning
            ended, own_end, last = of_process(worker.pid), time.process_time(), number
        pending = batch["pending"]
        if isinstance(pending.memory, torch.Tensor):
            pending.memory.clone()
        sizes.append(pending.parcel.size)
    count = last - first
    return {
        "worker_ms": (ended[0] - worker_ms) / count,
        "faults": (ended[1] - faults) / count,
        "main_ms": 1e3 * (own_end - own) / count,
        "mib": float(np.mean(sizes)) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40, help="that are timed")
    parser.add_argument("--settings", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--output", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    rule = load_rules()["21"]
    for name in arguments.settings:
        with tempfile.TemporaryDirectory() as temporary:
            names = make_cases(Path(temporary), name)
            warm_up = -(-4 * len(names) // BATCH[name]) + 2 * PREFETCH
            for way, (shared, room) in WAYS.items():
                batches = warm_up + arguments.batches + PREFETCH + 1
                loader = make_loader(Path(temporary), names, name, rule, shared, room, batches)
                rows[f"{name}, {BATCH[name]}: {way}"] = measure(loader, warm_up)
    lines = [
        "# Feeding", "",
        "What a batch for the GPU's augmentation costs a worker and the main process, ms of one core of "
        f"{processor()}, torch {torch.__version__}; means over {arguments.batches} batches, see the head of "
        "`benchmarks/feeding.py`.",
        "", "Made by `python benchmarks/feeding.py`.", "",
        "| setting, batch: how it travels | worker ms | page faults | main ms | MiB |", "|---|---|---|---|---|",
        *(f"| {name} | " + " | ".join(f"{row[key]:.3g}" for key in COLUMNS) + " |" for name, row in rows.items()),
    ]  # fmt: skip
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text("\n".join(lines) + "\n", arguments.output / "feeding.md")
    about = {"processor": processor(), "torch": torch.__version__, "batches": arguments.batches}
    write_json({**about, "rows": rows}, arguments.output / "feeding.json")


if __name__ == "__main__":
    main()
