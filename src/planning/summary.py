"""A plan for people: per configuration what was decided and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from umamba.planning.configuration import Configuration
from umamba.planning.plan import Plan
from umamba.planning.planner import reference_batch


def summarize(plan: Plan) -> RenderableType:
    """Tables of a plan: the data set, its intensities, and every configuration with the reasons."""
    return Group(_dataset(plan), Text(), _configurations(plan))


def memory_estimate(plan: Plan, configuration: Configuration) -> str:
    """GPU memory, "7.4 GB" or "40 MB", that nnU-Net's CNN of this plan would take in training by nnU-Net's estimate."""
    if not configuration.reference or plan.memory_gb is None:
        return "unknown"
    share = configuration.estimate / configuration.reference
    batches = configuration.batch_size / reference_batch(configuration.spatial_dims)
    gigabytes = plan.memory_gb * share * batches
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.0f} MB"


def _dataset(plan: Plan) -> Table:
    table = Table(title=f"Plan of {plan.dataset_name}", show_header=False, title_justify="left")
    table.add_row("training cases", str(plan.num_training))
    classes = [*plan.labels, *(f"{r.name} (labels {', '.join(map(str, r.labels))})" for r in plan.regions)]
    if plan.ignore_label is not None:
        classes.append(f"ignored: {plan.ignore_label}")
    table.add_row("classes", ", ".join(classes))
    for name, channel in zip(plan.channel_names, plan.intensities, strict=True):
        table.add_row(
            f"foreground in {name}",
            f"{channel.mean:.4g} ± {channel.std:.4g}, 0.5 % to 99.5 %: {channel.percentile_00_5:.4g} to "
            f"{channel.percentile_99_5:.4g}",
        )
    table.add_row("median shape", f"{_times(plan.original_median_shape)} voxels (z, y, x)")
    table.add_row("median spacing", f"{_times(plan.original_median_spacing)} mm (z, y, x)")
    axes = "".join("zyx"[axis] for axis in plan.transpose_forward)
    table.add_row("order of axes", f"{axes}{'' if axes == 'zyx' else ' (the coarsest axis comes first)'}")
    memory = "" if plan.memory_gb is None else f", {plan.memory_gb:g} GB"
    table.add_row("planned by", f"rule {plan.rule}, preset {plan.preset}{memory}")
    return table


def _configurations(plan: Plan) -> Table:
    entries = list(plan.configurations.values())
    table = Table(title="Configurations", title_justify="left")
    table.add_column("")
    for entry in entries:
        table.add_column(entry.name)
    rows: list[tuple[str, list[str]]] = [
        ("patch", [_times(e.patch_size) for e in entries]),
        ("why", [e.patch_reason for e in entries]),
        ("batch", [str(e.batch_size) for e in entries]),
        ("why", [e.batch_reason for e in entries]),
        ("spacing, mm", [_times(e.spacing) for e in entries]),
        ("median shape", [_times(e.median_shape) for e in entries]),
        ("stages", [f"{len(e.strides)}: {', '.join(map(str, e.features_per_stage))}" for e in entries]),
        ("strides", [_runs(e.strides) for e in entries]),
        ("kernels", [_runs(e.kernel_sizes) for e in entries]),
        ("normalization", [", ".join(_normalization(e)) for e in entries]),
        ("batch Dice", ["yes" if e.batch_dice else "no" for e in entries]),
        ("memory of nnU-Net's CNN", [memory_estimate(plan, e) for e in entries]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _normalization(entry: Configuration) -> list[str]:
    return [
        name.removesuffix("Normalization") + (" (inside the mask)" if masked else "")
        for name, masked in zip(entry.normalization, entry.use_mask_for_norm, strict=True)
    ]


def _runs(stages: Sequence[Sequence[int]]) -> str:
    """Per-stage tuples with repetitions counted: "1x1x1, 2x2x2 (4 times)"."""
    parts: list[str] = []
    start = 0
    for i in range(1, len(stages) + 1):
        if i == len(stages) or stages[i] != stages[start]:
            count = i - start
            parts.append("x".join(map(str, stages[start])) + (f" ({count} times)" if count > 1 else ""))
            start = i
    return ", ".join(parts)


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
