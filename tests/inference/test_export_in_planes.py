"""The way back: the label map of resampled logits, against skimage's resize as nnU-Net calls it, class by class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from tests.inference.small import make_plan
from umamba.inference.export import Export
from umamba.planning.preprocess import CaseProperties, preprocess_case
from umamba.planning.resampling import nearest_index, separate_axis
from umamba.raw.readers import Geometry
from umamba.raw.regions import Region

REGIONS = (
    Region(name="whole", labels=(1, 2, 3), written=1),
    Region(name="core", labels=(2, 3), written=2),
    Region(name="enhancing", labels=(3,), written=3),
)


def geometry_of(shape, spacing) -> Geometry:
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Geometry(spacing=tuple(spacing), origin=(0.0,) * 3, direction=direction, shape=tuple(shape), dimension=3)


def plan_of(target, classes, forward=(0, 1, 2)):
    """With this spacing of the preprocessed data."""
    plan = make_plan(classes=classes, forward=forward, patch=(8,) * len(target))
    (configuration,) = plan.configurations.values()
    configuration = dataclasses.replace(configuration, spacing=tuple(target))
    return dataclasses.replace(plan, configurations={configuration.name: configuration}), configuration


def resized(logits: np.ndarray, shape, current, new) -> np.ndarray:
    """(K, Z, Y, X) -> (K, *shape) float64 as nnU-Net resamples logits."""
    axis = separate_axis(current, new)
    if logits.shape[1:] == tuple(shape):
        return logits.astype(np.float64)

    def linear(array, size):
        return resize(array.astype(np.float64), size, order=1, mode="edge", anti_aliasing=False, clip=True)

    if axis is None:
        return np.stack([linear(one, shape) for one in logits])
    moved = np.moveaxis(logits, axis + 1, 1)
    in_plane = [size for i, size in enumerate(shape) if i != axis]
    nearest = nearest_index(moved.shape[1], shape[axis])
    slices = np.stack([[linear(plane, in_plane) for plane in one] for one in moved])
    return np.moveaxis(slices[:, nearest], 1, axis + 1)


def expect_same(label: np.ndarray, values: np.ndarray) -> None:
    """The label's value is the largest, or within the rounding of float32 of it."""
    chosen = np.take_along_axis(values, label[None].astype(np.int64), 0)[0]
    different = label != values.argmax(0)
    assert different.mean() < 1e-3
    np.testing.assert_allclose(chosen, values.max(0), rtol=0, atol=2e-6 * np.abs(values).max())


def exported(logits, properties, plan, configuration, pieces=(), **options) -> Export:
    export = Export(properties, plan, configuration, **options)
    planes = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))
    sizes = [*pieces, planes.shape[1] - sum(pieces)]
    for piece in planes.split(sizes, dim=1):
        export.add(piece)
    return export


SPACINGS = [
    ((1.0, 1.0, 1.0), (0.8, 0.9, 1.1)),
    ((2.5, 0.8, 0.8), (1.0, 0.8, 0.8)),  # preprocessed thick: separate along z, nothing to do in plane
    ((2.5, 0.8, 0.8), (1.0, 0.7, 0.9)),
    ((1.0, 1.0, 1.0), (5.0, 0.9, 0.9)),  # thick images
    ((1.5, 1.0, 1.0), (1.0, 1.2, 4.0)),  # thick along x
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ((1.0, 1.0, 1.0), (1.0, 1.0, 2.5)),
    ((4.0, 1.0, 4.0), (1.0, 1.0, 1.0)),  # two coarse axes: none is separate
]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(("target", "spacing"), SPACINGS)
def test_label_maps_and_probabilities_are_those_of_skimage(target, spacing, forward, smooth) -> None:
    random = np.random.default_rng(3)
    shape, border = (13, 17, 19), 2
    plan, configuration = plan_of(target, 5, forward)
    original = tuple(size + 2 * border for size in shape)
    spacing_of_file = tuple(spacing[forward.index(axis)] for axis in range(3))
    file_shape = tuple(original[forward.index(axis)] for axis in range(3))
    source = tuple(max(1, round(n * new / old)) for n, new, old in zip(shape, spacing, target, strict=True))
    properties = CaseProperties(
        geometry=geometry_of(file_shape, spacing_of_file),
        shape_before_crop=original,
        box=tuple((border, border + size) for size in shape),
        shape=source,
    )
    if smooth:
        coarse = random.normal(0, 5, (5, 3, 3, 3))
        logits = np.stack([resize(one, source, order=3, mode="edge") for one in coarse]).astype(np.float32)
    else:
        logits = random.normal(0, 5, (5, *source)).astype(np.float32)
    given, pieces = logits, (min(1, source[0] - 1), min(2, source[0] - 1) - min(1, source[0] - 1))
    done = exported(logits, properties, plan, configuration, pieces, keep=("probabilities", "logits"))

    values = resized(logits, shape, target, spacing)
    inside = tuple(slice(border, border + size) for size in shape)
    label = done.label.transpose(forward)
    expect_same(label[inside], values)
    softmax = np.exp(values - values.max(0)) / np.exp(values - values.max(0)).sum(0)
    probabilities = done.kept["probabilities"].transpose(0, *(axis + 1 for axis in forward))
    np.testing.assert_allclose(probabilities[(slice(None), *inside)], softmax, atol=1e-3)
    logits = done.kept["logits"].transpose(0, *(axis + 1 for axis in forward))
    np.testing.assert_allclose(logits[(slice(None), *inside)], values, atol=1e-3 * np.abs(values).max())
    outside = np.ones(original, dtype=bool)
    outside[inside] = False
    assert done.label.shape == file_shape and done.label.dtype == np.uint8
    assert not label[outside].any() and (probabilities[0][outside] == 1).all()
    assert (logits.astype(np.float32).argmax(0)[outside] == 0).all()
    some = exported(given, properties, plan, configuration, pieces, labels=("class_1", "class_4")).label
    assert np.array_equal(some, np.where(np.isin(done.label, (1, 4)), done.label, 0))


def written(values: np.ndarray, regions) -> np.ndarray:
    """(R, Z, Y, X) logits -> label map as nnU-Net makes it: each region over those before it."""
    label = np.zeros(values.shape[1:], np.int64)
    for region, one in zip(regions, values, strict=True):
        label[1 / (1 + np.exp(-one)) > 0.5] = region.written
    return label


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(("target", "spacing"), SPACINGS)
def test_regions_are_written_as_nnunet_writes_them(target, spacing, forward) -> None:
    shape, border = (13, 17, 19), 2
    plan, configuration = plan_of(target, 1, forward)
    plan = dataclasses.replace(plan, regions=REGIONS)
    original = tuple(size + 2 * border for size in shape)
    source = tuple(max(1, round(n * new / old)) for n, new, old in zip(shape, spacing, target, strict=True))
    properties = CaseProperties(
        geometry=geometry_of(
            *(tuple(of[forward.index(axis)] for axis in range(3)) for of in (original, spacing))
        ),
        shape_before_crop=original,
        box=tuple((border, border + size) for size in shape),
        shape=source,
    )  # fmt: skip
    # Unordered, as an untrained network's are: core where there is no whole
    logits = np.random.default_rng(3).normal(0, 5, (3, *source)).astype(np.float32)
    pieces = (min(1, source[0] - 1),)
    done = exported(logits, properties, plan, configuration, pieces, keep=("probabilities", "logits"))
    values = resized(logits, shape, target, spacing)
    inside = tuple(slice(border, border + size) for size in shape)
    label = done.label.transpose(forward)
    sure = (np.abs(values) > 1e-4).all(0)  # elsewhere float32 may round across 0
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(label[inside][sure], written(values, REGIONS)[sure])
    probabilities = done.kept["probabilities"].transpose(0, *(axis + 1 for axis in forward))
    np.testing.assert_allclose(probabilities[(slice(None), *inside)], 1 / (1 + np.exp(-values)), atol=1e-3)
    outside = np.ones(original, dtype=bool)
    outside[inside] = False
    assert not label[outside].any() and not probabilities[:, outside].any()
    assert (done.kept["logits"].transpose(0, *(axis + 1 for axis in forward))[:, outside] < 0).all()
    some = exported(logits, properties, plan, configuration, pieces, labels=("core",)).label.transpose(forward)
    np.testing.assert_array_equal(some[inside][sure], written(values[1:2], REGIONS[1:2])[sure])


def test_values_of_regions_above_255_have_room() -> None:
    plan, configuration = plan_of((1.0, 1.0, 1.0), 1)
    regions = tuple(Region(name=str(value), labels=(value,), written=value) for value in range(1, 301))
    plan = dataclasses.replace(plan, regions=regions)
    properties = CaseProperties(
        geometry=geometry_of((2, 2, 2), (1.0,) * 3), shape_before_crop=(2, 2, 2), box=((0, 2),) * 3, shape=(2, 2, 2)
    )
    logits = np.full((300, 2, 2, 2), -1, np.float32)
    logits[298, 0] = 1
    label = exported(logits, properties, plan, configuration).label
    assert label.dtype == np.int16 and (label[0] == 299).all() and not label[1].any()


@settings(max_examples=40, deadline=None)
@given(
    source=st.tuples(*[st.integers(1, 9)] * 3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    classes=st.integers(2, 4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_shapes_in_any_pieces(source, shape, classes, seed, data) -> None:
    plan, configuration = plan_of((1.0, 1.0, 1.0), classes)
    properties = CaseProperties(
        geometry=geometry_of(shape, (1.0, 1.0, 1.0)), shape_before_crop=shape, box=tuple((0, n) for n in shape),
        shape=source,
    )  # fmt: skip
    logits = np.random.default_rng(seed).normal(size=(classes, *source)).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, source[0]), max_size=4)))
    pieces = [stop - start for start, stop in zip([0, *cuts], cuts, strict=False)]
    label = exported(logits, properties, plan, configuration, pieces).label
    expect_same(label, resized(logits, shape, (1.0,) * 3, (1.0,) * 3))
    assert np.array_equal(label, exported(logits, properties, plan, configuration).label)


def test_equal_logits_go_to_the_first_class() -> None:
    plan, configuration = plan_of((1.0, 1.0, 1.0), 4)
    properties = CaseProperties(
        geometry=geometry_of((9, 9, 9), (1.0,) * 3), shape_before_crop=(9, 9, 9), box=((0, 9),) * 3, shape=(4, 5, 9)
    )
    logits = np.zeros((4, 4, 5, 9), np.float32)
    logits[2:, :, :, 4:] = 1
    label = exported(logits, properties, plan, configuration).label
    assert (label[..., :4] == 0).all() and (label[..., 4:] == 2).all()


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    return (label[None] == np.arange(classes)[:, None, None, None]).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    forward=st.permutations([0, 1, 2]),
    border=st.integers(0, 2),
    dims=st.sampled_from([2, 3]),
    seed=st.integers(0, 99),
)
def test_there_and_back_is_exact_where_the_spacing_stays(shape, forward, border, dims, seed) -> None:
    random = np.random.default_rng(seed)
    image = np.pad(random.normal(5, 1, shape), border)[None].astype(np.float32)
    label = np.pad(random.integers(0, 3, shape), border).astype(np.int16)
    plan, configuration = plan_of((1.0,) * dims, 3, tuple(forward))
    done = preprocess_case(image, geometry_of(label.shape, (1.0,) * 3), label, plan, configuration)
    back = exported(one_hot(done.label, 3), done.properties, plan, configuration).label
    np.testing.assert_array_equal(back, label)


@pytest.mark.parametrize(
    ("shape", "spacing", "forward", "target"),
    [
        ((40, 44, 48), (1.0, 1.0, 1.0), (0, 1, 2), (0.8, 0.9, 1.1)),
        ((40, 44, 48), (1.0, 1.0, 2.5), (2, 0, 1), (2.0, 1.2, 1.2)),
        ((30, 60, 60), (4.0, 1.0, 1.0), (0, 1, 2), (4.0, 0.8, 0.8)),  # thick slices
        ((30, 60, 60), (4.0, 1.0, 1.0), (0, 1, 2), (2.5, 1.1, 1.1)),  # thick slices, resampled along z too
        ((40, 44, 48), (1.0, 1.0, 1.0), (0, 1, 2), (1.4, 1.4, 1.4)),
        ((30, 60, 60), (4.0, 1.0, 1.0), (0, 1, 2), (1.1, 1.1)),  # in 2D
    ],
)
def test_there_and_back_keeps_the_organs(shape, spacing, forward, target) -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    distance = np.sqrt(np.square(grid).sum(0))
    label = ((distance < 0.6).astype(np.int16) + (distance < 0.3)).astype(np.int16)
    plan, configuration = plan_of(target, 3, forward)
    image = (label + 1.0)[None].astype(np.float32)
    done = preprocess_case(image, geometry_of(shape, spacing), label, plan, configuration)
    assert done.data.shape[1:] != tuple(shape[axis] for axis in forward)
    back = exported(one_hot(done.label, 3), done.properties, plan, configuration).label
    for value in (1, 2):
        dice = 2 * ((back == value) & (label == value)).sum() / ((back == value).sum() + (label == value).sum())
        assert dice >= 0.95, (value, dice)


def test_many_classes_take_two_bytes() -> None:
    plan, configuration = plan_of((1.0, 1.0, 1.0), 300)
    label = (np.arange(256).reshape(4, 8, 8) + 40).astype(np.int16)
    done = preprocess_case(
        np.ones((1, 4, 8, 8), np.float32), geometry_of((4, 8, 8), (1.0,) * 3), None, plan, configuration
    )
    logits = (label[None] == np.arange(300)[:, None, None, None]).astype(np.float32)
    back = exported(logits, done.properties, plan, configuration).label
    assert back.dtype == np.int16 and np.array_equal(back, label)


def test_planes_that_are_not_the_cases_are_refused() -> None:
    plan, configuration = plan_of((1.0, 1.0, 1.0), 2)
    properties = CaseProperties(
        geometry=geometry_of((4, 8, 8), (1.0,) * 3), shape_before_crop=(4, 8, 8), box=((0, 4), (0, 8), (0, 8)),
        shape=(4, 8, 8),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"Logits have shape \(2, 4, 8, 7\).*expected \(K, up to 4, 8, 8\)"):
        exported(np.zeros((2, 4, 8, 7)), properties, plan, configuration)
    with pytest.raises(ValueError, match=r"expected \(K, up to 1, 8, 8\)"):
        exported(np.zeros((2, 5, 8, 8)), properties, plan, configuration, (3,))
