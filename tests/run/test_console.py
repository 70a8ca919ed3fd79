"""Lines of the log go to the standard output of the moment, and no word is broken on a terminal."""

import io
import logging
import sys

import pytest

from umamba.run.console import ConsoleHandler


def test_a_stream_put_in_place_later_gets_the_lines(monkeypatch) -> None:
    handler, first, second = ConsoleHandler(stream=None), io.StringIO(), io.StringIO()
    for stream in (first, second):
        monkeypatch.setattr(sys, "stdout", stream)
        handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "epoch", (), None))
    assert first.getvalue() == second.getvalue() == "epoch\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_line_goes_on_below_its_message_on_a_terminal(monkeypatch, is_terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "40")
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("00:00:00 %(levelname)s %(message)s"))
    path = "/scratch/somebody/data/prepared/Dataset104_Mine"
    said = f"Preprocessing 12 cases into {path} once"
    handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, said, (), None))
    lines = ["00:00:00 INFO Preprocessing 12 cases", "into", path, "once"]
    assert stream.getvalue() == (f"\n{' ' * 14}" if is_terminal else " ").join(lines) + "\n"
