"""Folders of scored runs as train.py leaves them, small and made up, for tests and demonstrations of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umamba.evaluation.members import Member
from umamba.evaluation.pairs import Pair
from umamba.evaluation.record import run_record, save_record
from umamba.evaluation.scoring import Labelling


def replace_scores(folder: Path, scores: pd.DataFrame) -> None:
    """Give a run other scores, as if it had been scored so."""
    scores.to_csv(folder / "scores.csv", index=False)
    save_record(json.loads((folder / "run.json").read_text()), folder)


_FACTS: dict[str, Any] = {  # of a run's record, and of its members, that few tests have otherwise
    "protocol": "standard", "configuration": "3d_fullres", "scored": "test", "options": {"mirror": False}, "data": None,
    "content": "0123",
}  # fmt: skip


def make_run(
    folder: Path,
    *,
    dataset: str = "flare",
    network: str = "umamba_bot",
    seed: int = 0,
    fold: int | str = 0,
    gain: float = 0.0,
    cases: int | Sequence[str] | Sequence[Pair] = 12,
    classes: tuple[str, ...] = ("liver", "spleen", "pancreas"),
    config: dict | None = None,
    more_members: tuple[dict, ...] = (),
    **facts: Any,
) -> Path:
    """One run: scores rise with `gain`, the same case is equally hard for every network; `facts` as of `_FACTS`."""
    if unknown := facts.keys() - _FACTS.keys():
        raise TypeError(f"make_run takes no {', '.join(unknown)}.")
    facts = {**_FACTS, **facts}
    protocol, configuration = facts["protocol"], facts["configuration"]
    given = [f"case_{i:02d}" for i in range(cases)] if isinstance(cases, int) else list(cases)
    pairs = [one for one in given if isinstance(one, Pair)]
    names = [one.case if isinstance(one, Pair) else one for one in given]
    hardness = np.random.default_rng(0).normal(0, 0.06, (len(names), len(classes)))
    number = 9 if fold == "all" else int(fold)
    noise = np.random.default_rng([seed, len(network), number]).normal(0, 0.01, (len(names), len(classes)))
    dsc = np.clip(0.85 - 0.05 * np.arange(len(classes)) + hardness + noise + gain, 0, 1)
    instances = protocol == "paper/cells" or classes == ("instances",)
    rows = [
        {"protocol": protocol, "case": names[i], "class": name}
        | ({"f1": dsc[i, j]} if instances else {"dsc": dsc[i, j], "nsd": min(1, dsc[i, j] + 0.05)})
        | ({"hd95": 10 * (1 - dsc[i, j])} if not instances and protocol == "standard" else {})
        for i in range(len(names))
        for j, name in enumerate(classes)
    ]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "scores.csv", index=False)
    cost = {"parameters": 30_000_000 + 1_000_000 * len(network), "gflops": 500.0 + 40 * len(network),
            "seconds_per_epoch": 100.0 + 9 * len(network), "train_peak_vram_gib": None, "train_device": "a GPU",
            "seconds_per_case": 12.5, "inference_peak_vram_gib": None, "inference_device": "a GPU"}  # fmt: skip
    labels = {"background": 0} | {name: index for index, name in enumerate(classes, start=1)}
    config = {
        "data_name": dataset, "model_name": network, "fold": fold, "seed": seed,
        "model": {"network": {"_target_": f"networks.{network}"}},
        "data": {"dataset_dir": "/raw/Dataset900_Phantom", "oversample": 0.33},
        "trainer": {"max_epochs": 2, "precision": "32-true"},
    } | (config or {})  # fmt: skip
    plan = {"configurations": {configuration: {"patch_size": [8, 8, 8]}}, "channel_names": ["CT"]}
    members = [Member(path=folder / "last.ckpt", config=one, plan=plan, configuration=configuration, epochs=2,
                      data=facts["data"])
               for one in [config, *more_members]]  # fmt: skip
    record = run_record(
        members, dataset=dataset, scored=facts["scored"], protocol=protocol,
        labelling=Labelling(labels=labels, task="instances" if instances else "semantic"),
        options=facts["options"], cost=cost, pairs=pairs,
    )  # fmt: skip
    if not pairs:
        record["cases"] = dict.fromkeys(names, facts["content"])
    save_record(record, folder)
    return folder
