"""Where the log's lines go on the console."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class ConsoleHandler(logging.StreamHandler):
    """Writes to what is the standard output at that moment: while a bar is drawn there, lines go above it."""

    def __init__(self, stream: object = None) -> None:
        """Takes the key that Hydra's configuration of the log has, and has no use for it."""
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The standard output as it is now."""
        return sys.stdout
