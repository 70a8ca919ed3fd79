"""How lines are written for a person: the log's go to the console, and none is broken within a word there."""

from __future__ import annotations

import logging
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

from umamba.words import folded

if TYPE_CHECKING:
    from rich.console import Console


class ConsoleHandler(logging.StreamHandler):
    """Writes to what is the standard output at that moment: while a bar is drawn there, lines go above it."""

    def __init__(self, stream: object = None) -> None:
        """Takes the key that Hydra's configuration of the log has, and has no use for it."""
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The standard output as it is now."""
        return sys.stdout

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; on a terminal what goes on in another line stands below the message."""
        text = super().format(record)
        time_and_level = max(text.find(record.getMessage().split("\n", 1)[0]), 0)
        return for_terminal(text, self.stream, time_and_level)


def for_terminal(text: str, stream: TextIO, indent: int = 0) -> str:
    """Text folded to the width of the terminal that it is written to; elsewhere as it is, one line each, for grep."""
    if not stream.isatty():
        return text
    return folded(text, shutil.get_terminal_size().columns, indent)


def table_console(**options: Any) -> Console:
    """rich's console for tables, which shows text as it is: brackets are a user's, of names, lists and patterns."""
    from rich.console import Console  # not where lines alone are logged

    return Console(markup=False, emoji=False, **options)
