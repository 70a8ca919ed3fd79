"""Which classes a fold cannot learn, or cannot validate, because no case of it has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from umamba.planning.plan import Plan
from umamba.planning.store import Store, read_meta
from umamba.words import listed

log = logging.getLogger(__name__)


def say_absent_classes(store: Store, plan: Plan, train: Sequence[str], val: Sequence[str]) -> None:
    """Warn of each class, or region, that no training case has, and say which ones no validation case has."""
    counts = {case: read_meta(store.folder / case)["locations"] for case in {*train, *val}}
    unseen = []
    for number, (name, values) in enumerate(plan.foreground.items(), start=1):
        key = str(number if plan.regions else values[0])
        if any(counts[case].get(key) for case in train):
            if not any(counts[case].get(key) for case in val):
                unseen.append(name)
            continue
        held_out = [case for case in val if counts[case].get(key)]
        where = f"; of those that are held out {listed(held_out, 5)} has it, and will be scored 0" if held_out else ""
        log.warning("No case that is trained on has %s: the network cannot learn it%s.", name, where)
    if unseen:
        log.info(
            "No validation case has %s: pseudo Dice and scores of this fold say nothing about it.", ", ".join(unseen)
        )
