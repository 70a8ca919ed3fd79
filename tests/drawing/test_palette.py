"""Classes can be told apart, over grey and by the colour-blind, and have the same colour everywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from umamba.drawing.palette import OPACITY, PALETTE, class_colour, paint

# Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB
VISIONS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson's OKLab: a just noticeable difference is about 0.02
TO_LMS = [
    [0.41222147, 0.53633254, 0.05144599], [0.21190350, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870],
]  # fmt: skip
TO_LAB = [
    [0.21045426, 0.79361779, -0.00407205], [1.97799850, -2.42859221, 0.45059371], [0.02590404, 0.78277177, -0.80867577],
]  # fmt: skip


def seen(number: int, vision: str | None = None) -> np.ndarray:
    """The first colours in OKLab (number, 3), as seen with a kind of colour blindness."""
    colours = np.array([class_colour(value) for value in range(1, number + 1)])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    if vision is not None:
        linear = (linear @ np.array(VISIONS[vision]).T).clip(0, 1)
    return np.cbrt(linear @ np.array(TO_LMS).T) @ np.array(TO_LAB).T


def closest(colours: np.ndarray) -> float:
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(colours, 2))


def test_thirty_are_told_apart() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 30
    assert closest(seen(30)) > 0.1


@pytest.mark.parametrize("vision", VISIONS)
def test_the_first_eight_are_told_apart_by_the_colour_blind(vision: str) -> None:
    assert closest(seen(8, vision)) > 0.07


def test_none_is_grey() -> None:
    _, a, b = seen(30).T
    assert np.hypot(a, b).min() > 0.1


def test_classes_beyond_the_palette_begin_anew() -> None:
    assert class_colour(31) == class_colour(1) != class_colour(30)


def test_a_label_map_is_painted_with_the_classes_colours() -> None:
    layer = paint(np.array([[0, 1], [30, 2]]))
    assert layer.shape == (2, 2, 4) and layer.dtype == np.uint8
    assert layer[0, 0, 3] == 0 and layer[0, 1, 3] == int(255 * OPACITY)
    for (y, x), value in {(0, 1): 1, (1, 0): 30, (1, 1): 2}.items():
        assert np.allclose(layer[y, x, :3] / 255, class_colour(value), atol=1 / 255)
