"""A plan of another data set, taken over for this one: to go on from a network that was trained there.

Patch, batch, spacing, topology and the order of axes stay, so that the weights fit; name, channels, labels, number of
cases and the intensities that CT is normalised by are this data set's own. nnU-Net's move_plans does the same, but for
the intensities, which it leaves those of the source.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umamba.planning.configuration import Configuration
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.nnunet_plans import intensities_in, is_of_nnunet, plan_of, read_plan_file
from umamba.planning.normalization import scheme_for, uses_mask
from umamba.planning.plan import Plan, said_by
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetDescription

log = logging.getLogger(__name__)


def load_source(path: Path, raw: RawDataset) -> tuple[Plan, bool]:
    """Read a plan file of either kind (else FileNotFoundError, PlanError).

    Returns:
        The plan; and whether it is of another data set, by name, so that it is still to be moved (`move_plan`).
    """
    content: Any = read_plan_file(path)
    own = (raw.name, raw.folder.resolve().name)  # nnU-Net goes by the folder
    if not isinstance(content, dict) or str(content.get("dataset_name", raw.name)) in own:
        return plan_of(content, raw, path), False
    if is_of_nnunet(content) and isinstance(found := intensities_in(content), dict):  # it does not name its channels
        channels = tuple(map(str, range(len(found))))
        return plan_of(content, dataclasses.replace(raw.description, channel_names=channels), path), True
    return plan_of(content, raw, path), True


def move_plan(plan: Plan, description: DatasetDescription, fingerprint: Fingerprint) -> Plan:
    """A plan of another data set for this one.

    The source's normalisation is kept where the number of channels is the same, for its network has learned from images
    of that kind: by place, or by name where channels of these names stand in other places there. With another number
    of channels, or where a name is new then, a channel gets what its name asks for.
    """
    same = len(plan.channel_names) == len(description.channel_names)
    schemes = tuple(scheme_for(name, plan.rule) for name in description.channel_names)
    masks = tuple(uses_mask(scheme, fingerprint.median_relative_size) for scheme in schemes)
    turned = exchanged(plan.channel_names, description.channel_names)

    def normalised(entry: Configuration) -> Configuration:
        if same and not turned:
            return entry
        pairs = zip(entry.normalization, entry.use_mask_for_norm, strict=True)
        there = dict(zip(map(str.casefold, plan.channel_names), pairs, strict=True)) if same else {}
        own = zip(description.channel_names, zip(schemes, masks, strict=True), strict=True)
        chosen = [there.get(name.casefold(), pair) for name, pair in own]
        return dataclasses.replace(
            entry,
            normalization=tuple(scheme for scheme, _ in chosen),
            use_mask_for_norm=tuple(mask for _, mask in chosen),
        )

    log.info(
        "The plan is of %s: patch, batch, spacing and topology are taken over; labels, channels and intensities are "
        "those of %s, normalisation %s.", plan.dataset_name, description.name,
        f"by this data set's {len(schemes)} channels, for the source had another number" if not same
        else f"as there, by name, for {', '.join(turned)} stood in other places" if turned else "as there",
    )  # fmt: skip
    return dataclasses.replace(
        plan,
        dataset_name=description.name,
        **said_by(description),
        num_training=len(fingerprint.spacings),
        intensities=fingerprint.intensities,
        original_median_spacing=fingerprint.median_spacing,
        original_median_shape=fingerprint.median_shape,
        configurations={name: normalised(entry) for name, entry in plan.configurations.items()},
    )


def exchanged(there: Sequence[str], here: Sequence[str]) -> list[str]:
    """Names of channels, as they are here, that stand in other places there."""
    known = [name.casefold() for name in there]
    return [name for i, name in enumerate(here) if name.casefold() in known and known[i : i + 1] != [name.casefold()]]
