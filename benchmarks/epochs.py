"""Seconds per training epoch by nnU-Net's rules: settings, networks, numbers of workers, real and dummy data.

    python benchmarks/epochs.py --work FOLDER --networks nnunet umamba_bot umamba_enc --workers 2 4 --epochs 3
    python benchmarks/epochs.py --work FOLDER --settings ct_3d mr_3d mr_2d endoscopy cells --workers 2
    python benchmarks/epochs.py --work FOLDER --settings ct_3d --networks nnunet umamba_enc --devices 2 --workers 4
    python benchmarks/epochs.py --work FOLDER --peer OTHER_VENV/bin/python --networks nnunet

Each setting and network is a call of `umamba.benchmark`. It adds every row to docs/benchmarks/epochs.json as soon as it
is measured; a row that is there for this machine is not measured again without --again, so a call that was cut short is
simply repeated. --epochs 3 keeps the first command within five minutes of an H200. Hippocampus is the Decathlon's
(--raw says where it lies, else it is downloaded into --work); the other settings are generated, such that they get the
patches of the paper's plans. What is prepared stays in --work. Arguments after -- are overrides for all calls.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from common import draw_bars
from epochs_sets import SETS
from umamba.benchmark.peer import find_peer
from umamba.benchmark.rows import add_row, read_rows
from umamba.benchmark.verdict import batches_of, markdown
from umamba.files import write_text
from umamba.machine import processor_name

OUT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
SETTINGS = {  # name -> overrides
    "hippocampus": ["data=hippocampus"],
    "ct_3d": ["data=custom", "data.batch_size=2"],
    "mr_3d": ["data=custom", "data.batch_size=2"],
    "mr_2d": ["data=custom", "data.batch_size=30", "data.configuration=2d"],
    "endoscopy": ["data=custom", "data.batch_size=13", "data.configuration=2d"],
    "cells": ["data=custom", "data.batch_size=12", "data.configuration=2d"],
}
NETWORKS = ("nnunet", "umamba_none", "umamba_bot", "umamba_enc", "resenc")


def main() -> None:
    """Measure what is missing, row by row, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared and generated data")
    parser.add_argument("--raw", type=Path, help="folder with Dataset004_Hippocampus")
    parser.add_argument("--settings", nargs="+", default=["hippocampus"], choices=list(SETTINGS))
    parser.add_argument("--networks", nargs="+", default=["nnunet"], choices=NETWORKS)
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--feeds", nargs="+", default=["real", "dummy"], choices=["real", "dummy"])
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="of which the fastest counts; 5 by nnU-Net's rules")
    parser.add_argument("--peer", metavar="PYTHON", help="also nnunetv2's benchmark, by an interpreter that has it")
    parser.add_argument("--again", action="store_true", help="also what has been measured on this machine")
    parser.add_argument("--output", type=Path, default=OUT, help="folder of epochs.{json,md,png}")
    parser.add_argument("--cuda-graph", default="auto", choices=["auto", "true", "false"])
    parser.add_argument("--augment-on", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("overrides", nargs="*", help="after --: for all calls; rows do not tell them apart")
    arguments = parser.parse_args()
    failed = []
    for setting in arguments.settings:
        raw = raw_data(arguments, setting)
        for network in arguments.networks:
            call = missing(arguments, setting, network, raw)
            if call and subprocess.run(call, check=False).returncode:
                failed.append(f"{setting}, {network}")
            write_page(arguments.output)
        if arguments.peer:
            run_peer(arguments, setting, raw)
            write_page(arguments.output)
    if failed:
        sys.exit(f"Not measured: {'; '.join(failed)}.")


def raw_data(arguments: argparse.Namespace, setting: str) -> Path:
    """The raw data set of a setting; generated here, or for the command to download."""
    raw = arguments.work.resolve() / "raw"
    if setting in SETS:
        return SETS[setting].make(raw)
    return (arguments.raw.resolve() if arguments.raw else raw) / "Dataset004_Hippocampus"


def missing(arguments: argparse.Namespace, setting: str, network: str, raw: Path) -> list[str]:
    """The call of the benchmark for the rows of a setting and a network that are not there yet; empty if all are."""
    wanted = [setting, network, machine(), arguments.devices, arguments.cuda_graph]
    places = (arguments.augment_on, None)  # None: of dummy data
    done = {
        (row["feed"], row["workers"])
        for row in read_rows(arguments.output)
        if [row["data"], row["model"], row["machine"], row["devices"], str(row.get("cuda_graph")).lower()] == wanted
        and row.get("augment_on") in places and len(row["epochs_s"]) >= arguments.epochs and not arguments.again
    }  # fmt: skip
    real = [n for n in arguments.workers if ("real", n) not in done] if "real" in arguments.feeds else []
    feeds = ["real"] * bool(real) + ["dummy"] * ("dummy" in arguments.feeds and ("dummy", None) not in done)
    if not feeds:
        return []
    several = ["trainer=ddp", f"trainer.devices={arguments.devices}"] if arguments.devices > 1 else []
    return [
        sys.executable, "-m", "umamba.benchmark", *SETTINGS[setting], f"data.dataset_dir={raw}", f"model={network}",
        f"data_name={setting}", f"paths.prepared={arguments.work.resolve() / 'prepared'}", *several,
        f"output={arguments.output.resolve()}", f"feeds=[{','.join(feeds)}]",
        f"workers=[{','.join(map(str, real or [0]))}]",
        f"trainer.max_epochs={arguments.epochs}", f"cuda_graph={arguments.cuda_graph}",
        f"data.augment_on={arguments.augment_on}", "callbacks.progress=null",
        *arguments.overrides,
    ]  # fmt: skip


def run_peer(arguments: argparse.Namespace, setting: str, raw: Path) -> None:
    """The rows of nnunetv2 that are not there yet."""
    peer = find_peer(arguments.peer, raw)
    name = f"nnunetv2 {peer.version}"
    done = {row["feed"] for row in read_rows(arguments.output) if (row["data"], row["model"]) == (setting, name)}
    configuration = "2d" if "data.configuration=2d" in SETTINGS[setting] else "3d_fullres"
    for feed in arguments.feeds:
        if feed not in done or arguments.again:
            add_row(arguments.output, peer.measure(feed, setting, configuration, arguments.work / "peer"))


def machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def write_page(folder: Path) -> None:
    """The table and the chart of all rows that there are."""
    rows = read_rows(folder)
    if not rows:
        return
    known = [row for row in rows if row.get("commit")]
    lines = [
        "# Seconds per epoch",
        "",
        "nnU-Net's rules: 250 training and 50 validation batches, the fastest of five epochs (or of as many as "
        "`epochs_s` has); dummy data are one random batch that lies on the device. `waiting ms` is what a step waits "
        "for its batch; `device ms` is the time in which the device had something to do, and `host ms` the host's own "
        "work, both of ten steps that are recorded after the last epoch.",
        "",
        "Made by `python benchmarks/epochs.py`; "
        + "; ".join(sorted({f"{r['machine']}, torch {r['torch']}, {r['cpus']} CPUs, {r['commit']}" for r in known}))
        + ".",
        "",
        markdown(rows),
        "![s per epoch](epochs.png)",
        "",
    ]
    write_text("\n".join(lines), folder / "epochs.md")
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        groups.setdefault(_group(row), {})[_party(row)] = row["epoch_s"]
    parties = sorted({name for group in groups.values() for name in group})
    bars: dict[str, list[float | None]] = {n: [group.get(n) for group in groups.values()] for n in parties}
    draw_bars(folder / "epochs.png", list(groups), {"seconds per epoch": bars})


def _party(row: dict[str, Any]) -> str:
    place = ", augmented by the CPU" if row.get("augment_on") == "cpu" else ""
    return batches_of(row["feed"], row["workers"]) + place


def _group(row: dict[str, Any]) -> str:
    several = f", {row['devices']} GPUs" if row["devices"] > 1 else ""
    return f"{row['data']}, {row['model']}{several}" + (", no graph" if row.get("cuda_graph") is False else "")


if __name__ == "__main__":
    main()
