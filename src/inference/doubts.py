"""What is odd about an image to be predicted and no reason to refuse it: how it is turned, and what its values are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from umamba.planning.configuration import Configuration
from umamba.planning.plan import Plan

_LITTLE = 0.1  # of the training's range that is left of CT: fat to muscle alone is more


def turned(found: str | None, known: Collection[str], what: Path | str) -> str:
    """What is to be said of an image whose axes point elsewhere than in the training; "" for nothing.

    Args:
        found: Where they point to, see `umamba.raw.orientation`; None if nobody knows.
        known: Likewise of the training's images; none if nobody knows.
        what: What to call the image.
    """
    if found is None or not known or found in known:
        return ""
    return (
        f"{what} is stored {found}, images of the training were {', '.join(sorted(known))} (where x, y and z point "
        "to). The network sees it turned or mirrored; reorient it."
    )


def strange_values(image: np.ndarray, plan: Plan, configuration: Configuration, what: Sequence[Path | str]) -> str:
    """What is to be said of an image of other values than those of the training; "" for nothing.

    It holds a single value, where the training's foreground held others; or it is to be CT and has nothing below 0, as
    no CT of more than bone, or clipping leaves next to nothing of it.

    Args:
        image: (C, Z, Y, X) as read.
        plan: With the intensities of the training.
        configuration: Says what is made of them.
        what: What to call each channel, or all of them.
    """
    said = []
    channels = zip(plan.channel_names, configuration.normalization, plan.intensities, image, strict=False)
    for number, (name, scheme, known, channel) in enumerate(channels):
        low, high = float(channel.min()), float(channel.max())
        where = f"{what[min(number, len(what) - 1)]} (channel {name})"
        least, most = known.percentile_00_5, known.percentile_99_5
        if low == high:
            if not known.min == known.max == low:
                said.append(
                    f"{where} holds the value {low:g} alone; foreground of the training held {known.min:g} to "
                    f"{known.max:g}."
                )
        elif scheme == "CTNormalization" and (
            least < 0 <= low or np.ptp(np.clip([low, high], least, most)) < _LITTLE * (most - least)
        ):
            said.append(
                f"{where} holds values of {low:g} to {high:g}; those of the training, {least:g} to {most:g}, are all "
                "that the network sees. Is it CT in Hounsfield units, or was it scaled or moved, or is it no CT?"
            )
    return " ".join(said)
