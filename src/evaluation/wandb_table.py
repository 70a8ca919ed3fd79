"""The per-case table on W&B, worst cases first, with predictions and references as masks over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from umamba.drawing.slices import fullest_slice, picture_of
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Labelling
from umamba.evaluation.tables import case_means, class_table, metrics_of
from umamba.raw.readers import read_images, read_label

MAX_PICTURES = 32  # the worst ones; each is a PNG of one slice with two masks


def log_predictions(
    run: Any,
    scores: pd.DataFrame,
    pairs: Sequence[Pair],
    labelling: Labelling,
    *,
    max_pictures: int = MAX_PICTURES,
) -> None:
    """Log ``test/cases`` (a row per case, worst first, with overlay), ``test/overlays``, ``test/classes`` (means)."""
    import wandb

    metrics = metrics_of(scores)
    by_case = {pair.case: pair for pair in pairs}
    worst_first = case_means(scores).sort_values(metrics[0], na_position="last")
    by_class = scores.pivot_table(index="case", columns="class", values=metrics[0], sort=False)
    shown = [by_case[case] for case in worst_first["case"] if by_case[case].images][:max_pictures]
    drawn = dict(
        zip([pair.case for pair in shown], _as_large([_overlay(pair, labelling) for pair in shown]), strict=True)
    )
    overlays = []
    table = wandb.Table(columns=["case", "overlay", *metrics, *(f"{metrics[0]}_{name}" for name in by_class.columns)])
    for row in worst_first.to_dict("records"):
        overlay = None
        if row["case"] in drawn:
            picture, masks = drawn[row["case"]]
            overlay = wandb.Image(picture, masks=masks)
            overlays.append(wandb.Image(picture, masks=masks, caption=row["case"]))
        per_class = by_class.loc[row["case"]].tolist() if row["case"] in by_class.index else [None] * by_class.shape[1]
        table.add_data(row["case"], overlay, *(row[metric] for metric in metrics), *per_class)
    # A table keeps its pictures in an artifact, whose files a copy of the run's folder lacks; pictures alone are in it.
    pictures = {"test/overlays": overlays} if overlays else {}
    run.log({"test/cases": table, "test/classes": wandb.Table(dataframe=class_table(scores)), **pictures})


def _as_large(overlays: list[tuple[np.ndarray, dict[str, Any]]]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Each as large as the largest, black at the right and below: W&B scales pictures of one list alike."""
    height, width = (max((picture.shape[axis] for picture, _ in overlays), default=0) for axis in (0, 1))

    def pad(array: np.ndarray) -> np.ndarray:
        missing = (height - array.shape[0], width - array.shape[1])
        return np.pad(array, [(0, missing[0]), (0, missing[1]), *[(0, 0)] * (array.ndim - 2)])

    return [
        (pad(picture), {name: layer | {"mask_data": pad(layer["mask_data"])} for name, layer in masks.items()})
        for picture, masks in overlays
    ]


def _overlay(pair: Pair, labelling: Labelling) -> tuple[np.ndarray, dict[str, Any]]:
    """The slice with most reference as a picture, and its masks as W&B takes them."""
    image, _ = read_images(pair.images)
    reference, prediction = read_label(pair.reference)[0], read_label(pair.prediction)[0]
    z = fullest_slice(reference, [prediction])
    masks = {"reference": reference[z], "prediction": labelling.as_compared(prediction[z])}
    names = None if labelling.of_instances else {value: name for name, value in labelling.labels.items()}
    layers = {}
    for name, mask in masks.items():
        # W&B stores masks as 8-bit pictures: instances share 255 values.
        data = np.where(mask > 0, (mask - 1) % 255 + 1, 0) if labelling.of_instances else mask
        layers[name] = {"mask_data": data.astype(np.uint8)} | ({"class_labels": names} if names else {})
    return picture_of(image[:, z]), layers
