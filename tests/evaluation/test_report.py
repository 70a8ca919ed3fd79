"""From folders of scored runs to the report: what is gathered, averaged, marked and refused."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from tests import warm_start
from tests.evaluation import scored_runs
from umamba.evaluation.pairs import Pair
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.left_out import LeftOutError
from umamba.evaluation.report.networks import (
    PAPER_ORDER,
    all_scores,
    cost_table,
    format_costs,
    network_means,
    replicate_spread,
)
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.tables import load_published, published_score
from umamba.evaluation.run_cost import run_cost
from umamba.evaluation.tables import metrics_of

make_run = scored_runs.make_run


def test_replicates_are_averaged_by_case_and_spread_apart(tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path / f"s{seed}", seed=seed, cases=5)
    runs = gather([tmp_path])
    scores = all_scores(runs)
    means = [run.scores.groupby("case")["dsc"].mean() for run in runs]
    spread = replicate_spread(scores).loc["umamba_bot"]
    assert spread["replicates"] == 3
    assert spread["dsc_sd_replicates"] == pytest.approx(np.std([m.mean() for m in means], ddof=1))
    table = network_means(scores).loc["umamba_bot"]
    assert table["cases"] == 5
    assert table["dsc"] == pytest.approx(np.mean(means))
    assert table["dsc_sd"] == pytest.approx(np.std(np.mean(means, axis=0), ddof=1))


def test_a_run_scored_twice_counts_once_the_later_one(tmp_path):
    first = make_run(tmp_path / "run" / "tables", gain=0.0)
    again = make_run(tmp_path / "eval" / "tables", gain=0.1)
    os.utime(first / "run.json", (1, 1))
    (run,) = gather([tmp_path])
    assert run.folder == again


def test_options_are_networks_of_their_own(tmp_path):
    make_run(tmp_path / "plain")
    make_run(tmp_path / "mirrored", options={"mirror": True})
    folder = make_run(tmp_path / "post", options={"postprocessing": True}, seed=2)
    scores = pd.read_csv(folder / "scores.csv")
    both = pd.concat([scores.assign(run="plain"), scores.assign(run="post-processed", dsc=scores["dsc"] + 0.01)])
    scored_runs.replace_scores(folder, both)
    table = all_scores(gather([tmp_path]))
    assert set(table["network"]) == {"umamba_bot", "umamba_bot, mirrored", "umamba_bot, post-processed"}
    plain = table[table["network"] == "umamba_bot"]
    assert set(plain["replicate"]) == {"fold 0, seed 0", "fold 0, seed 2"}


def test_runs_that_cannot_be_gathered(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run\.json below"):
        gather([tmp_path])
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", protocol="paper/abdomen", seed=2)
    with pytest.raises(ValueError, match=r"different protocols.*paper in .*/b"):
        gather([tmp_path])
    (tmp_path / "a" / "scores.csv").unlink()
    with pytest.raises(ValueError, match=r"a/run\.json has no scores\.csv beside it"):
        gather([tmp_path / "a"])


BROKEN = {
    "torn": ("run.json", '{"version": 2, "net'),
    "a list": ("run.json", "[]"),
    "without members": ("run.json", '{"version": 2, "network": "x"}'),
    "no scores": ("scores.csv", None),
    "empty scores": ("scores.csv", ""),
    "other scores": ("scores.csv", "case,class,dsc\nx,y,1\n"),
    "binary scores": ("scores.csv", "\udcff\udcfe"),
    "of another kind": ("members", ["training"]),
    "training of another kind": ("training", []),
    "pairs of another kind": ("pairs", [1]),
}


def broken(folder: Path, what: str) -> None:
    name, content = BROKEN[what]
    path = folder / (name if "." in name else "run.json")
    if "." not in name:
        record = json.loads(path.read_text())
        (record["members"][0] if name == "training" else record)[name] = content
        path.write_text(json.dumps(record))
    elif content is None:
        path.unlink()
    else:
        path.write_text(content, errors="surrogateescape")


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_cannot_be_read_is_left_out_and_listed(tmp_path, what, caplog):
    for name in ("good", "<b>broken"):
        make_run(tmp_path / "runs" / name, seed=len(name))
    broken(tmp_path / "runs" / "<b>broken", what)
    with pytest.raises(ValueError, match=r"<b>broken.*Score the run again"):
        gather([tmp_path / "runs"])
    with pytest.raises(
        LeftOutError, match=r"(?s)report\.html was made without 1 run.*<b>broken/(run\.json|scores\.csv)"
    ):
        make_report([tmp_path / "runs"], tmp_path / "report")
    assert caplog.text.count("Left out: ") == 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert "1 scored run" in page and "1 could not be read and are left out" in page
    listed = page.partition(">Left out</h2>")[2]
    assert "&lt;b&gt;broken/run.json" in listed and "<b>broken" not in page and "runs/good" not in listed
    broken(tmp_path / "runs" / "good", what)
    with pytest.raises(ValueError, match=r"(?s)None of the 2 run\(s\) can be read:\n.*<b>broken.*\n.*good"):
        make_report([tmp_path / "runs"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_exit_code_says_that_a_run_was_left_out(tmp_path):
    for name in ("good", "bad"):
        make_run(tmp_path / name, seed=len(name))
    broken(tmp_path / "bad", "torn")
    where = [f"runs={tmp_path}", f"output={tmp_path / 'report'}"]
    done = warm_start.run("-m", "umamba.evaluation.report", *where, cwd=tmp_path)
    assert done.returncode == 1 and "bad/run.json is not valid JSON" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr and (tmp_path / "report" / "report.html").is_file()


def test_scores_of_another_run_beside_a_record_are_refused(tmp_path):
    """eval.py on stored label maps, into the folder of a scored run, left that run's record beside its own scores."""
    folder = make_run(tmp_path / "a")
    scores = pd.read_csv(folder / "scores.csv")
    scores.assign(dsc=1.0).to_csv(folder / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"a/scores\.csv holds other scores than those that run\.json"):
        gather([tmp_path])
    record = json.loads((folder / "run.json").read_text())
    del record["scores_sha256"]  # as older versions wrote it
    (folder / "run.json").write_text(json.dumps(record))
    assert len(gather([tmp_path])) == 1
    scores.assign(case="of another data set").to_csv(folder / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"a/scores\.csv holds other scores"):
        gather([tmp_path])


def test_published_numbers_are_complete_and_marked():
    published = load_published()
    settings = published["settings"]
    assert [s["table"] for s in settings.values()] == [3, 3, 4, 4, 4]
    for setting in settings.values():
        assert list(setting["scores"]) == list(PAPER_ORDER)
        for metric, networks in setting["confirmed"].items():
            assert set(networks) <= set(setting["scores"]) and metric in setting["scores"]["nnunet"]
    assert sum(len(networks) for s in settings.values() for networks in s["confirmed"].values()) == 10
    assert published_score(published, "flare", "umamba_bot", "dsc") == "0.8683 ± 0.0808"
    assert published_score(published, "flare", "umamba_bot", "nsd") == "0.9049 ± 0.0821°"
    assert published_score(published, "flare", "umamba_none", "dsc") == "–"
    assert published_score(published, "hippocampus", "nnunet", "dsc") == "–"


@pytest.mark.usefixtures("undrawn")
def test_the_paper_stands_beside_scores_of_its_own_protocol_only(tmp_path):
    for protocol in ("standard", "paper/abdomen"):
        folder = tmp_path / protocol.split("/")[0]
        make_run(folder / "run", protocol=protocol)
        make_report([folder], folder / "report")
    beside = pd.read_csv(tmp_path / "paper" / "report" / "tables" / "table_3.csv").set_index("network")
    bot = beside.loc["U-Mamba_Bot"]
    assert (bot["flare_dsc_paper_mean"], bot["flare_dsc_paper_sd"]) == (0.8683, 0.0808)
    assert (bot["flare_dsc_paper_provisional"], bot["flare_nsd_paper_provisional"]) == (False, True)
    assert 0 < bot["flare_dsc_mean"] < 1 and math.isnan(beside.loc["UNETR", "flare_dsc_mean"])
    text = (tmp_path / "paper" / "report" / "tables" / "table_3.md").read_text()
    assert "Abdomen CT (3D) DSC, paper" in text and "| 0.8683 ± 0.0808 |" in text and "| 0.9049 ± 0.0821° |" in text
    folder = tmp_path / "standard" / "report" / "tables"
    apart, theirs = pd.read_csv(folder / "table_3.csv"), pd.read_csv(folder / "table_3_paper.csv")
    assert not [column for column in apart if "paper" in column] and apart["network"].tolist() == ["U-Mamba_Bot"]
    assert all(column == "network" or "_paper_" in column for column in theirs) and len(theirs) == 6
    text = (folder / "flare_results.md").read_text()
    assert "DSC paper" not in text and "DSC SD of runs" in text


def test_a_report_of_several_networks_is_one_file(tmp_path):
    label = np.zeros((4, 20, 20), np.uint8)
    label[1:3, 4:12, 4:12], label[1:3, 13:18, 13:18], label[1, 13:18, 2:4] = 1, 2, 3
    for name, array in (("image", label * 50.0), ("reference", label), ("prediction", np.roll(label, 1, axis=1))):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("prediction", "reference")}
    pairs = [Pair(case=f"c{i}", images=(tmp_path / "image.nii.gz",), **paths) for i in range(6)]
    for network, gain in (("nnunet", 0.0), ("umamba_bot", 0.02), ("umamba_enc", 0.03)):
        for seed in (1, 2):
            make_run(tmp_path / "runs" / f"{network}_{seed}", dataset="phantom", network=network, seed=seed, gain=gain,
                     cases=pairs)  # fmt: skip
    earlier = tmp_path / "report" / "figures"
    earlier.mkdir(parents=True)
    for name in ("phantom_overlays.png", "phantom_overlays_3.png"):  # of a report that showed other cases
        (earlier / name).touch()
    page = make_report([tmp_path / "runs"], tmp_path / "report", title="Phantom <test>", cases=2).read_text()
    figures = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    drawn = {f"phantom_{m}_{kind}.png" for m in ("dsc", "nsd", "hd95") for kind in ("boxes", "effects", "ranks")}
    assert figures == drawn | {"phantom_cost.png", "phantom_overlays_1.png", "phantom_overlays_2.png"}
    assert page.count("data:image/png;base64,") == 2 and page.count("<svg ") == len(figures) - 2
    assert page.count("<h3>Overlays</h3>") == 1 and len(re.findall('alt="Overlays of c[0-5]"', page)) == 2
    assert "img { width: auto; }" in page  # on paper its height is limited, which would press it together
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page must need no other file"
    assert "U-Mamba_Enc has the best DSC on 6 cases" in page and "<td><b>0." in page and "#010203" not in page
    assert "no Wilcoxon test can give less than p = 0.0312, and 0.094 after correction for 3 comparisons" in page
    assert "Phantom &lt;test&gt;" in page and "Protocol standard" in page and ">nan" not in page
    tests = pd.read_csv(tmp_path / "report" / "tables" / "phantom_dsc_tests.csv")
    assert len(tests) == 3 and tests["cases"].tolist() == [6, 6, 6]
    ranks = pd.read_csv(tmp_path / "report" / "tables" / "phantom_dsc_ranks.csv")
    assert ranks["network"].tolist() == ["U-Mamba_Enc", "U-Mamba_Bot", "nnU-Net"]
    for path in (tmp_path / "report" / "tables").glob("*results.tex"):
        assert r"\toprule" in path.read_text() and r"U-Mamba\_Enc" in path.read_text()


def test_a_single_case_and_network_make_a_report(tmp_path):
    make_run(tmp_path / "run", dataset="mine", cases=1)
    page = make_report([tmp_path / "run"], tmp_path / "report").read_text()
    assert "One case only: no SD." in page and ">nan" not in page


def test_costs_come_from_the_run_and_its_prediction(tmp_path):
    (tmp_path / "cost.json").write_text(
        json.dumps({"device": "a GPU", "epoch_seconds": [9.0, 2.0, 4.0], "peak_vram_gib": 7.5})
    )
    (tmp_path / "inference.json").write_text(
        json.dumps({"device": "cpu", "peak_vram_gib": None, "seconds": {"a": 1.0, "b": 2.0}})
    )
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    cost = run_cost([network, network], (1, 3, 8, 8), tmp_path, tmp_path / "inference.json")
    assert cost["parameters"] == 2 * (3 * 4 * 9 + 4)
    assert cost["gflops"] == pytest.approx(2 * 2 * 8 * 8 * 3 * 4 * 9 / 1e9)
    assert (cost["seconds_per_epoch"], cost["train_peak_vram_gib"], cost["train_device"]) == (4.0, 7.5, "a GPU")
    assert (cost["seconds_per_case"], cost["inference_device"]) == (1.5, "cpu")
    unknown = run_cost([network], (1, 3, 8, 8), tmp_path / "absent", tmp_path / "absent.json")
    assert unknown["seconds_per_epoch"] is None and unknown["seconds_per_case"] is None


def test_costs_that_nobody_measured_are_dashes(tmp_path):
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["cost"] = dict.fromkeys(record["cost"])
    (folder / "run.json").write_text(json.dumps(record))
    costs = cost_table(gather([folder]))
    assert all(math.isnan(value) for value in costs.loc["umamba_bot"])
    assert set(format_costs(costs).iloc[0, 1:]) == {"–"}


def without_score(folder: Path) -> Path:
    """A run in which neither references nor predictions hold anything."""
    scores = pd.read_csv(folder / "scores.csv")
    scored_runs.replace_scores(folder, scores.assign(**dict.fromkeys(metrics_of(scores), np.nan)))
    return folder


@pytest.mark.usefixtures("undrawn")
def test_a_data_set_without_any_score_is_said_to_be_one(tmp_path):
    cells = {"dataset": "cell", "classes": ("instances",)}
    for network in ("umamba_bot", "nnunet"):
        without_score(make_run(tmp_path / "runs" / network, network=network, **cells))
    page = make_report([tmp_path / "runs"], tmp_path / "report").read_text()
    assert "No case has a score" in page and "2 scored runs" in page
    make_run(tmp_path / "runs" / "liver")
    page = make_report([tmp_path / "runs"], tmp_path / "report").read_text()
    assert "No case has a score" in page and (tmp_path / "report" / "tables" / "flare_results.md").is_file()
    assert not list((tmp_path / "report" / "tables").glob("cell*"))


def test_a_network_without_any_score_stands_beside_one_with_false_alarms(tmp_path):
    cells = {"dataset": "cells", "classes": ("instances",)}
    without_score(make_run(tmp_path / "runs" / "nnunet", network="nnunet", **cells))
    for network in ("umamba_bot", "umamba_enc"):
        make_run(tmp_path / "runs" / network, network=network, **cells)
    make_report([tmp_path / "runs"], tmp_path / "report")
    table = (tmp_path / "report" / "tables" / "cells_results.md").read_text()
    assert "| nnU-Net | 0 | 1 | – |" in table and "The means are over different cases" in table
