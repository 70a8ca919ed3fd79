"""What a file of a network has to say for itself: what goes in, what comes out, where it is from; plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

from umamba.inference.bundle import Bundle, Source
from umamba.planning.plan import Plan

PACKAGE = "umamba-lightning"  # which every file of an export names, by which it is known


def facts_of(given: Bundle, source: Source) -> dict[str, Any]:
    """Facts that hold whatever the form of the file."""
    plan = Plan.from_dict(source.content["plan"])
    c = plan.configuration(source.content["configuration"])
    channels = [
        {
            "name": name,
            "normalization": scheme,
            "inside_nonzero_mask_only": masked,
            "foreground_intensities": dataclasses.asdict(statistics),
        }
        for name, scheme, masked, statistics in zip(
            plan.channel_names, c.normalization, c.use_mask_for_norm, plan.intensities, strict=True
        )
    ]
    classes: list[Any] = [name for name, _ in sorted(plan.labels.items(), key=lambda item: item[1])]
    if plan.regions:
        classes = [{"name": r.name, "labels": list(r.labels), "written": r.written} for r in plan.regions]
    return {
        "made_by": given.made_by,
        "dataset": plan.dataset_name,
        "configuration": c.name,
        "input": {
            "name": "image",
            "dtype": "float32",
            "axes": ["batch", "channel", *"zyx"[-c.spatial_dims :]],
            "channels": channels,
            "patch_size": list(c.patch_size),
            "preprocessing": {
                "1_transpose": list(plan.transpose_forward),
                "2_crop": "to the box of voxels that are not 0 in some channel",
                "3_normalize": "each channel by its normalization, nnU-Net's names; CTNormalization clips to "
                "percentile_00_5 and percentile_99_5, then subtracts mean and divides by std",
                "4_resample": "to the spacing, nnU-Net's way: splines of order 3, across thick slices order 0",
                "spacing_mm": list(c.spacing),
            },
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "axes": ["batch", "regions" if plan.regions else "classes", *"zyx"[-c.spatial_dims :]],
            "regions" if plan.regions else "classes": classes,
            "decision": "of all regions whose logit is above 0 the last one's value is written"
            if plan.regions
            else "the class of the largest logit",
            "windows": "patches that overlap by half, their logits averaged with Gaussian weights",
        },
        "licence": None if given.licence is None else dict(given.licence),
        "hashes": source.record(),
    }
