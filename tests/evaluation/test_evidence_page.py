"""The pages of a benchmark's records: what is pooled, compared, left out and said, and that they come out the same."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.evaluation import scored_runs
from umamba.evaluation.record import digest_of
from umamba.evaluation.report.evidence import make_page
from umamba.evaluation.report.evidence_tables import CNN, CONTROL, contrast
from umamba.evaluation.report.left_out import LeftOutError
from umamba.evaluation.report.record_faults import OWN_HASH, fault_of, hash_of
from umamba.evaluation.report.records import find_runs, mixed, read_run
from umamba.evaluation.report.runs import of_records
from umamba.evaluation.report.significance import compare_networks, false_claim
from umamba.evaluation.report.svg import _MARK, _WIDTH, _apart, _log_ticks
from umamba.evidence.manifest import Wanted
from umamba.evidence.record import make_record
from umamba.files import write_json
from umamba.locations import ROOT

GAINS = {"nnunet": 0.0, "umamba_none": 0.004, "umamba_bot": 0.004, "umamba_enc": 0.03}
ATTEMPT = {"seconds": 60.0, "gpu_seconds": 30.0, "packed": 2.0, "step": 100, "reached": 100, "energy_wh": 5.0,
           "no_energy": None, "exit_code": 0}  # fmt: skip


def make_records(folder: Path, records: Path, dataset: str = "heart_3d", title: str = "Heart, MR, 3D", seeds=(1, 2, 3),
                 gains=GAINS, attempts=(ATTEMPT,), code: str = "c0de", **options) -> None:  # fmt: skip
    import torch

    for network, gain in gains.items():
        for seed in seeds:
            run = folder / dataset / f"{network}_{seed}"
            scored_runs.make_run(run / "tables", dataset=dataset, network=network, seed=seed, gain=gain,
                                 scored="validation", **options)  # fmt: skip
            (run / "checkpoints").mkdir()
            torch.save({"global_step": 100, "cases": {"trained_on": {"a": "1"}}}, run / "checkpoints" / "last.ckpt")
            path = run / "tables" / "run.json"
            digest = digest_of(run / "checkpoints" / "last.ckpt")
            path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoints_sha256": [digest]}))
            write_json({"epoch_seconds": [2.0, 2.0]}, run / "cost.json")
            write_json({"git_revision": "abc", "python": "3", "versions": {"torch": "2.9"}}, run / "provenance.json")
            wanted = Wanted(dataset=dataset, title=title, network=network, seed=seed, overrides=("a=b",), seconds=1.0)
            write_json(make_record(wanted, run, attempts, code), records / f"{wanted.key}.json")


def main_table(page: str) -> dict[str, dict[str, str]]:
    """The table of differences: data set -> column -> cell."""
    lines = page.split("## Differences\n\n", 1)[1].split("\n\n", 1)[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def details(page: Path) -> str:
    """The page that all else is looked up on."""
    return (page.parent / "details.md").read_text()


def resaved(record: dict, path: Path) -> None:
    """Write a record as if all this had been recorded."""
    write_json(record | {OWN_HASH: hash_of(record)}, path)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    make_records(folder / "work", folder / "records")
    make_records(folder / "work", folder / "records", dataset="heart_2d", title="Heart, MR, 2D", configuration="2d")
    make_records(folder / "work", folder / "records", dataset="nuclei", title="Nuclei, 2D", classes=("instances",))
    return folder / "records"


def test_records_hold_what_the_tables_need_and_are_small(records):
    record = read_run(records / "heart_3d" / "umamba_enc_2.json")
    assert record["cost"]["gpu_hours"] == pytest.approx(30 / 3600, abs=1e-5)
    assert record["cost"]["seconds_per_step"] == pytest.approx(2.0 / 50) and record["cost"]["energy_wh"] == 5.0
    assert (records / "heart_3d" / "umamba_enc_2.json").stat().st_size < 50_000
    (run,) = of_records([record], records)
    assert run.dataset == "heart_3d" and run.replicate == "fold 0, seed 2"
    assert run.scores["dsc"].notna().all() and set(run.scores["protocol"]) == {"standard"}


def test_the_page_is_made_anew_byte_for_byte(records, tmp_path):
    (tmp_path / "records").symlink_to(records)
    make_page(records, tmp_path / "one")
    make_page(tmp_path / "records", tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    tables = [f"tables/{name}.csv" for name in ("cost", "differences", "scores")]
    assert [str(path) for path in files] == ["README.md", "details.md", "figures/score_against_cost.svg", *tables]
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_the_page_says_what_the_records_hold(records, tmp_path):
    path = make_page(records, tmp_path)
    page, full = path.read_text(), details(path)
    assert "36 trainings on 3 data sets," in page and "cannot be counted" not in page
    table = main_table(page)
    assert re.match(r"\+2\.[56]\d \[", table["Heart, MR, 3D (DSC)"]["Enc minus control"])
    assert table["significantly better, worse"]["Enc minus CNN"] == "3, 0 of 3"
    assert re.findall(r"^## (.*)", page, re.M) == ["Differences", "Each data set"]
    assert re.findall(r"^## (.*)", full, re.M) == ["Scores", "Each data set in full", "Cost", "How it was made"]
    headings = ["Heart, MR, 3D", "Heart, MR, 2D", "Nuclei, 2D"]
    assert all("nan" not in x and sorted(re.findall(r"^### (.*)", x, re.M)) == sorted(headings) for x in (page, full))
    assert "(details.md#each-data-set-in-full)" in page
    scores = pd.read_csv(tmp_path / "tables" / "scores.csv")
    assert set(scores["setting"]) == {"heart_3d", "heart_2d", "nuclei"}
    assert set(scores.loc[scores["setting"] == "nuclei", "metric"]) == {"f1"}
    assert set(scores.loc[scores["setting"] == "heart_3d", "metric"]) == {"dsc", "nsd", "hd95"}
    assert (scores["runs"] == 3).all() and (scores["low"] <= scores["mean"]).all()
    assert "s per step" in full and "0.040" in full
    figure = ET.fromstring((tmp_path / "figures" / "score_against_cost.svg").read_text())
    assert figure.tag.endswith("svg") and "prefers-color-scheme:dark" in (
        tmp_path / "figures" / "score_against_cost.svg").read_text()  # fmt: skip


def test_words_beside_the_records_are_part_of_the_page(records, tmp_path):
    target = tmp_path / "records"
    for path in find_runs(records):
        write_json(json.loads(path.read_text()), target / path.relative_to(records))
    (target / "words.md").write_text("These data support *nothing*.\n")
    assert "These data support *nothing*." in make_page(target).read_text()
    assert (target / "README.md").is_file()


def test_differences_are_paired_and_lower_hd95_is_better(records, tmp_path):
    make_page(records, tmp_path)
    table = pd.read_csv(tmp_path / "tables" / "differences.csv")
    part = table[(table["setting"] == "heart_3d") & (table["network"] == "umamba_enc") & (table["other"] == CNN)]
    assert set(part["metric"]) == {"dsc", "nsd", "hd95"} and (part["p_false"] < 0.05).all()
    assert (part["difference"][part["metric"] != "hd95"] > 0).all()
    assert (part["difference"][part["metric"] == "hd95"] < 0).all()
    pairs = set(zip(table["network"], table["other"], strict=True))
    assert pairs == {(n, o) for o in (CONTROL, CNN) for n in GAINS if n != o} - {(CONTROL, CNN)}


def test_a_class_that_one_seed_missed_is_counted_beside_hd95(records, tmp_path):
    target = tmp_path / "records"
    for path in find_runs(records):
        record = json.loads(path.read_text())
        if path.name == "umamba_bot_2.json" and path.parent.name == "heart_3d":
            columns = record["scores"]["columns"]
            for row in record["scores"]["rows"]:
                if row[columns.index("class")] == "spleen":
                    row[columns.index("dsc")], row[columns.index("hd95")] = 0.0, None
        resaved(record, target / path.relative_to(records))
    page = details(make_page(target, tmp_path / "page"))
    scores = pd.read_csv(tmp_path / "page" / "tables" / "scores.csv").set_index(["setting", "network", "metric"])
    assert scores.loc[("heart_3d", "umamba_bot", "hd95"), "infinite"] == 12 == scores["infinite"].sum()
    (line,) = [line for line in page.splitlines() if "(12 inf.)" in line]
    assert line.startswith("| U-Mamba_Bot |")


def test_what_is_of_another_version_is_named_and_not_counted(records, tmp_path, caplog):
    target = tmp_path / "records"
    for path in find_runs(records):
        record = json.loads(path.read_text())
        if path.name == "umamba_enc_3.json" and path.parent.name == "heart_3d":
            record["code"] = "other"
        resaved(record, target / path.relative_to(records))
    path = make_page(target)
    why = "another version of the code than seed 1 of its cell"
    assert f"Not counted: heart_3d/umamba_enc_3, {why}." in details(path) and why in caplog.text
    told = "35 trainings on 3 data sets, one plan and one short budget for all networks of a data set. 1 more cannot"
    assert told in path.read_text()
    scores = pd.read_csv(target / "tables" / "scores.csv")
    cell = (scores["setting"] == "heart_3d") & (scores["network"] == "umamba_enc")
    assert set(scores.loc[cell, "runs"]) == {2} and set(scores.loc[~cell, "runs"]) == {3}


@pytest.mark.parametrize("key", ["overrides", "code", "config_hash", "plan_hash", "data_hash"])
def test_each_of_what_must_agree_in_a_cell_is_looked_at(records, key):
    same = [read_run(path) for path in find_runs(records / ".." / "records") if path.parent.name == "heart_3d"]
    assert mixed(same) == {}
    same[-1][key] = "another"
    assert list(mixed(same)) == ["heart_3d/umamba_none_3"]


def test_budgets_that_differ_are_said(records, tmp_path):
    target = shutil.copytree(records, tmp_path / "records")
    assert "one plan and one short budget for all networks" in make_page(target, tmp_path / "page").read_text()
    for seed in (1, 2, 3):
        path = target / "heart_3d" / f"umamba_enc_{seed}.json"
        record = json.loads(path.read_text())
        record["cost"]["steps"] = record["attempts"][-1]["step"] = 1000
        resaved(record, path)
    page = make_page(target, tmp_path / "page").read_text()
    assert "one short budget" not in page and "trained for different numbers of steps**: Heart, MR, 3D." in page


def test_networks_that_were_trained_on_other_data_do_not_count(records):
    some = [read_run(path) for path in find_runs(records) if path.parent.name == "heart_3d"]
    for record in some:
        record["data_hash"] = "another" if record["network"] == "umamba_enc" else record["data_hash"]
    assert mixed(some) == {f"heart_3d/umamba_enc_{n}": "other data than heart_3d/nnunet_1" for n in (1, 2, 3)}


def test_a_data_set_without_any_score_does_not_count(records, tmp_path):
    target = shutil.copytree(records, tmp_path / "records")
    for path in find_runs(target):
        if path.parent.name == "nuclei":
            record = json.loads(path.read_text())
            rows, columns = record["scores"]["rows"], record["scores"]["columns"]
            names = ("case", "class")
            record["scores"]["rows"] = [
                [value if name in names else None for name, value in zip(columns, row, strict=True)] for row in rows
            ]
            resaved(record, path)
    page = details(make_page(target, tmp_path / "page"))
    assert "Not counted: nuclei/nnunet_1, no case has a score." in page and "Heart, MR, 3D" in page
    for name in ("heart_3d", "heart_2d"):
        shutil.rmtree(target / name)
    with pytest.raises(ValueError, match="No case below .* has a score: neither references nor predictions"):
        make_page(target, tmp_path / "page")


def test_networks_whose_instances_were_grown_otherwise_do_not_count(records, tmp_path):
    target = shutil.copytree(records, tmp_path / "records")
    assert "grown by" not in details(make_page(target, tmp_path / "page"))
    for path in find_runs(target):
        record = json.loads(path.read_text())
        record["run"]["options"]["grow"] = 0 if record["network"] == "umamba_enc" else 2
        resaved(record, path)
    some = [read_run(path) for path in find_runs(target)]
    why = "scored with data.grow=0, nuclei/nnunet_1 with 2"
    assert mixed(some) == {f"nuclei/umamba_enc_{n}": why for n in (1, 2, 3)}
    page = details(make_page(target, tmp_path / "page"))
    assert page.count("Predicted instances are grown by 2 px over the boundary class.") == 1
    assert f"Not counted: nuclei/umamba_enc_1, {why}." in page


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda rows, at: rows.append(rows[4]), "spleen of case_01 is scored twice"),
        (lambda rows, at: rows.pop(), "it lacks the score of pancreas of case_11"),
        (lambda rows, at: rows[0].__setitem__(0, "case_99"), "scores of case_99, which is none of the cases"),
        (lambda rows, at: rows[2].__setitem__(at["dsc"], 1.7), "the DSC of pancreas of case_00 is 1.7"),
        (lambda rows, at: rows[2].__setitem__(at["hd95"], -1.0), "the HD95 of pancreas of case_00 is -1.0"),
        (lambda rows, at: rows[2].__setitem__(at["nsd"], "0.9"), "no record of a run"),
        (lambda rows, at: rows[2].__setitem__(at["dsc"], 0.5), "record_hash is not that of what it holds"),
    ],
)
def test_scores_that_cannot_be_are_refused(records, tmp_path, edit, told):
    record = read_run(records / "heart_3d" / "nnunet_2.json")
    edit(record["scores"]["rows"], {name: at for at, name in enumerate(record["scores"]["columns"])})
    write_json(record, tmp_path / "heart_3d" / "nnunet_2.json")
    with pytest.raises(ValueError, match=told):
        read_run(tmp_path / "heart_3d" / "nnunet_2.json")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("config_hash", "0" * 16, "config_hash is not that of the configuration in it"),
        ("run.members.0.training", {"seed": 2}, "config_hash is not that of the configuration in it"),
        ("run.plan.patch_size", [1, 2, 3], "plan_hash is not that of the plan in it"),
        ("run.seed", 9, "it is of seed 2, its run of seed 9"),
        ("cost.steps", 1000, "its steps are 1000, of its starts together 100"),
        ("cost.seconds", 30.0, r"its seconds are 30.0, of its starts together 60.0"),
        ("attempts.0.seconds", 30.0, r"its seconds are 60.0, of its starts together 30.0"),
        ("cost.gpu_hours", 0.001, "its gpu_hours are 0.001"),
        ("cost.energy_wh", None, "its energy_wh are None"),
        ("cost.seconds_per_step", 4.0, r"100 steps of 4.0 s do not fit into its 60.0 s"),
        ("record_hash", "0" * 16, "record_hash is not that of what it holds"),
    ],
)
def test_a_record_that_does_not_agree_with_itself_is_refused(records, tmp_path, key: str, value: Any, told: str):
    """Also where whoever edited it has made its own hash anew, or it is of a version that had none."""
    path = tmp_path / "heart_3d" / "nnunet_2.json"
    record = node = read_run(records / "heart_3d" / "nnunet_2.json")
    *parents, last = key.split(".")
    for part in parents:
        node = node[int(part)] if part.isdecimal() else node[part]
    assert node[last] != value
    node[last] = value
    without = {name: entry for name, entry in record.items() if name != OWN_HASH}
    for one in [record] if key == OWN_HASH else [without, without | {OWN_HASH: hash_of(without)}]:
        write_json(one, path)
        with pytest.raises(ValueError, match=rf"nnunet_2\.json: {told}.*\. It was edited or cut"):
            read_run(path)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({"dsc": 0.95, "volume_error": 0.0, "abs_volume_error": 0.0}, None),
        ({"dsc": 0.96, "volume_error": 0.1, "abs_volume_error": 0.1}, "a DSC that its vol. error rules out"),
        ({"dsc": 0.9, "volume_error": -0.2, "abs_volume_error": 0.2}, "a DSC that its vol. error rules out"),
        ({"dsc": 0.0, "volume_error": -1.0, "abs_volume_error": 1.0}, None),
        (
            {"dsc": 0.5, "volume_error": -0.2, "abs_volume_error": 0.1},
            r"a \|vol. error\| that its vol. error rules out",
        ),
        ({"f1": 0.5, "precision": 0.5, "recall": 0.5, "panoptic_quality": 0.4, "f1_50_95": 0.3}, None),
        ({"f1": 0.0, "precision": 0.0, "recall": 0.0, "panoptic_quality": 0.0, "f1_50_95": 0.0}, None),
        ({"f1": 0.6, "precision": 0.5, "recall": 0.5}, "a F1 that its precision rules out"),
        ({"f1": 0.5, "panoptic_quality": 0.6}, "a PQ that its F1 rules out"),
        ({"f1": 0.5, "panoptic_quality": 0.2}, "a PQ that its F1 rules out"),
        ({"f1": 0.5, "f1_50_95": 0.6}, "a F1 0.5:0.95 that its F1 rules out"),
    ],
)
def test_scores_of_a_case_must_be_those_of_one_label_map(records, scores: dict[str, float], told: str | None):
    record = read_run(records / "heart_3d" / "nnunet_2.json")
    table = {"columns": ["case", "class", *scores], "rows": [["case_00", "liver", *scores.values()]]}
    record |= {"scores": table, "run": record["run"] | {"cases": {"case_00": "0"}}}
    found = fault_of(record | {OWN_HASH: hash_of(record)})
    assert found == "" if told is None else re.fullmatch(f"liver of case_00 has {told}", found), found


def test_a_record_under_another_name_is_left_out(records, tmp_path):
    target = shutil.copytree(records, tmp_path / "records")
    shutil.copy(target / "heart_3d" / "nnunet_1.json", target / "heart_3d" / "nnunet_4.json")
    with pytest.raises(
        LeftOutError, match=r"nnunet_4\.json holds the record of heart_3d/nnunet_1, which would count twice"
    ):
        make_page(target, tmp_path / "page")
    scores = pd.read_csv(tmp_path / "page" / "tables" / "scores.csv")
    assert set(scores["runs"]) == {3}


def test_interruptions_one_network_and_one_case_are_told(tmp_path):
    stopped = {**ATTEMPT, "step": 40, "exit_code": 143, "energy_wh": None, "no_energy": "there is no nvidia-smi"}
    killed, failed = {**ATTEMPT, "step": 50, "exit_code": None}, {**ATTEMPT, "step": 50, "exit_code": 1}
    make_records(tmp_path / "work", tmp_path / "records", seeds=(1,), gains={"nnunet": 0}, cases=1,
                 attempts=(stopped, killed, failed, ATTEMPT),
                 config={"data": {"dataset_dir": "/raw/D", "iterations_per_epoch": 25}})  # fmt: skip
    path = make_page(tmp_path / "records")
    page = details(path)
    assert (
        "gone on with 3 times: 1 stopped with a checkpoint, of which no step was lost; 1 killed, each of which" in page
    )
    assert "lost the steps since its last checkpoint, at most 25; 1 ended with an error and tried again." in page
    assert "Energy was not measured in some runs: there is no nvidia-smi." in page and "nan" not in page
    assert "1 training on 1 data set," in path.read_text() and "Mean ranks" not in page


def test_a_folder_without_records_and_a_broken_one_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record of a run below"):
        make_page(tmp_path)
    path = tmp_path / "heart" / "nnunet_1.json"
    write_json({"version": 1, "dataset": "heart"}, path)
    with pytest.raises(ValueError, match=r"nnunet_1\.json is a record of version 1, not 1, it lacks title"):
        make_page(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"nnunet_1\.json is not valid JSON .*Remove it, and run it again"):
        make_page(tmp_path)


def test_a_broken_record_is_left_out_and_named(tmp_path, records):
    target = shutil.copytree(records, tmp_path / "records")
    path = target / "heart_3d" / "nnunet_1.json"
    path.write_text("{")
    with pytest.raises(LeftOutError, match=r"README\.md was made without 1 run\(s\)") as caught:
        make_page(target, tmp_path / "page")
    assert list(caught.value.faults) == [str(path)]
    page = (tmp_path / "page" / "details.md").read_text()
    assert "- Not counted: heart_3d/nnunet_1.json, heart_3d/nnunet_1.json is not valid JSON" in page
    assert str(tmp_path) not in page


def test_the_claims_probability_is_that_of_the_formula_and_of_the_paired_t_test():
    rng = np.random.default_rng(3)
    a = rng.normal(0.8, 0.1, 30)
    b = a - 0.02 + rng.normal(0, 0.05, 30)
    n, r = len(a), np.corrcoef(a, b)[0, 1]
    s_a, s_b = a.std(ddof=1), b.std(ddof=1)
    t = np.sqrt(n) * (b.mean() - a.mean()) / np.sqrt(s_a**2 + s_b**2 - 2 * s_a * s_b * r)
    assert false_claim(a, b) == pytest.approx(stats.t(n - 1).cdf(t), rel=1e-9)
    assert false_claim(a, b) == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue, rel=1e-9)
    assert false_claim(a, b) + false_claim(b, a) == pytest.approx(1)


def test_the_claims_probability_where_every_case_differs_by_the_same():
    a = np.array([0.5, 0.6, 0.9])
    assert false_claim(a + 0.1, a) == 0 and false_claim(a - 0.1, a) == 1 and false_claim(a, a) == 0.5
    assert np.isnan(false_claim(a[:1], a[:1]))


def test_references_alone_are_compared_and_corrected_as_one_family():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal([0, 0.4, 0.8, 1.2], 1, (20, 4)), columns=["a", "b", "c", "d"])
    found = compare_networks(table, ["b", "a", "absent"])
    pairs = [("a", "b"), ("c", "b"), ("d", "b"), ("c", "a"), ("d", "a")]
    assert list(zip(found["network"], found["other"], strict=True)) == pairs
    assert found["p"].tolist() == pytest.approx([stats.wilcoxon(table[x], table[y]).pvalue for x, y in pairs])
    order = np.argsort(found["p"].to_numpy())
    expected = np.minimum(1, np.maximum.accumulate(found["p"].to_numpy()[order] * [5, 4, 3, 2, 1]))
    assert found["p_holm"].to_numpy()[order] == pytest.approx(expected)


def test_of_a_distance_the_claim_is_that_less_is_better():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal([1.0, 2.0], 1, (20, 2)), columns=["near", "far"])
    (higher,), (lower,) = (compare_networks(table, lower_is_better=x)["p_false"] for x in (False, True))
    assert lower < 0.1 and higher == pytest.approx(1 - lower)


def test_a_contrast_is_of_either_direction_and_the_main_metric():
    rows = [("s1", "dsc", "x", "y", 0.02, 0.01), ("s2", "dsc", "y", "x", 0.04, 0.01), ("s3", "f1", "x", "y", 0.01, 0.5),
            ("s3", "dsc", "x", "y", 9.0, 0.01)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["setting", "metric", "network", "other", "difference", "p_holm"])
    table = table.assign(cases=9, p=0.01, low=0.0, high=0.0, p_false=0.5)
    found = contrast(table, "x", "y", {"s1": "dsc", "s2": "dsc", "s3": "f1"})
    assert [(row["setting"], row["metric"], row["difference"]) for row in found] == [
        ("s1", "dsc", 0.02), ("s2", "dsc", -0.04), ("s3", "f1", 0.01)]  # fmt: skip
    assert contrast(table, "x", "z", {"s1": "dsc"}) == []


def test_the_main_table_holds_each_data_sets_own_metric(records, tmp_path):
    table = main_table(make_page(records, tmp_path).read_text())
    differences = pd.read_csv(tmp_path / "tables" / "differences.csv").set_index(
        ["setting", "metric", "network", "other"]
    )
    for setting, metric, row in (
        ("heart_3d", "dsc", "Heart, MR, 3D (DSC)"),
        ("heart_2d", "dsc", "Heart, MR, 2D (DSC)"),
        ("nuclei", "f1", "Nuclei, 2D (F1)"),
    ):
        one = differences.loc[(setting, metric, "umamba_enc", CNN)]
        cell = table[row]["Enc minus CNN"]
        assert cell.startswith(f"{100 * one['difference']:+.2f} [") and cell.endswith(" *") == (one["p_holm"] < 0.05)
    assert "ResEnc minus CNN" not in table[row]


def test_a_page_says_what_its_tests_cannot_show(records, tmp_path):
    few = tmp_path / "few"
    for path in find_runs(records):
        if path.parent.name != "heart_2d":
            shutil.copytree(path.parent, few / path.parent.name, dirs_exist_ok=True)
    told = "With 2 data sets this test can find nothing, whatever the networks do: mean ranks of 4 networks are at most"
    assert told in details(make_page(few, tmp_path / "two"))
    path = make_page(records, tmp_path / "three")
    page = path.read_text() + details(path)
    assert "this test can find nothing" not in page and "no Wilcoxon test" not in page and "too narrow" not in page
    make_records(tmp_path / "work", tmp_path / "records", seeds=(1,), cases=4)
    page = make_page(tmp_path / "records").read_text()
    assert "With 4 cases no Wilcoxon test can give less than p = 0.125" in page and "95 % contain the true mean" in page
    table = main_table(page)
    assert all(cell.endswith("(no test)") for cell in table["Heart, MR, 3D (DSC)"].values())
    assert set(table["significantly better, worse"].values()) == {"no test"}


@pytest.mark.skipif(not find_runs(ROOT / "docs" / "evidence"), reason="the project has no records yet")
@pytest.mark.parametrize("name", ["evidence", "evidence/too_short"])
def test_the_projects_own_page_is_that_of_its_records(tmp_path, name):
    folder = ROOT / "docs" / name
    make_page(folder, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), "run `make evidence`"


@pytest.mark.parametrize("places", [[10, 80], [10, 12, 13, 200], [100] * 8, [260] * 8, [0, 262, 265, 269]])
def test_marks_that_would_cover_each_other_stand_side_by_side(places: list[float]) -> None:
    moved = _apart(places)
    assert moved == sorted(moved) and all(b - a >= _MARK - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[0] >= 0 and moved[-1] + _MARK / 2 <= _WIDTH
    assert len(places) > 2 or moved == places


@pytest.mark.parametrize(("low", "high"), [(20, 240), (24, 77), (11, 18), (0.07, 0.3)])
def test_an_axis_of_costs_has_at_least_two_numbers(low: float, high: float) -> None:
    ticks = _log_ticks(math.log10(low), math.log10(high))
    assert len(ticks) >= 2
    assert all(low <= tick <= high for tick in ticks)
