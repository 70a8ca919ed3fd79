"""No process outlives the one that it works for, and a program told to stop does not wait for its workers' work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from umamba.processes import took

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not yet collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until_gone(*pids: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"still there: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.05)


POOL = """
import os, time
from umamba.processes import worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        pids = set()
        while len(pids) < 2:  # both have started
            pids |= {future.result() for future in [pool.submit(os.getpid) for _ in range(100)]}
        print(*pids, flush=True)
        list(pool.map(time.sleep, [600, 600]))
"""

LOADER = """
import torch, time, os
from torch.utils.data import DataLoader
from umamba.datamodules.loaders import start_worker
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i):
        if i > 1: time.sleep(600)
        return os.getpid()
loader = iter(DataLoader(Slow(), batch_size=None, num_workers=2, worker_init_fn=start_worker))
print(next(loader), next(loader), flush=True)
next(loader)
"""


@pytest.mark.parametrize("code", [POOL, LOADER], ids=["pool", "loader"])
def test_workers_end_when_their_main_process_is_killed(code: str) -> None:
    process = start(code)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_alive, workers))
    time.sleep(0.3)  # into the long work
    process.kill()
    process.wait()
    wait_until_gone(*workers)


def test_a_pool_ends_at_once_when_the_program_is_told_to_stop() -> None:
    process = start(POOL)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    time.sleep(0.3)
    for pid in (*workers, process.pid):  # as a terminal does, to all
        os.kill(pid, signal.SIGINT)
    process.wait(timeout=300)
    wait_until_gone(*workers)


def test_a_worker_leaves_signals_to_the_main_process() -> None:
    process = start(POOL)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    for pid in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    time.sleep(0.3)
    assert all(map(is_alive, workers))
    process.kill()
    process.wait()
    wait_until_gone(*workers)


STARTING = """
import os, signal, sys, time
from multiprocessing import util
from umamba.processes import light_start, worker_pool
launch = util.spawnv_passfds
def launch_and_stop(*args):
    pid = launch(*args)
    if "spawn_main" in str(args):
        os.kill({to}, signal.SIGINT)
        time.sleep(0.5)  # the new process has begun, and waits for what it is to do
    return pid
util.spawnv_passfds = launch_and_stop
if __name__ == "__main__":
    try:
        with worker_pool(2) as pool:
            with light_start():
                future = pool.submit(time.sleep, 600)
            future.result()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("to", ["os.getpid()", "pid", "0"], ids=["main", "worker", "all"])
def test_a_stop_while_workers_start_leaves_no_traceback(to: str) -> None:
    code = STARTING.format(to=to).replace("600", "600" if to != "pid" else "0.1")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300,
                           start_new_session=True)  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0 if to == "pid" else 130, "")


FOLLOWER = '''
import subprocess, sys
code = """
import os, time
from umamba.processes import follow
follow(os.getppid(), lambda: os._exit(1))
print(os.getpid(), flush=True)
time.sleep(600)
"""
subprocess.Popen([sys.executable, "-c", code]).wait()
'''


def test_a_program_can_follow_the_one_that_started_it() -> None:
    process = start(FOLLOWER)
    child = int(process.stdout.readline())  # said when it follows
    time.sleep(0.5)
    assert is_alive(child)
    process.kill()
    process.wait()
    wait_until_gone(child)


LEFT_OPEN = LOADER.replace("time.sleep(600)", "pass").replace("num_workers=2", "num_workers=2, persistent_workers=True")


def test_a_program_that_ends_with_a_loader_open_ends_its_workers() -> None:
    process = start(LEFT_OPEN + "sys = __import__('sys'); sys.modules['kept'] = loader")  # not collected before the end
    assert process.wait(timeout=300) == 0


def test_a_lock_is_held_by_one_and_where_there_are_none_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert took(first, 0) and not took(second, 0)
    first.release()
    assert took(second, 0)
    second.release()

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert took(first, 0) and not caplog.text
    assert (
        took(first, 0, "start it once") and f"The file system of {tmp_path} has no locks: start it once." in caplog.text
    )
