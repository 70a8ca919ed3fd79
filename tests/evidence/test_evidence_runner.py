"""The runner with a stand-in for train.py: what is started, packed, stopped, gone on with, refused and recorded."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import threading
from collections import Counter

import pytest
from filelock import FileLock

from umamba.evaluation.report.record_faults import OWN_HASH, hash_of
from umamba.evidence.__main__ import command_line
from umamba.evidence.job import Place, command
from umamba.evidence.limits import estimates, seconds_of
from umamba.run.devices import find_devices
from umamba.run.job_state import Condition

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
KEYS = ["phantom/nnunet_1", "phantom/nnunet_2", "phantom/umamba_enc_1", "phantom/umamba_enc_2"]
DONE, STOPPED, REFUSED = Condition.FINISHED, Condition.STOPPED, Condition.REFUSED


def count(findings) -> dict[Condition, int]:
    return dict(Counter(finding.condition for finding in findings.values()))


def rewrite(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_all_wanted_runs_are_trained_packed_longest_first_and_recorded(stub):
    assert count(stub.sit(per_device=2, workers=3)) == {DONE: 4}
    assert [line.split()[0] for line in stub.log] == ["umamba_enc"] * 2 + ["nnunet"] * 2
    for key in KEYS:
        record = stub.record(key)
        assert record["seed"] == int(key[-1]) and record["overrides"][:2] == ["logger=csv", "data=phantom"]
        (attempt,) = record["attempts"]
        assert attempt["step"] == 20 and attempt["exit_code"] == 0
        cost = record["cost"]
        assert cost["steps"] == 20 and cost["seconds"] >= 2 and cost["seconds_per_step"] == 0.1
        assert cost["gpu_hours"] is None and cost["energy_wh"] is None and "no GPU" in cost["energy_reason"]
        assert not list((stub.state / key / "run").glob("checkpoints/*.ckpt")), "records are all that is kept"
        assert str(stub.folder) not in json.dumps(record), "no path of the machine"
    assert any(stub.record(key)["cost"]["runs_per_gpu"] > 1.5 for key in KEYS)
    assert "3 workers" in (stub.state / KEYS[0] / "output.log").read_text()
    before = {key: (stub.records / f"{key}.json").read_bytes() for key in KEYS}
    stub.sit()
    assert {key: (stub.records / f"{key}.json").read_bytes() for key in KEYS} == before
    assert len(stub.log) == 4


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_runner_goes_on_from_the_checkpoints(stub, wait_for, how):
    process = stub.start("only=*_1", "per_gpu=2")
    steps = [stub.state / key / "run" / "step" for key in (KEYS[0], KEYS[2])]
    wait_for(lambda: process.poll() is not None or all(path.is_file() for path in steps))
    process.send_signal(how)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == (143 if how == signal.SIGTERM else -9), output
    if how == signal.SIGTERM:
        assert "2 were stopped" in output or output.count("was stopped at step") == 2
    code = json.loads((stub.state / KEYS[0] / "state.json").read_text())["code"]
    wait_for(lambda: count(stub.look(code)) == {STOPPED: 2, Condition.WANTED: 2})
    begun = len(stub.log)
    assert count(stub.sit("*_1", code, per_device=2)) == {DONE: 2, Condition.WANTED: 2}
    assert all(int(line.split()[-1]) >= 5 for line in stub.log[begun:]), stub.log
    for key in (KEYS[0], KEYS[2]):
        first, second = stub.record(key)["attempts"]
        assert second["from_step"] == first["step"] >= 5 and second["step"] == 20
        assert first.get("exit_code") == (143 if how == signal.SIGTERM else None)


def test_the_limit_is_kept_and_what_cannot_end_before_it_is_not_begun(stub, caplog):
    caplog.set_level(logging.INFO)
    stub.manifest.write_text(
        stub.manifest.read_text().replace("seconds: 3", "seconds: 20").replace("cost: 2", "cost: 60")
    )
    assert count(stub.sit(limit=33, stop_seconds=3)) == {DONE: 2, Condition.WANTED: 2}
    assert "not started: phantom/umamba_enc_1, phantom/umamba_enc_2" in caplog.text
    assert all(line.startswith("nnunet") for line in stub.log)
    assert count(stub.sit("*enc_1", limit=4, stop_seconds=3, start_unfinishable=True))[STOPPED] == 1
    state = json.loads((stub.state / KEYS[2] / "state.json").read_text())
    assert 0 < state["attempts"][0]["step"] < 20 and state["attempts"][0]["exit_code"] == 143
    assert state["attempts"][0]["seconds"] < 4


def test_what_runs_took_says_how_long_the_others_take(stub):
    stub.sit("*nnunet_1")
    took = stub.record(KEYS[0])["cost"]["seconds"]
    takes = estimates(stub.entries)
    assert takes[KEYS[0]] == takes[KEYS[1]] == took
    assert takes[KEYS[2]] == pytest.approx(6 * took / 3)  # as the list says in proportion


def test_what_is_left_of_a_stopped_run_is_what_must_fit_and_it_goes_first(stub):
    stub.manifest.write_text(stub.manifest.read_text().replace("seconds: 3", "seconds: 6"))
    stub.sit("*nnunet_2", limit=4, stop_seconds=2.5, start_unfinishable=True)
    left = stub.entries[1].share_left()
    assert 0.1 < left < 0.8
    stub.sit("*nnunet_*", limit=6 * left + 3.5, stop_seconds=3)
    assert stub.log[1].startswith("nnunet 2")
    assert stub.look()[KEYS[1]].condition is DONE and stub.look()[KEYS[0]].condition is Condition.WANTED


def test_a_training_that_does_not_stop_is_killed_and_goes_on_later(stub, caplog):
    stub.manifest.write_text(stub.manifest.read_text().replace("model=umamba_enc", "model=stubborn"))
    found = stub.sit("*enc_1", limit=1.5, stop_seconds=0.5, start_unfinishable=True)
    assert "has not ended within 0 s" in caplog.text
    assert found[KEYS[2]].condition is STOPPED


def test_a_failing_run_stops_no_other_and_says_why(stub, caplog):
    caplog.set_level(logging.INFO)
    stub.manifest.write_text(stub.manifest.read_text().replace("model=umamba_enc", "model=broken"))
    found = stub.sit(per_device=4)
    assert count(found) == {DONE: 2, Condition.FAILED: 2}
    assert found[KEYS[2]].detail == "data.batch_size is 0; expected at least 1."
    assert "umamba_enc_1 failed: data.batch_size is 0" in caplog.text
    stub.sit()
    assert "0 of 4 run(s) to do" in caplog.text
    stub.sit(retry_failed=True)
    assert "2 of 4 run(s) to do" in caplog.text


def test_scores_of_another_checkpoint_are_no_record(stub):
    rewrite(stub.templates / "tables" / "run.json", checkpoints_sha256=["0"])
    found = stub.sit("*nnunet_1")[KEYS[0]]
    assert found.condition is Condition.FAILED and "cannot be recorded" in found.detail
    assert "tables has no scores of" in found.detail and list(stub.state.glob("*/*/run/checkpoints/last.ckpt"))


@pytest.mark.parametrize("damaged", [{"images": []}, {"images": {"a": 1}}, {"cost": 3}], ids=str)
def test_a_damaged_run_json_is_no_record_and_stops_no_other_run(stub, damaged):
    rewrite(stub.templates / "tables" / "run.json", **damaged)
    found = stub.sit("*nnunet_1")[KEYS[0]]
    assert found.condition is Condition.FAILED and "cannot be recorded: a value is of another type" in found.detail


def test_runs_of_other_settings_are_named_and_not_counted(stub, caplog):
    stub.sit("*nnunet_1")
    stub.sit("*nnunet_2", limit=2, stop_seconds=1.5, start_unfinishable=True)
    text = stub.manifest.read_text()
    stub.manifest.write_text(text.replace("logger=csv", "logger=csv, trainer.max_epochs=9"))
    found = stub.sit("*nnunet_*")
    assert count(found) == {Condition.WANTED: 2, REFUSED: 2} and len(stub.log) == 2
    assert "now trainer.max_epochs=9" in found[KEYS[0]].detail and "was made" in found[KEYS[0]].detail
    assert "now trainer.max_epochs=9" in found[KEYS[1]].detail and "was begun" in found[KEYS[1]].detail
    assert "phantom/nnunet_1 does not count" in caplog.text
    stub.manifest.write_text(text)
    assert count(stub.look()) == {Condition.WANTED: 2, DONE: 1, STOPPED: 1}


def test_a_run_of_which_nothing_is_kept_begins_anew_with_other_settings(stub):
    text = stub.manifest.read_text()
    stub.manifest.write_text(text.replace("[logger=csv]", "[logger=csv, plan=left_over]").replace("=nnunet", "=broken"))
    found = stub.sit("*nnunet_*")
    assert count(found) == {Condition.WANTED: 2, Condition.FAILED: 2} and not stub.log
    stub.manifest.write_text(text)
    found = stub.look()
    assert count(found) == {Condition.WANTED: 4} and "nothing was trained" in found[KEYS[0]].detail
    found = stub.sit("*nnunet_*", code="2222", per_device=2)
    assert count(found) == {Condition.WANTED: 2, DONE: 2} and len(stub.record(KEYS[0])["attempts"]) == 1
    assert "plan" not in json.loads((stub.state / KEYS[0] / "run" / "config.yaml").read_text())


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_another_version(stub):
    stub.sit("*nnunet_1", limit=0.6, stop_seconds=0.4, start_unfinishable=True)
    shutil.rmtree(stub.state / KEYS[0] / "run" / "checkpoints", ignore_errors=True)
    rewrite(stub.state / KEYS[0] / "state.json", attempts=[{"started": "2026-01-01T00:00:00+00:00", "seconds": 0.0}])
    found = stub.sit("*nnunet_*", code="2222", per_device=2)
    assert count(found) == {Condition.WANTED: 2, DONE: 2}
    assert {stub.record(key)["code"] for key in KEYS[:2]} == {"2222"}


def test_a_cell_takes_no_run_of_another_version_of_the_code(stub, caplog):
    stub.sit("*nnunet_1")
    found = stub.sit(code="2222", per_device=4)
    assert count(found) == {DONE: 3, REFUSED: 1}
    assert "Runs of phantom/nnunet were trained with the code c0de, this is 2222" in found[KEYS[1]].detail
    record = stub.record(KEYS[3]) | {"code": "3333"}
    rewrite(stub.records / f"{KEYS[3]}.json", **record | {OWN_HASH: hash_of(record)})
    assert "another version of the code than seed 1" in stub.look("2222")[KEYS[3]].detail


def test_a_run_that_was_stopped_does_not_go_on_with_another_version(stub):
    stub.sit("*nnunet_1", limit=2, stop_seconds=1.5, start_unfinishable=True)
    found = stub.sit("*nnunet_*", code="2222")
    assert count(found) == {REFUSED: 2, Condition.WANTED: 2} and len(stub.log) == 1


def test_a_cell_takes_no_run_of_another_plan(stub):
    stub.sit("*nnunet_1")
    run = stub.templates / "tables" / "run.json"
    rewrite(run, plan={"patch_size": [9, 9, 9]})
    found = stub.sit("*nnunet_2")
    assert found[KEYS[0]].condition is DONE and found[KEYS[1]].condition is REFUSED
    assert "another plan than seed 1 of its cell" in found[KEYS[1]].detail


def test_code_that_changes_under_the_runner_starts_no_other_run(stub, caplog):
    answers = iter([True, True, False])
    assert count(stub.sit(unchanged=lambda: next(answers))) == {DONE: 2, Condition.WANTED: 2}
    assert "The code was changed while runs were under way" in caplog.text


def test_two_runners_share_one_state(stub):
    runners = [threading.Thread(target=stub.sit) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert count(stub.look()) == {DONE: 4} and len(stub.log) == 4


def test_a_run_that_another_runner_has_is_running_and_left_alone(stub):
    entry = stub.entries[0]
    with FileLock(entry.file(".lock")):
        assert stub.sit("*nnunet_1")[KEYS[0]].condition is Condition.RUNNING
    assert stub.log == []


def test_a_torn_state_or_record_stops_no_other_run(stub, caplog):
    (stub.state / KEYS[0]).mkdir(parents=True)
    (stub.state / KEYS[0] / "state.json").write_text("{")
    (stub.records / KEYS[1]).parent.mkdir(parents=True)
    (stub.records / f"{KEYS[1]}.json").write_text('{"version": 1, ')
    found = stub.sit(per_device=2)
    assert [found[key].condition for key in KEYS] == [REFUSED, REFUSED, DONE, DONE]
    assert re.search(r"state\.json is not valid JSON.*Remove", found[KEYS[0]].detail)
    assert re.search(r"nnunet_2\.json is not valid JSON.*Remove it", found[KEYS[1]].detail)
    assert f"{KEYS[0]} does not count" in caplog.text and f"{KEYS[1]} does not count" in caplog.text


def fake_smi(folder, line: str, monkeypatch) -> None:
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\nwhile echo "{line}"; do sleep 0.1; done\n')
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpu_hours_and_energy_are_shares_of_what_a_gpu_took(stub, monkeypatch, tmp_path):
    fake_smi(tmp_path / "bin", "3, GPU-ab, 360.0", monkeypatch)
    stub.sit("*nnunet_*", device="3", per_device=2)
    for key in KEYS[:2]:
        cost, (attempt,) = stub.record(key)["cost"], stub.record(key)["attempts"]
        assert 0.4 * attempt["seconds"] < attempt["gpu_seconds"] < 0.9 * attempt["seconds"]
        assert cost["gpu_hours"] == pytest.approx(attempt["gpu_seconds"] / 3600, abs=1e-5)
        assert cost["energy_wh"] == pytest.approx(360 * attempt["gpu_seconds"] / 3600, rel=0.15)
        assert cost["energy_reason"] is None
    assert "on '3'" in (stub.state / KEYS[0] / "output.log").read_text()


def test_a_gpu_without_a_power_reading_has_no_energy_and_the_reason(stub, monkeypatch, tmp_path):
    fake_smi(tmp_path / "bin", "0, GPU-ab, [N/A]", monkeypatch)
    stub.sit("*nnunet_1", device="0")
    cost = stub.record(KEYS[0])["cost"]
    assert cost["energy_wh"] is None and cost["energy_reason"] == "nvidia-smi reports no power of it"
    assert cost["gpu_hours"] > 0


def test_a_run_that_goes_on_elsewhere_finds_its_data(stub, tmp_path):
    entry = stub.entries[0]
    (entry.run_dir / "checkpoints").mkdir(parents=True)
    place = Place(script=tmp_path, raw=tmp_path / "new", prepared=None, workers=2, threads=1, code="", revision=None)
    assert f"paths.raw='{tmp_path}/new'" in command(entry, place) and "logger=csv" in command(entry, place)
    (entry.run_dir / "checkpoints" / "last.ckpt").touch()
    stored = {"paths": {"raw": "/old/raw", "prepared": "/old/prepared"},
              "data": {"dataset_dir": "/old/raw/Dataset1_A", "prepared_dir": "/old/prepared/Dataset1_A"}}  # fmt: skip
    (entry.run_dir / "config.yaml").write_text(json.dumps(stored))
    given = command(entry, place)
    assert f"data.dataset_dir='{tmp_path}/new/Dataset1_A'" in given and "data.num_workers=2" in given
    assert not any(one.startswith(("paths.", "logger", "data.prepared_dir", "seed")) for one in given)


def test_status_is_a_word_in_front():
    assert command_line(["status", "manifest=a"]) == ["action=status", "manifest=a"]
    assert command_line(["manifest=a"]) == ["manifest=a"]
    assert command_line([]) == [] and command_line(["--cfg", "job"]) == ["--cfg", "job"]


def test_durations():
    assert [seconds_of(text) for text in ("540s", "9m", 540, "2.5h", "1d")] == [540, 540, 540, 9000, 86400]
    assert seconds_of(None) == float("inf")
    for wrong in ("soon", "0", "-1s", "5w"):
        with pytest.raises(ValueError, match="expected a duration"):
            seconds_of(wrong)


def test_devices_are_those_that_this_process_may_see(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [device.name for device in find_devices("auto")] == ["0", "1"]
    assert [device.name for device in find_devices([1])] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in find_devices()] == ["3", "GPU-ab"]
    for wrong in ([0], [3, 3], "gpu", []):
        with pytest.raises(ValueError, match="expected auto, cpu, or different ones of 3, GPU-ab"):
            find_devices(wrong)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [device.name for device in find_devices()] == ["cpu"]
