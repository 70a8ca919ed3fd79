"""Jobs as processes: at the same time, one failing alone, stopped together, and on the devices that are theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from umamba.run.devices import CPU, Device, Slot, slots_of
from umamba.run.job_state import steps_of
from umamba.run.jobs import Job, run_jobs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
TWO = [Slot(name="a"), Slot(name="b")]


def job(name: str, text: str, log: Path | None = None) -> Job:
    return Job(name=name, command=[sys.executable, "-c", text], log=log)


def test_a_job_that_fails_stops_no_other_and_is_named_with_its_last_words(tmp_path: Path) -> None:
    failed = run_jobs(
        [
            job("zero", f"open({str(tmp_path / 'zero')!r}, 'w')", tmp_path / "0.log"),
            job("one", "import sys; print('it began'); sys.exit('data.batch_size is 0')", tmp_path / "1.log"),
            job("two", f"open({str(tmp_path / 'two')!r}, 'w')", tmp_path / "2.log"),
        ],
        TWO,
    )
    assert failed == {"one": "it began / data.batch_size is 0"}
    assert (tmp_path / "zero").exists() and (tmp_path / "two").exists()
    assert run_jobs([job("x", "raise SystemExit(7)")], TWO) == {"x": "ended with code 7 and said nothing"}


def test_the_message_of_an_error_is_the_reason_also_where_the_output_goes_to_the_console() -> None:
    text = "from umamba.run.errors import explained\nwith explained():\n    {}"
    found = run_jobs([job("ours", text.format("from umamba.typed import check_types as c; c({'a': 3}, {'a': bool})")),
                      job("fault", text.format("1 / 0"))], TWO)  # fmt: skip
    assert found["ours"].startswith("a=3: expected true or false")
    assert found["fault"] == "ZeroDivisionError: division by zero"


def test_a_killed_job_is_said_to_be(tmp_path: Path) -> None:
    assert run_jobs([job("x", "import os; os.kill(os.getpid(), 9)")], TWO) == {"x": "ended by SIGKILL"}


def test_as_many_run_at_a_time_as_there_are_places_each_with_its_own_device(tmp_path: Path) -> None:
    text = (  # mkdir fails if two are on a device
        "import os, time, pathlib; f = pathlib.Path({folder!r}); d = os.environ['DEVICE']; own = f / ('on_' + d)\n"
        "own.mkdir(); time.sleep(0.5); own.rmdir(); (f / 'done').open('a').write(d + '\\n')"
    )
    jobs = [job(str(number), text.format(folder=str(tmp_path))) for number in range(4)]
    assert run_jobs(jobs, [Slot(name=name, environment={"DEVICE": name}) for name in ("a", "b")]) == {}
    done = (tmp_path / "done").read_text().split()
    assert len(done) == 4 and set(done) == {"a", "b"}  # two each, unless one of them starts slowly


def test_two_jobs_on_two_gpus_of_two_places_have_one_each(tmp_path: Path) -> None:
    slots = slots_of([Device("3"), Device("5")], 2)
    assert [slot.name for slot in slots] == ["GPU 3", "GPU 5", "GPU 3", "GPU 5"]
    assert slots_of([Device(CPU)], 2)[1].environment["CUDA_VISIBLE_DEVICES"] == ""
    seen: list[str] = []

    class Noted(Job):
        def begin(self, slot: Slot) -> bool:
            seen.append(slot.environment["CUDA_VISIBLE_DEVICES"])
            if len(seen) == 4:
                (tmp_path / "all").touch()
            return True

    text = f"import time, pathlib\nwhile not pathlib.Path({str(tmp_path / 'all')!r}).exists(): time.sleep(0.01)"
    assert run_jobs([Noted(name=str(n), command=[sys.executable, "-c", text]) for n in range(4)], slots) == {}
    assert seen == ["3", "5", "3", "5"]


def test_a_job_that_does_not_begin_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    class Taken(Job):
        def begin(self, slot: Slot) -> bool:
            return False

    taken = Taken(name="taken", command=[sys.executable, "-c", "1 / 0"])
    assert run_jobs([taken, job("next", f"open({str(tmp_path / 'next')!r}, 'w')")], TWO[:1]) == {}
    assert (tmp_path / "next").exists()


DRIVER = """
import sys
from pathlib import Path
from umamba.run.devices import Slot
from umamba.run.job_state import steps_of
from umamba.run.jobs import Job, run_jobs
from umamba.run.stop import ends_on_signals
text = '''
import signal, sys, time, pathlib
path = pathlib.Path(sys.argv[1])
def stop(number, frame):
    path.with_suffix(".stopped").touch(); sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
path.touch()
time.sleep(600)
'''
folder = Path(sys.argv[1])
jobs = [Job(name=str(n), command=[sys.executable, "-c", text, str(folder / f"job{n}")]) for n in range(3)]
with ends_on_signals():
    run_jobs(jobs, [Slot(name="a"), Slot(name="b")])
"""


def test_a_signal_ends_those_that_run_and_starts_no_other(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    end = time.monotonic() + 300
    while not ((tmp_path / "job0").exists() and (tmp_path / "job1").exists()):
        assert time.monotonic() < end and driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=300) == 128 + signal.SIGTERM
    assert (tmp_path / "job0.stopped").exists() and (tmp_path / "job1.stopped").exists()
    assert not (tmp_path / "job2").exists()


def test_what_a_scheduler_says_and_our_own_switches_are_not_passed_on(tmp_path: Path, monkeypatch) -> None:
    from umamba.run.errors import explained

    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    names = "import os; print([n for n in os.environ if n.startswith('SLURM') or 'FULL_ERROR' in n]); 1 / 0"
    with explained():
        failed = run_jobs([job("x", names, tmp_path / "x.log")], TWO)
    assert "[]" in (tmp_path / "x.log").read_text() and "x" in failed


def test_a_run_that_goes_on_has_taken_the_steps_of_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"global_step": 8}, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,0\n")  # a row of the epoch that was interrupted
    assert steps_of(tmp_path) == (8, 8)
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,0\n0,19\n")
    assert steps_of(tmp_path) == (8, 20)
