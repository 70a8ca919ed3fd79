"""Reading ahead and writing behind: in order, bounded, and what goes wrong comes out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from umamba.inference import pipeline
from umamba.inference.pipeline import WriteBehind, noted, read_ahead
from umamba.raw.dataset import RawCase


def cases_of(folder: Path, sizes: list[int]) -> list[RawCase]:
    cases = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.bin"
        path.write_bytes(bytes(size))
        cases.append(RawCase(identifier=str(number), images=(path,), label=None))
    return cases


@pytest.mark.parametrize(
    ("sizes", "ahead"),
    [
        ([1] * 6, [3, 4, 5, 5, 5, 5]),  # small: as many as may wait
        ([100] * 4, [1, 2, 3, 3]),  # large: one beside the one that is used
        ([1, 100, 1, 1], [1, 2, 3, 3]),
        ([100], [0]),
        ([], []),
    ],
)
def test_the_next_case_is_read_while_one_is_used(tmp_path: Path, monkeypatch, sizes, ahead) -> None:
    monkeypatch.setattr(pipeline, "_WAITING", 4)
    monkeypatch.setattr(pipeline, "_FILE_BYTES", 10)
    begun: list[str] = []
    seen, latest = [], []
    with ThreadPoolExecutor(1) as pool:
        for case, reading in read_ahead(cases_of(tmp_path, sizes), lambda c: begun.append(c.identifier) or c, pool):
            assert reading.result() is case
            seen.append(case.identifier)
            pool.submit(lambda: None).result()  # all that was handed in before has been read
            latest.append(len(begun) - 1)
    assert seen == [str(number) for number in range(len(sizes))]
    assert latest == ahead


def test_writing_waits_for_room_and_then_goes_on(monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "_OUTPUT_BYTES", 10)
    gate, done = threading.Event(), []
    with ThreadPoolExecutor(2) as pool:
        behind = WriteBehind(pool)
        behind.add(lambda: gate.wait(60) and done.append("large"), 100)  # larger than what may wait, but alone
        adding = threading.Thread(target=behind.add, args=(lambda: done.append("next"), 1))
        adding.start()
        adding.join(0.3)
        assert adding.is_alive() and done == []
        gate.set()
        adding.join(60)
        behind.finish()
    assert done == ["large", "next"]


def test_a_full_disk_comes_out_and_a_bad_case_is_noted() -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    failures: dict[str, str] = {}
    with ThreadPoolExecutor(1) as pool:
        behind = WriteBehind(pool)
        behind.add(full, 1)
        with pytest.raises(OSError, match="No space left"):
            behind.finish()
    with pytest.raises(OSError, match="No space left"), noted(failures, "a"):
        full()
    with noted(failures, "b"):
        raise MemoryError("too large")
    with pytest.raises(ZeroDivisionError), noted(failures, "c"):
        1 / 0  # noqa: B018
    assert failures == {"b": "too large"}
