"""Slices are turned as the file says they lie: a marked voxel must come out where its letter says."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from umamba.drawing.slices import view_of
from umamba.raw.readers import Geometry

LPS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def geometry(direction, origin=(1.0, 2.0, 3.0), dimension=3) -> Geometry:
    return Geometry(spacing=(3.0, 2.0, 1.0), origin=origin, direction=tuple(np.ravel(direction).astype(float)),
                    shape=(2, 4, 6), dimension=dimension)  # fmt: skip


@pytest.mark.parametrize("order", [*permutations(range(3))])
@pytest.mark.parametrize("signs", [*product((1, -1), repeat=3)])
def test_every_orientation(order, signs):
    matrix = np.zeros((3, 3))  # column k: where the file's axis k points
    for k, (world, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[world, k] = sign
    view = view_of(geometry(matrix))
    left, right, top, bottom = view.sides
    assert top in "AS" and left in "RA" and {top, bottom} in ({"A", "P"}, {"S", "I"})
    rows, columns = np.indices((4, 6))  # of the array: the file's axes 1 and 0
    place = matrix[:, 1, None, None] * rows + matrix[:, 0, None, None] * columns  # (3, Y, X) in the world
    drawn = np.stack([view.turn(one) for one in place])
    for letter, ahead in ((right, drawn[:, 0, -1] - drawn[:, 0, 0]), (bottom, drawn[:, -1, 0] - drawn[:, 0, 0])):
        axis, sign = LPS[letter]
        assert ahead[axis] * sign > 0
    for letter, other in ((left, right), (top, bottom)):
        assert LPS[letter][0] == LPS[other][0] and LPS[letter][1] == -LPS[other][1]
    assert view.aspect((3.0, 2.0, 1.0)) == (0.5 if view.transposed else 2.0)


def test_an_oblique_volume_is_called_by_its_nearest_axes():
    angle = np.deg2rad(30)
    turned = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    assert view_of(geometry(turned)).sides == ("R", "L", "A", "P")


def test_what_says_nothing_is_drawn_as_it_is():
    layer = np.arange(24).reshape(4, 6)
    for said in (geometry(np.eye(3), origin=(0.0, 0.0, 0.0)), geometry(np.eye(2), dimension=2)):
        assert view_of(said).sides is None and np.array_equal(view_of(said).turn(layer), layer)
    assert view_of(geometry(np.eye(3))).sides == ("R", "L", "A", "P")
