"""Lines of the log go to the standard output of the moment."""

import io
import logging
import sys

from umamba.run.console import ConsoleHandler


def test_a_stream_put_in_place_later_gets_the_lines(monkeypatch) -> None:
    handler, first, second = ConsoleHandler(stream=None), io.StringIO(), io.StringIO()
    for stream in (first, second):
        monkeypatch.setattr(sys, "stdout", stream)
        handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "epoch", (), None))
    assert first.getvalue() == second.getvalue() == "epoch\n"
