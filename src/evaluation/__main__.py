"""Score checkpoints on their test cases, or stored predictions against references.

    python eval.py ckpt_path=logs/.../checkpoints/last.ckpt output=scores
    python eval.py ckpt_path=[a.ckpt,b.ckpt] ensemble=true mirror=true output=scores
    python eval.py predictions=FOLDER references=FOLDER nsd_tolerance=2 output=scores

A checkpoint knows its plan and its data set; several give a row each, and so does every option asked for. The output
folder gets tables/ (per case, per class and in all as CSV, Markdown and LaTeX), predictions/ and figures/.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "eval")  # before the imports that take seconds

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.held_out import choose_cases
from umamba.evaluation.identity import check_one_network
from umamba.evaluation.members import Member
from umamba.evaluation.pairs import pair_folders
from umamba.evaluation.postprocessing import fit_rules, save_rules
from umamba.evaluation.prepared import RunOptions, prepare
from umamba.evaluation.same_meaning import check_predictions
from umamba.evaluation.same_table import check_one_data_set, check_one_way, note_on_cases
from umamba.evaluation.score_run import REMARKS, predict_and_score
from umamba.evaluation.scoring import Scoring, check_tolerance_names
from umamba.evaluation.table_text import show_table
from umamba.evaluation.tables import check_parquet, describe, write_source_tables, write_tables
from umamba.files import check_takes_files, read_json, writing_into
from umamba.inference.members import axes_to_mirror
from umamba.inference.mixture import check_one_prediction, check_unseen
from umamba.inference.record import find_records
from umamba.models.checkpoint import datamodule_from_checkpoint, load_checkpoint
from umamba.names import file_names
from umamba.parallel import check_workers
from umamba.plain import check_option_types, plain
from umamba.planning.plan import Plan
from umamba.raw.description import DatasetDescription
from umamba.raw.sources import sources_of
from umamba.run.command import command, run_command

log = logging.getLogger(__name__)

# What only one of the two ways of scoring knows, and its value that asks for nothing (configs/eval.yaml).
_OF_CHECKPOINTS: dict[str, object] = {"ensemble": False, "mirror": False, "cases": "test", "fit_postprocessing": False}
_OF_CHECKPOINTS |= {"postprocessing": None, "device": "auto", "trusted": [], "data.dataset_dir": None}
_OF_CHECKPOINTS |= {"data.prepared_dir": None, "previous_stage": None}
_OF_FOLDERS: dict[str, object] = {"references": None, "dataset_json": None, "nsd_tolerance": None, "task": "semantic"}
_OF_FOLDERS |= {"instance_predictions": None, "other_dataset": False, "seen_cases": False}


SWITCHES = ("ensemble", "mirror", "fit_postprocessing", "other_dataset", "seen_cases", "parquet")
TYPES = {  # of the configuration; what is not here is looked at where it is used
    **dict.fromkeys(SWITCHES, bool), "instance_predictions": bool | None, "output": Path,
    "ckpt_path": Path | list[Path] | None,
    "postprocessing": Path | None, "previous_stage": Path | list[Path] | None, "trusted": str | list[str] | None,
    "data.dataset_dir": Path | None, "data.prepared_dir": Path | None, "predictions": Path | None,
    "references": Path | None, "dataset_json": Path | None, "cases": str, "protocol": str, "task": str,
    "nsd_tolerance": float | dict | None, "grow": float | bool | None,
}  # fmt: skip


@command("eval")
def main(cfg: DictConfig) -> None:
    check_option_types(cfg, TYPES)
    if (cfg.ckpt_path is None) == (cfg.predictions is None):
        raise ValueError("Give either ckpt_path=..., or predictions=... and references=...")
    check_takes_files(cfg.output, "output")
    if cfg.predictions is not None:
        _refuse(cfg, _OF_CHECKPOINTS, "predictions=..., which are scored as they are, once")
        score_folders(cfg)
    else:
        _refuse(cfg, _OF_FOLDERS, "ckpt_path=..., whose data set says it")
        score_checkpoints(cfg)
    log.info("Tables are in %s.", Path(cfg.output) / "tables")


def score_checkpoints(cfg: DictConfig) -> None:
    check_workers(cfg.workers)
    paths = _checkpoints(cfg)
    rows = _rows(cfg, paths)
    members, datamodules = _opened(cfg, paths)
    kinds = set()
    for row in rows:  # what cannot be scored is refused before the first prediction
        kinds.add(choose_cases([members[path] for path in row.paths], datamodules[row.paths[0]], cfg.cases)[1])
    if cfg.fit_postprocessing:
        check_one_network(list(members.values()))
        if datamodules[paths[0]].task == "instances":
            raise ValueError("fit_postprocessing=true keeps the largest component of a class; instances need them all.")
    note = _check_rows(rows, datamodules) if len(rows) > 1 else ""
    output, frames, pairs = Path(cfg.output), [], []
    for row in rows:
        scores, predicted = predict_and_score(row.paths, datamodules[row.paths[0]], row.folder, options=row.options)
        frames.append(scores.assign(run=row.name + (", " + scores["run"] if "run" in scores else "")))
        if len(row.paths) == 1 and not row.options.mirror:
            pairs += predicted
    if len(rows) > 1:
        together = pd.concat(frames, ignore_index=True)
        remark = " ".join([*(REMARKS[kind] for kind in sorted(kinds)), note]).strip()
        with writing_into(output, alone=True):
            text = write_tables(together, output / "tables", parquet=cfg.parquet, remark=remark)
        show_table(text.groupby("run", sort=False).tail(1), f"{describe(together)} {remark}".strip())
    if cfg.fit_postprocessing:
        plan = Plan.from_dict(members[paths[0]].plan)
        rules = fit_rules(pairs, plan.foreground, plan.ignore_label)
        save_rules(rules, output / "postprocessing.json", [pair.case for pair in pairs])
        log.info("%d rule(s) raise the validation DSC: %s", len(rules), output / "postprocessing.json")


class _Row(NamedTuple):
    """A row of the table: what is scored, of which checkpoints, where and how."""

    name: str
    paths: list[Path]
    folder: Path
    options: RunOptions


def _checkpoints(cfg: DictConfig) -> list[Path]:
    """What is to be scored, if it goes with the other options."""
    if cfg.fit_postprocessing and cfg.cases != "validation":
        raise ValueError("fit_postprocessing=true needs cases=validation: rules fitted on test cases flatter them.")
    paths = [Path(p) for p in (cfg.ckpt_path if isinstance(cfg.ckpt_path, ListConfig) else [cfg.ckpt_path])]
    if not paths:
        raise ValueError("There is no checkpoint to score: ckpt_path=[] is an empty list.")
    if cfg.ensemble and len(paths) == 1:
        raise ValueError("ensemble=true averages the checkpoints of a list, ckpt_path=[a.ckpt,b.ckpt]; this is one.")
    return paths


def _opened(cfg: DictConfig, paths: list[Path]) -> tuple[dict[Path, Member], dict[Path, SegmentationDataModule]]:
    """What each checkpoint says of its training, and the data set that it is scored on, opened."""
    overrides = {key: value for key, value in cfg.data.items() if value is not None}
    members, datamodules = {}, {}
    for path in paths:
        checkpoint = load_checkpoint(path, cfg.trusted)
        members[path] = Member.of(path, checkpoint)
        datamodules[path] = datamodule_from_checkpoint(checkpoint, overrides)
        del checkpoint
    check_one_data_set(datamodules)
    for datamodule in datamodules.values():
        datamodule.open_raw()
    for path, member in members.items() if cfg.mirror else ():
        configuration = Plan.from_dict(member.plan).configuration(member.configuration)
        axes_to_mirror(member.config, configuration.spatial_dims, path)
    return members, datamodules


def _rows(cfg: DictConfig, paths: list[Path]) -> list[_Row]:
    """Each checkpoint, then all as an ensemble, then the same mirrored, as asked for."""
    runs = [(name, [path]) for name, path in zip(_names(paths), paths, strict=True)]
    if cfg.ensemble:
        runs.append((f"ensemble_of_{len(paths)}", paths))
    plain = RunOptions(**{field.name: cfg[field.name] for field in fields(RunOptions) if field.name != "mirror"})
    asked = [(name, some, plain) for name, some in runs]
    if cfg.mirror:
        asked += [(f"{name}_mirrored", some, replace(plain, mirror=True)) for name, some in runs]
    output = Path(cfg.output)
    return [_Row(name, some, output if len(asked) == 1 else output / name, options) for name, some, options in asked]


def _check_rows(rows: list[_Row], datamodules: Mapping[Path, SegmentationDataModule]) -> str:
    """See that every row can be scored, and in one table, before the first is; returns what to say of them all."""
    ways, cases = {}, {}
    for row in rows:
        prepared = prepare(row.paths, datamodules[row.paths[0]], row.folder, row.options)
        ways[row.name], cases[row.name] = prepared.scoring, [case.identifier for case in prepared.chosen]
        del prepared  # with its networks
    check_one_way(ways)
    return f"{note_on_cases(cases)} {next(iter(ways.values())).remark}".strip()


def score_folders(cfg: DictConfig) -> None:
    if cfg.references is None:
        raise ValueError("predictions=... needs references=..., a folder with a file of the same name for each.")
    predictions, references = Path(cfg.predictions), Path(cfg.references)
    for key, folder in (("predictions", predictions), ("references", references)):
        if not folder.is_dir():
            raise FileNotFoundError(f"{key}={folder} is no folder; expected one with label maps.")
    dataset_json = Path(cfg.dataset_json or references.parent / "dataset.json")
    if not dataset_json.is_file() and cfg.dataset_json is None:
        raise FileNotFoundError(
            f"{dataset_json} does not exist, which would say the names and values of the classes. Give "
            "dataset_json=<file>; a raw data set has one beside labelsTr."
        )
    description = DatasetDescription.read(dataset_json)
    tolerance = plain(cfg.nsd_tolerance)
    if tolerance is not None and (cfg.task == "instances" or cfg.protocol == "paper"):
        raise ValueError("nsd_tolerance=... acts on task=semantic with protocol=standard alone. Leave it out.")
    check_tolerance_names(tolerance, description.foreground)
    scoring = Scoring.of(
        description,
        task=cfg.task,
        tolerance=tolerance,
        protocol=cfg.protocol,
        instance_predictions=bool(cfg.instance_predictions),
        grow=0 if cfg.grow is None else cfg.grow,
    )
    _check_kind(cfg)
    check_predictions(predictions, references, dataset_json, other_dataset=cfg.other_dataset)
    check_parquet(cfg.parquet)
    check_workers(cfg.workers)
    sources = sources_of(read_json(dataset_json), dataset_json)
    pairs = pair_folders(predictions, references, scoring, sources)
    check_one_prediction(predictions, {pair.case: pair.prediction for pair in pairs})
    remark = check_unseen(predictions, {pair.case for pair in pairs}, allowed=cfg.seen_cases)
    remark = f"{remark} {scoring.remark}".strip()
    scores = evaluate(pairs, scoring, workers=cfg.workers)
    with writing_into(Path(cfg.output), alone=True):
        text = write_tables(scores, Path(cfg.output) / "tables", parquet=cfg.parquet, remark=remark)
        write_source_tables(scores, pairs, Path(cfg.output) / "tables")
    show_table(text, f"{describe(scores)} {remark}".strip())


def _check_kind(cfg: DictConfig) -> None:
    """See that it is known whether label maps hold instances: one of two objects looks as one of classes does.

    Raises:
        ValueError: Nobody says it, or what made them says otherwise.
    """
    given, made_here = cfg.instance_predictions, bool(find_records(Path(cfg.predictions)))
    if cfg.task == "instances" and not made_here and given is None:
        raise ValueError(
            f"predictions={cfg.predictions} has no inference.json that says what the label maps are, and one of two "
            "objects looks as one of interior and boundary does. Say instance_predictions=true if each object has a "
            "number of its own, =false if the values are classes."
        )
    if given and made_here:
        raise ValueError(
            f"instance_predictions=true: the inference.json in {cfg.predictions} says that predict.py made these "
            "label maps, which are of classes. Leave it out; instance maps of your own belong into another folder."
        )


def _refuse(cfg: DictConfig, options: dict[str, object], way: str) -> None:
    """Refuse options that would not act."""
    given = [key for key, neutral in options.items() if OmegaConf.select(cfg, key) != neutral]
    if given:
        raise ValueError(f"{', '.join(given)} would do nothing beside {way}. Leave it out.")


def _names(paths: list[Path]) -> list[str]:
    """Names for checkpoints that tell them apart: as much of the end of their paths as that needs."""
    for depth in range(1, max(len(path.resolve().parts) for path in paths)):
        names = ["_".join(path.resolve().with_suffix("").parts[-depth:]) for path in paths]
        if len({name.lower() for name in names}) == len(paths):
            return list(file_names(names).values())
    raise ValueError(f"ckpt_path names a checkpoint twice: {', '.join(map(str, paths))}.")


if __name__ == "__main__":
    run_command(main)
