"""Every file that a user can edit or receive, damaged in every way: it is read, or refused in words that name it."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.evaluation.scored_runs import make_run
from tests.inference.small import make_plan, save_checkpoint
from tests.run.test_resumed_config import called, trained
from umamba.callbacks.csv_log import MetricsWriter
from umamba.cross_validation.best import _load
from umamba.datamodules.splits import select_split
from umamba.drawing.history import history_figure
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import refuse_fitted, save_rules
from umamba.evaluation.report.records import read_run
from umamba.evaluation.report.runs import gather
from umamba.evaluation.same_meaning import check_predictions
from umamba.evidence.manifest import read_manifest
from umamba.files import write_json
from umamba.inference.ensemble import Group, read_ensemble, write_ensemble
from umamba.inference.going_on import go_on
from umamba.inference.mixture import check_one_prediction, check_unseen
from umamba.inference.record import meaning_of
from umamba.inference.rules import Rule, load_rules
from umamba.inference.written import identities_in
from umamba.locations import ROOT
from umamba.models.checkpoint import load_checkpoint
from umamba.planning.fingerprint import Fingerprint, case_facts, combine
from umamba.planning.nnunet_plans import load_plan
from umamba.planning.plan import Plan
from umamba.raw.dataset import RawCase, RawDataset
from umamba.raw.description import DatasetDescription
from umamba.run.errors import is_for_the_user, message_of
from umamba.run.job_state import config_of, planned_steps, read_state, steps_of
from umamba.run.resume import read_checkpoint
from umamba.run.score import score_of

DATASET = {
    "channel_names": {"0": "MR"}, "labels": {"background": 0, "class_1": 1}, "numTraining": 1, "file_ending": ".nii.gz",
}  # fmt: skip
LABELS = {"background": 0, "class_1": 1}
Read = Callable[[], object]


def dataset(folder: Path) -> tuple[Path, Read]:
    for name, file in (("imagesTr", "a_0000.nii.gz"), ("labelsTr", "a.nii.gz")):
        (folder / name).mkdir()
        (folder / name / file).touch()
    write_json(DATASET, folder / "dataset.json")
    return folder / "dataset.json", lambda: RawDataset.open(folder)


def description(folder: Path) -> DatasetDescription:
    write_json(DATASET, folder / "dataset.json")
    return DatasetDescription.read(folder / "dataset.json")


def plan(folder: Path) -> tuple[Path, Read]:
    make_plan().save(folder / "plan.json")
    return folder / "plan.json", lambda: Plan.load(folder / "plan.json")


def foreign_plan(folder: Path) -> tuple[Path, Read]:
    described = description(folder)
    make_plan().save(folder / "plan.json")
    return folder / "plan.json", lambda: load_plan(folder / "plan.json", described)


def fingerprint(folder: Path) -> tuple[Path, Read]:
    label = np.ones((4, 5, 6), np.int16)
    facts = case_facts(np.ones((1, 4, 5, 6), np.float32), label, (1.0, 1.0, 1.0), 10)
    write_json(combine([facts]).to_dict(), folder / "fingerprint.json")
    return folder / "fingerprint.json", lambda: Fingerprint.load(folder / "fingerprint.json")


def splits(folder: Path) -> tuple[Path, Read]:
    path = folder / "splits_final.json"
    write_json([{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}], path)
    return path, lambda: select_split(["a", "b", "c"], 0, [folder])


def config(folder: Path) -> tuple[Path, Read]:
    trained(folder, "trainer=cpu")
    (folder / "checkpoints" / "last.ckpt").unlink()

    def read() -> None:
        config_of(folder), planned_steps(folder)
        with called(folder):
            pass

    return folder / "config.yaml", read


def checkpoint(folder: Path) -> tuple[Path, Read]:
    path = save_checkpoint(folder / "last.ckpt", make_plan())

    def read() -> None:
        read_checkpoint(path)
        load_checkpoint(path)

    return path, read


def inference(folder: Path) -> tuple[Path, Read]:
    description(folder)
    (folder / "out").mkdir()
    (folder / "out" / "a.nii.gz").touch()
    case = RawCase(identifier="a", images=(folder / "a_0000.nii.gz",), label=None)
    made_by = {"networks": [{"path": "a.ckpt", "weights": "0"}], "mirror": False}
    record = {
        "meaning": meaning_of(make_plan()), "made_by": made_by, "images": {"a": []}, "replaced": {}, "failed": {},
        "written": {"a": identities_in(folder / "out", [folder / "out" / "a.nii.gz"])}, "trained_on": {"a": "yes"},
        "seconds": {"a": 1.0},
    }  # fmt: skip
    path, files = folder / "out" / "inference.json", {"a": folder / "out" / "a.nii.gz"}
    write_json(record, path)

    def read() -> None:
        check_predictions(folder / "out", folder, folder / "dataset.json", other_dataset=True)
        check_one_prediction(folder / "out", files)
        check_unseen(folder / "out", {"a"}, allowed=True)
        go_on(path, [case], {"a": [files["a"]]}, made_by)

    return path, read


def rules(folder: Path) -> tuple[Path, Read]:
    path = folder / "postprocessing.json"
    save_rules([Rule(classes=("class_1",), labels=(1,), dice_before=0.5, dice_after=0.6)], path, ["a"])

    def read() -> None:
        load_rules(path, LABELS)
        refuse_fitted(path, ["b"])

    return path, read


def ensemble(folder: Path) -> tuple[Path, Read]:
    (folder / "a.ckpt").touch()
    path = folder / "ensemble.json"
    group = Group(name="n", checkpoints=(folder / "a.ckpt",), hashes=("0",))
    write_ensemble(path, [group], [], mirror=False, fitted_on=["a"], facts={"dataset": "Small"})
    return path, lambda: read_ensemble(path).groups


def probabilities(folder: Path) -> tuple[Path, Read]:
    path = folder / "a.npz"
    np.savez_compressed(path, probabilities=np.random.default_rng(0).uniform(size=(2, 4, 5, 6)).astype(np.float16))
    pair = Pair(case="a", prediction=folder / "a.nii.gz", reference=folder / "a.nii.gz")
    return path, lambda: _load(pair)


def run_record(folder: Path) -> tuple[Path, Read]:
    make_run(folder / "runs" / "one" / "tables")
    return folder / "runs" / "one" / "tables" / "run.json", lambda: gather([folder / "runs"])


def scores(folder: Path) -> tuple[Path, Read]:
    make_run(folder / "runs" / "one" / "tables")
    return folder / "runs" / "one" / "tables" / "scores.csv", lambda: gather([folder / "runs"])


def evidence(folder: Path) -> tuple[Path, Read]:
    given = next(path for path in sorted((ROOT / "docs" / "evidence").rglob("*.json")) if "version" in path.read_text())
    path = folder / given.parent.name / given.name
    path.parent.mkdir()
    shutil.copy(given, path)
    return path, lambda: read_run(path)


def manifest(folder: Path) -> tuple[Path, Read]:
    path = folder / "runs.yaml"
    content = {
        "overrides": ["fold=0"],
        "networks": {"bot": {"overrides": ["model=umamba_bot"], "seeds": [1, 2]}},
        "datasets": {"heart": {"title": "Heart", "overrides": ["data=custom"], "networks": ["bot"], "seconds": 10}},
    }
    path.write_text(yaml.safe_dump(content))
    return path, lambda: read_manifest(str(path))


def metrics(folder: Path) -> tuple[Path, Read]:
    path = folder / "metrics.csv"
    rows = [{"epoch": n, "step": n, "train/loss": 1.0 / (n + 1), "val/dice_ema": 0.5, "lr-SGD": 0.1} for n in range(9)]
    pd.DataFrame(rows).to_csv(path, index=False)

    def read() -> None:
        steps_of(folder)
        score_of(folder, "val/dice_ema")
        history_figure(path, folder / "a.png", {})
        MetricsWriter(str(folder)).rewind(4)

    return path, read


def state(folder: Path) -> tuple[Path, Read]:
    write_json({"attempts": [{"step": 1}], "status": "done"}, folder / "state.json")
    return folder / "state.json", lambda: read_state(folder / "state.json", ["status"], folder)


KINDS = (dataset, plan, foreign_plan, fingerprint, splits, config, checkpoint, inference, rules, ensemble,
         probabilities, run_record, scores, evidence, manifest, metrics, state)  # fmt: skip


NOT_PLAIN = (config, checkpoint, probabilities, scores, metrics)  # of configurations see test_stored_config.py


def _damaged(content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Name and content; None: a link to itself."""
    yield "loop", None
    yield "empty", b""
    yield "byte order mark", b"\xef\xbb\xbf" + content
    yield "latin-1", content + "ä: ö".encode("latin-1")
    yield "zeros", bytes(len(content))
    for share in (0.3, 0.7, 0.98):
        yield f"cut at {share}", content[: int(len(content) * share)]
    for text in ("[]", "{}", "null", "3", '"text"', "NaN", "[" * 3000, '{"a": ' * 3000, "[1, 2", "[null]", "[[]]"):
        yield text[:20], text.encode()


def _edited(content: Any) -> Iterator[tuple[str, Any]]:
    """The same with one value that is another, down to some depth."""
    values = [None, True, -3, 0.5, float("nan"), float("inf"), 10**400, "text", "", [], {}, [1], {"a": 1}, [None]]

    def at(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        entries = (
            node.items() if isinstance(node, dict) else list(enumerate(node))[:1] if isinstance(node, list) else ()
        )
        for key, entry in entries:
            yield (*path, key)
            if len(path) < 2:
                yield from at(entry, (*path, key))

    for path in at(content, ()):
        for value in ("(gone)", *values):
            edited = copy.deepcopy(content)
            node = edited
            for key in path[:-1]:
                node = node[key]
            if value == "(gone)":
                del node[path[-1]]
            else:
                node[path[-1]] = value
            yield f"{'.'.join(map(str, path))} = {value!r:.20}", edited


def _faults(path: Path, read: Read, what: str) -> list[str]:
    """What is wrong with how a damaged file is read."""
    before = {*path.parent.rglob("*")}
    try:
        read()
    except (Exception, SystemExit) as error:
        if not is_for_the_user(error):
            return [f"{what}: {type(error).__name__}: {error!s:.200}"]
        named = path.name in message_of(error) or str(path.parent) in message_of(error)
        if not named or "\n    " in message_of(error):
            return [f"{what}: does not name the file: {message_of(error):.200}"]
    left = [one.name for one in path.parent.rglob("*") if one not in before and one.name != "a.png"]
    return [f"{what}: left {left}"] if left else []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_file_is_refused_in_words_that_name_it(kind: Callable, tmp_path: Path) -> None:
    path, read = kind(tmp_path)
    content = path.read_bytes()
    read()
    faults = []
    for what, damaged in _damaged(content):
        path.unlink()
        if damaged is None:
            path.symlink_to(path)
        else:
            path.write_bytes(damaged)
        faults += _faults(path, read, what)
    path.unlink()
    path.write_bytes(content)
    read()
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_PLAIN],
                         ids=lambda kind: kind.__name__)  # fmt: skip
def test_a_wrong_value_is_refused_in_words_that_name_the_file(kind: Callable, tmp_path: Path) -> None:
    path, read = kind(tmp_path)
    is_yaml = path.suffix == ".yaml"
    content = yaml.safe_load(path.read_text()) if is_yaml else json.loads(path.read_text())
    logging.disable(logging.WARNING)
    faults = []
    for what, edited in _edited(content):
        path.write_text(yaml.safe_dump(edited) if is_yaml else json.dumps(edited))
        faults += _faults(path, read, what)
    logging.disable(logging.NOTSET)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


@pytest.mark.parametrize("kind", [dataset, plan, splits, rules, ensemble, evidence, run_record],
                         ids=lambda kind: kind.__name__)  # fmt: skip
def test_a_key_that_stands_twice_is_refused(kind: Callable, tmp_path: Path) -> None:
    """JSON's readers take the last one in silence."""
    path, read = kind(tmp_path)
    text = path.read_text()
    first, _, rest = text.partition("{")
    key = rest.split('"')[1]
    path.write_text(f'{first}{{"{key}": 1, {rest}')
    with pytest.raises(ValueError, match=rf"{path.name}.* '{key}' .*twice"):
        read()
