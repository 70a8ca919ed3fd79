"""A contact sheet: slices of some cases with their labels, so that a person sees the data at a glance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from umamba.datamodules.doctor.case import CaseFacts
from umamba.datamodules.doctor.report import Report
from umamba.drawing.figure import literal, save_figure
from umamba.drawing.palette import class_colour, paint
from umamba.drawing.slices import view_of
from umamba.raw.dataset import RawCase
from umamba.raw.description import DatasetDescription, DatasetError
from umamba.raw.readers import read_images, read_label

TILES, COLUMNS = 24, 6
WIDTH = 13.2  # of the sheet in inches, a full row's
LARGEST = 4.4  # inches, of a tile where there are few
PIXELS = 384  # longest edge of a tile
OPACITY = 0.35
CT_WINDOW = (-160.0, 240.0)  # HU, the radiologists' soft tissue window


def contact_sheet(path: Path, cases: Sequence[tuple[RawCase, str]], report: Report) -> None:
    """Write a PNG with the most labelled slice of up to 24 cases; cases with findings come first, with what was found.

    Volumes are turned as radiologists look at them, see `view_of`. Few cases are drawn larger.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)  # case -> kind -> severity, errors first
    for finding in sorted(report.findings, key=lambda finding: finding.severity != "error"):
        found[finding.case].setdefault(finding.kind, finding.severity)
    chosen = choose([{*found[case.identifier].values()} for case, _ in cases])
    columns = min(COLUMNS, max(1, math.ceil(math.sqrt(len(chosen)))))
    rows, edge = max(1, -(-len(chosen) // columns)), min(LARGEST, WIDTH / columns)
    figure = Figure(figsize=(columns * edge, rows * (edge + 0.35) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, chosen, strict=False):
        case, split = cases[index]
        kinds = found[case.identifier]
        colour = "red" if "error" in kinds.values() else "darkorange" if kinds else "black"
        name = case.identifier if len(case.identifier) <= 24 else f"{case.identifier[:11]}...{case.identifier[-10:]}"
        title = f"{literal(name)}{' (test)' if split == 'Ts' else ''}"
        axis.set_title("\n".join([title, ", ".join(kinds)] if kinds else [title]), fontsize=7, color=colour)
        try:
            axis.imshow(tile(case, report.facts[index], report.description))
        except (DatasetError, FileNotFoundError):
            axis.text(0.5, 0.5, "unreadable", ha="center", va="center", color="red", transform=axis.transAxes)
    names = [(name, value) for name, value in report.description.labels.items() if value]
    names += [(region.name, region.written) for region in report.description.regions]
    handles = [Patch(color=class_colour(value), label=literal(name)) for name, value in names[:30]]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, round(columns * edge / 1.7)), fontsize=7)
    save_figure(figure, path, dpi=90)


def choose(severities: Sequence[set[str]]) -> list[int]:
    """Indices of the cases to show: up to two thirds with findings, errors first, then others evenly spread."""
    striking = sorted((i for i, found in enumerate(severities) if found), key=lambda i: "error" not in severities[i])
    striking = striking[: TILES * 2 // 3]
    others = [index for index in range(len(severities)) if index not in set(striking)]
    wanted = min(len(others), TILES - len(striking))
    spread: list[int] = np.linspace(0, len(others) - 1, wanted).round().astype(int).tolist() if wanted else []
    return striking + [others[index] for index in spread]


def tile(case: RawCase, facts: CaseFacts, description: DatasetDescription) -> np.ndarray:
    """The most labelled slice across z, with its labels, as (H, W, 3) in 0..1 with square pixels.

    Raises:
        DatasetError, FileNotFoundError: a file cannot be read.
    """
    if facts.shape is None:
        raise DatasetError(f"{case.identifier} cannot be read.")
    image, geometry = read_images(case.images)
    label = None
    if case.label is not None:
        label, _ = read_label(case.label)
        label = label if label.shape == image.shape[1:] else None  # reported as a finding
    z = image.shape[1] // 2 if label is None else int(np.count_nonzero(label > 0, axis=(1, 2)).argmax())
    picture = image[:, z] if len(image) == 3 else np.repeat(image[:1, z], 3, axis=0)
    windows = [
        CT_WINDOW if name.upper() == "CT" else (channel["percentile_01"], channel["percentile_99"])
        for name, channel in zip(description.channel_names, facts.channels, strict=False)
    ]
    windows = windows if len(windows) == 3 == len(image) else windows[:1] * 3
    scaled = [(channel - low) / max(high - low, 1e-6) for channel, (low, high) in zip(picture, windows, strict=True)]
    view = view_of(geometry)
    rgb = view.turn(np.nan_to_num(np.stack(scaled, axis=-1)).clip(0, 1))
    size = np.array(rgb.shape[:2]) * [view.aspect(geometry.spacing), 1.0]
    shape = np.maximum(1, np.round(size / size.max() * PIXELS)).astype(int)
    rgb = resize(rgb, shape, order=1, anti_aliasing=True)
    if label is None:
        return rgb
    return overlay(
        rgb, resize(view.turn(label[z]), shape, order=0, preserve_range=True, anti_aliasing=False).astype(int)
    )


def overlay(rgb: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Tint the labelled pixels and draw their outlines."""
    outline = find_boundaries(label, mode="inner")
    layer = np.where(outline[..., None], paint(label, opacity=1), paint(label, OPACITY)) / 255
    opacity = layer[..., 3:]
    return (1 - opacity) * rgb + opacity * layer[..., :3]
