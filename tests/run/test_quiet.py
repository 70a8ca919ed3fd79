"""Lines that several folds would say each are said once."""

from __future__ import annotations

import logging

import pytest

from umamba.run.quiet import said_once

log = logging.getLogger("umamba.test")


def test_lines_are_said_once_within_the_block_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log.info("The plan of %s is up to date.", "Toy")
    with said_once():
        for fold in range(3):
            log.info("The plan of %s is up to date.", "Toy")
            log.info("Fold %d goes on.", fold)
            with said_once():  # of a stage, within those of both
                log.warning("Nothing to do.")
    log.info("Fold 0 goes on.")
    assert caplog.messages == [
        "The plan of Toy is up to date.",
        "The plan of Toy is up to date.",
        "Fold 0 goes on.",
        "Nothing to do.",
        "Fold 1 goes on.",
        "Fold 2 goes on.",
        "Fold 0 goes on.",
    ]
