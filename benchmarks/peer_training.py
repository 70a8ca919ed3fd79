"""nnunetv2's own CNN at the budget of the evidence, beside ours: same cases, same plan, same steps, same scores.

    python benchmarks/peer_training.py --python OTHER_VENV/bin/python --raw FOLDER --work FOLDER --runs 2
    python benchmarks/peer_training.py ... --settings ct_3d --runs 3 --at-once 3 --processes 8

Reads what our CNN was given from the records of docs/evidence (`<setting>/nnunet_<seed>.json`): held-out cases, epochs,
batches an epoch, plan. nnunetv2 plans and preprocesses by itself; a plan of another patch, batch or spacing is refused.
It trains with its own settings but for the number of epochs and batches, and predicts without mirroring, as ours did;
both are scored alike. Every run is added to docs/benchmarks/peer_training.json as soon as it is scored, and the page
and the chart are made anew; --draw makes them alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from common import versions
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import pair_cases
from umamba.evaluation.report.records import read_run, scores_of
from umamba.evaluation.report.significance import compare_networks
from umamba.evaluation.scoring import Scoring
from umamba.evaluation.tables import case_means
from umamba.files import write_json, write_text
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetDescription

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks"
FOLDERS = {  # setting of configs/evidence/short.yaml -> raw data set
    "hippocampus": "Dataset004_Hippocampus",
    "ct_3d": "Dataset710_AbdomenCT30",
    "mr_3d": "Dataset711_AbdomenMR20",
    "mr_2d": "Dataset711_AbdomenMR20",
    "cardiac_3d": "Dataset712_Cardiac100",
    "cardiac_2d": "Dataset712_Cardiac100",
}
OURS, THEIRS = "nnunet", "nnunetv2"


def main() -> None:
    """Train, score and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment with nnunetv2")
    parser.add_argument("--raw", type=Path, help="folder of the raw data sets")
    parser.add_argument("--work", type=Path, help="folder for nnunetv2's files; what is prepared there is used again")
    parser.add_argument("--settings", nargs="+", default=["hippocampus"], choices=list(FOLDERS))
    parser.add_argument("--runs", type=int, default=2, help="of each setting")
    parser.add_argument("--at-once", type=int, default=1, help="runs on the device at a time")
    parser.add_argument("--processes", type=int, default=12, help="of each run, for its batches")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--epochs", type=int, help="instead of ours, to try the command")
    parser.add_argument("--iterations", type=int, help="batches an epoch instead of ours, likewise")
    parser.add_argument("--records", type=Path, default=ROOT / "docs" / "evidence", help="of our runs")
    parser.add_argument("--draw", action="store_true", help="make page and chart from the JSON file alone")
    parser.add_argument("--output", type=Path, default=OUT, help="folder of peer_training.{json,md,png}")
    arguments = parser.parse_args()
    if not arguments.draw:
        if arguments.raw is None or arguments.work is None:
            parser.error("--raw and --work are needed to train")
        for setting in arguments.settings:
            run_setting(setting, arguments)
    draw(arguments.output, arguments.records)


def run_setting(setting: str, arguments: argparse.Namespace) -> None:
    """All runs of a setting, --at-once at a time."""
    raw = arguments.raw.resolve() / FOLDERS[setting]
    ours = _records(setting, arguments.records)[0]
    asked = _asked(ours, raw, arguments)
    work = arguments.work.resolve() / setting
    _wait(_start(asked | {"action": "prepare"}, work / "prepare", work, raw, arguments.python))
    for first in range(1, arguments.runs + 1, arguments.at_once):
        numbers = range(first, min(first + arguments.at_once, arguments.runs + 1))
        started = []
        for number in numbers:
            folder = work / f"run_{number}"
            run = asked | {"action": "train", "output": str(folder / "predictions")}
            started.append((folder, _start(run, folder, work, raw, arguments.python)))
        for folder, process in started:
            _wait(process)
            _add(setting, ours, folder, raw, asked, arguments.output)
            draw(arguments.output, arguments.records)


def _asked(record: Mapping[str, Any], raw: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The budget, the split and the files of our runs."""
    cases = {case.identifier: [str(path) for path in case.images] for case in RawDataset.open(raw).training_cases}
    held_out = sorted(record["run"]["cases"])
    trained = sorted(set(cases) - set(held_out))
    if len(trained) != record["trained_cases"] or not set(held_out) <= set(cases):
        raise SystemExit(f"{raw} has not the cases of the records: {len(trained)} beside the {len(held_out)} held out, "
                         f"{record['trained_cases']} were trained on.")  # fmt: skip
    training = record["run"]["members"][0]["training"]
    wished = dict(item.split("=", 1) for item in record["overrides"] if "=" in item)
    return {
        "dataset": int(raw.name.removeprefix("Dataset").split("_")[0]),
        "configuration": record["run"]["configuration"],
        "device": arguments.device,
        "processes": arguments.processes,
        "epochs": arguments.epochs or training["trainer"]["max_epochs"],
        "iterations": arguments.iterations or training["data"]["iterations_per_epoch"],
        "val_iterations": int(wished["data.val_iterations"]),
        "splits": [{"train": trained, "val": held_out}],
        "images": {case: cases[case] for case in held_out},
    }


def _start(asked: Mapping[str, Any], folder: Path, work: Path, raw: Path, python: str) -> subprocess.Popen[bytes]:
    write_json(asked, folder / "asked.json")
    places = {"nnUNet_raw": raw.parent, "nnUNet_preprocessed": work / "preprocessed", "nnUNet_results": folder}
    environment = {**os.environ, **{key: str(path) for key, path in places.items()}}
    command = [python, str(Path(__file__).with_name("peer_training_nnunet.py")), str(folder / "asked.json")]
    with (folder / "log.txt").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        folder = Path(str(process.args[-1])).parent  # type: ignore[index]
        last = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise SystemExit(f"nnunetv2 failed: {' '.join(last)} See {folder / 'log.txt'}.")


def _add(
    setting: str, ours: Mapping[str, Any], folder: Path, raw: Path, asked: Mapping[str, Any], output: Path
) -> None:
    """Score a run and add it to the JSON file."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for key, value in result["plan"].items():
        if not np.allclose(value, ours["run"]["plan"][key]):
            raise SystemExit(f"nnunetv2 plans {key} {value} for {raw.name}, ours is {ours['run']['plan'][key]}.")
    tolerance = dict(scores_of(ours)[["class", "nsd_tolerance"]].to_numpy().tolist())
    scoring = Scoring.of(DatasetDescription.read(raw / "dataset.json"), tolerance=tolerance)
    held_out = [case for case in RawDataset.open(raw).training_cases if case.identifier in asked["images"]]
    scores = case_means(evaluate(pair_cases(held_out, folder / "predictions", scoring), scoring))
    row = {
        "setting": setting, "run": int(folder.name.removeprefix("run_")), **result,
        "steps": asked["epochs"] * asked["iterations"], "commit": versions()["commit"],
        "cases": {r["case"]: {m: _rounded(r[m]) for m in ("dsc", "nsd", "hd95")} for _, r in scores.iterrows()},
    }  # fmt: skip
    path = output / "peer_training.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    kept = [old for old in rows if (old["setting"], old["run"]) != (setting, row["run"])]
    write_json(sorted([*kept, row], key=lambda one: (one["setting"], one["run"])), path)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _records(setting: str, folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / setting).glob(f"{OURS}_*.json"))
    if not paths:
        raise SystemExit(f"{folder} has no record of {setting}/{OURS}; run that first (python -m umamba.evidence).")
    return [read_run(path) for path in paths]


def draw(output: Path, evidence: Path) -> None:
    """Page and chart of the JSON file."""
    rows = json.loads((output / "peer_training.json").read_text(encoding="utf-8"))
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines, spread = [], {}
    for setting in settings:
        of_setting = [row for row in rows if row["setting"] == setting]
        records = _records(setting, evidence)
        ours = pd.concat([scores_of(one).assign(network=OURS, replicate=one["seed"]) for one in records])
        theirs = pd.concat([pd.DataFrame({"case": list(one["cases"]), "class": "all", "network": THEIRS,
                                          "replicate": one["run"], "dsc": [c["dsc"] for c in one["cases"].values()]})
                            for one in of_setting])  # fmt: skip
        means = pd.concat([_by_run(ours), _by_run(theirs)])
        spread[setting] = {name: means[means["network"] == name]["dsc"].tolist() for name in (OURS, THEIRS)}
        both = means_by_case(ours, theirs)
        (compared,) = compare_networks(both).to_dict("records")
        steps = " / ".join(
            map(str, dict.fromkeys([*(one["cost"]["steps"] for one in records), *(one["steps"] for one in of_setting)]))
        )
        lines.append(_line(setting, steps, spread[setting], compared))
    write_text(_PAGE.format(rows="\n".join(lines), origin=_origin(rows)), output / "peer_training.md")
    _chart(output / "peer_training.png", spread)


def _by_run(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC over cases of each run, in points."""
    cases = scores.groupby(["network", "replicate", "case"])["dsc"].mean()
    return (100 * cases.groupby(level=["network", "replicate"]).mean()).reset_index()


def means_by_case(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC of each case over classes and runs, one column a party, in points."""
    return pd.DataFrame({
        name: 100 * part.groupby(["case", "replicate"])["dsc"].mean().groupby(level="case").mean()
        for name, part in ((OURS, ours), (THEIRS, theirs))
    })  # fmt: skip


def _line(setting: str, steps: str, spread: Mapping[str, Sequence[float]], compared: Mapping[str, Any]) -> str:
    shown = [" ".join(f"{value:.2f}" for value in spread[name]) for name in (OURS, THEIRS)]
    difference = f"{compared['difference']:+.2f} [{compared['low']:+.2f}, {compared['high']:+.2f}]"
    cells = [setting, steps, compared["cases"], *shown, difference, f"{compared['p']:.2g}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def _origin(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(sorted({
        f"{row['machine']}, nnunetv2 {row['nnunetv2']}{'' if row['compiled'] else ' (not compiled)'}, torch "
        f"{row['torch']}, {row['commit']}" for row in rows
    }))  # fmt: skip


def _chart(path: Path, spread: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """A panel a data set: the mean DSC of every run, ours above theirs."""
    figure, axes = plt.subplots(1, len(spread), figsize=(4.5 * len(spread), 1.9), squeeze=False, layout="constrained")
    for axis, (setting, parties) in zip(axes[0], spread.items(), strict=True):
        for place, (name, colour) in enumerate(((OURS, "#0072b2"), (THEIRS, "#d55e00"))):
            axis.scatter(parties[name], [place] * len(parties[name]), color=colour, s=40)
            axis.plot([np.mean(parties[name])] * 2, [place - 0.25, place + 0.25], color=colour)
        axis.set(yticks=[0, 1], yticklabels=["this project's CNN", "nnunetv2's CNN"], ylim=(1.6, -0.6), title=setting,
                 xlabel="mean DSC of a run, points")  # fmt: skip
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


_PAGE = """# nnU-Net's CNN: this project's training beside nnunetv2's

The same network is trained by nnunetv2 and by this project: same cases to train on and held out, same plan, same number
of steps with an ended schedule, no mirroring in prediction, the same scoring. Whole programs are compared, each from
the images to its label maps, and not the training alone: preprocessing, augmentation, loss, precision (nnunetv2:
float16; ours: bfloat16) and prediction are each program's own, so that a difference cannot be put down to one of them.

| data set | steps | held-out cases | ours, DSC of each seed | nnunetv2, DSC of each run | ours minus theirs | p |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

DSC in points of 100, mean over cases and classes. The difference is paired over cases, of the means over runs, with its
95 % bootstrap interval over cases; p: two-sided Wilcoxon signed-rank test, not corrected.

![DSC of every run](peer_training.png)

Made by `python benchmarks/peer_training.py`; {origin}. Ours are the records of [docs/evidence](../evidence/README.md).
"""


if __name__ == "__main__":
    main()
