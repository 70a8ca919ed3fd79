from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umamba.datamodules.sampling import EpochSampler, draw_start, is_forced, read_block, share_of


@pytest.mark.parametrize(("batch_size", "forced"), [(2, [1]), (9, [6, 7, 8]), (12, [8, 9, 10, 11]), (3, [2])])
def test_the_last_third_of_a_batch_is_forced(batch_size: int, forced: list[int]) -> None:
    assert [i for i in range(batch_size) if is_forced(i, batch_size, 0.33)] == forced


@pytest.mark.parametrize("oversample", [0.0, 1.0])
def test_no_or_every_sample_is_forced(oversample: float) -> None:
    assert all(is_forced(i, 7, oversample) == bool(oversample) for i in range(7))


def test_a_random_patch_covers_the_image_and_half_the_excess_on_either_side() -> None:
    # Axis 0: image as large as the patch, 3 voxels read around it. Axis 1: smaller than what is read. Axis 2: larger.
    rng = np.random.default_rng(0)
    sizes = {"read_size": (11, 20, 12), "patch_size": (8, 16, 10)}
    starts = np.array([draw_start(rng, (8, 9, 30), {}, forced=False, **sizes) for _ in range(2000)])
    assert [sorted(set(axis)) for axis in starts.T] == [[-2, -1], [-6, -5], list(range(-1, 20))]


# Image, block read, patch, a foreground voxel; the lowest and highest start of 3000 random patches and the start of a
# forced one, as nnunetv2 2.1.2's nnUNetDataLoaderBase.get_bbox gave them.
NNUNET_STARTS = [
    ((34, 25, 20), (11, 12, 6), (11, 12, 5), (27, 16, 18), (0, 0, -1), (23, 13, 15), (22, 10, 15)),
    ((20, 24, 38), (27, 28, 20), (22, 20, 18), (16, 16, 0), (-4, -4, -1), (-3, 0, 19), (3, 2, -1)),
    ((16, 34, 22), (11, 24, 22), (4, 23, 22), (13, 0, 11), (-4, -1, 0), (9, 11, 0), (8, -1, 0)),
    ((4, 12, 19), (14, 15, 4), (14, 14, 4), (2, 6, 12), (-5, -2, 0), (-5, -1, 15), (-5, -1, 10)),
    ((11, 25, 30), (20, 23, 32), (13, 15, 29), (7, 23, 19), (-5, -4, -2), (-4, 6, 0), (-3, 12, 3)),
    ((33, 27, 28), (19, 32, 14), (14, 26, 7), (17, 10, 8), (-3, -3, -4), (17, -2, 18), (8, -3, 1)),
    ((17, 19, 29), (31, 8, 34), (27, 5, 28), (9, 4, 9), (-7, -2, -3), (-7, 13, -2), (-6, 0, -3)),
    ((29, 24, 20), (14, 31, 16), (12, 23, 14), (6, 17, 12), (-1, -4, -1), (16, -3, 5), (-1, 2, 4)),
]


@pytest.mark.parametrize(("shape", "read", "patch", "voxel", "lowest", "highest", "forced"), NNUNET_STARTS)
def test_patches_start_where_nnunets_do(shape, read, patch, voxel, lowest, highest, forced) -> None:
    rng = np.random.default_rng(0)
    sizes = {"read_size": read, "patch_size": patch}
    starts = np.array([draw_start(rng, shape, {}, forced=False, **sizes) for _ in range(1000)])
    assert tuple(starts.min(axis=0)) == lowest and tuple(starts.max(axis=0)) == highest
    assert draw_start(rng, shape, {1: np.array([voxel])}, forced=True, **sizes) == forced


@given(data=st.data())
def test_a_forced_patch_contains_its_voxel(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 40)) for _ in range(3))
    patch = tuple(data.draw(st.integers(1, 40)) for _ in range(3))
    read = tuple(p + data.draw(st.integers(0, 10)) for p in patch)
    voxel = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    locations = {1: np.empty((0, 3), int), 2: np.array([voxel])}
    rng = np.random.default_rng(0)
    start = draw_start(rng, shape, locations, read_size=read, patch_size=patch, forced=True)
    for first, size, where, read_size, patch_size in zip(start, shape, voxel, read, patch, strict=True):
        assert first <= where < first + read_size
        lowest = -(-max(read_size - patch_size, read_size - size) // 2)  # half of what is missing, rounded up
        assert first == max(-lowest, where - read_size // 2)  # centred unless that begins too far outside


def test_classes_are_drawn_evenly_whatever_their_size() -> None:
    locations = {1: np.array([[5, 5, 5]]), 2: np.array([[9, 9, z] for z in range(20)] * 10), 3: np.empty((0, 3), int)}
    rng = np.random.default_rng(0)
    starts = [
        draw_start(rng, (30, 30, 30), locations, read_size=(3, 3, 3), patch_size=(3, 3, 3), forced=True)
        for _ in range(2000)
    ]
    of_first = sum(start == (4, 4, 4) for start in starts)
    assert abs(of_first - 1000) < 5 * np.sqrt(500)  # five standard deviations of a fair coin


def test_a_2d_patch_lies_in_a_slice_of_the_class() -> None:
    locations = {1: np.array([[7, 20, 20], [9, 20, 20]])}
    rng = np.random.default_rng(0)
    sizes = {"read_size": (1, 12, 12), "patch_size": (1, 8, 8)}
    forced = {draw_start(rng, (15, 40, 40), locations, forced=True, **sizes) for _ in range(100)}
    assert forced == {(7, 14, 14), (9, 14, 14)}
    free = {draw_start(rng, (15, 40, 40), locations, forced=False, **sizes)[0] for _ in range(500)}
    assert free == set(range(15))


def test_without_foreground_a_forced_patch_is_random() -> None:
    sizes = {"read_size": (4, 4, 4), "patch_size": (4, 4, 4)}
    locations = {1: np.empty((0, 3), int)}
    drawn = [
        draw_start(np.random.default_rng(1), (9, 9, 9), locations, forced=forced, **sizes) for forced in (True, False)
    ]
    assert drawn[0] == drawn[1]


def test_with_an_ignore_label_patches_are_centred_on_annotated_voxels() -> None:
    rng = np.random.default_rng(0)
    sizes = {"read_size": (4, 4, 4), "patch_size": (4, 4, 4)}
    annotated = np.array([[5, 5, 5], [6, 6, 6]])
    for forced, foreground in ((False, [[9, 9, 9]]), (True, np.empty((0, 3), int))):
        locations = {1: np.asarray(foreground)}
        drawn = {
            draw_start(rng, (20, 20, 20), locations, annotated_locations=annotated, forced=forced, **sizes)
            for _ in range(50)
        }
        assert drawn == {(3, 3, 3), (4, 4, 4)}
    centred = draw_start(rng, (20, 20, 20), {1: [[9, 9, 9]]}, annotated_locations=annotated, forced=True, **sizes)
    assert centred == (7, 7, 7)


@given(data=st.data())
def test_a_block_is_the_padded_array_there(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(2))
    start = tuple(data.draw(st.integers(-8, 8)) for _ in range(2))
    size = tuple(data.draw(st.integers(1, 9)) for _ in range(2))
    array = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    padded = np.pad(array, ((0, 0), (20, 20), (20, 20)), constant_values=-1)
    expected = padded[:, 20 + start[0] : 20 + start[0] + size[0], 20 + start[1] : 20 + start[1] + size[1]]
    block = read_block(array, start, size, -1, np.float32)
    np.testing.assert_array_equal(block, expected)
    assert block.dtype == np.float32 and not np.shares_memory(block, array)


class _Recorder:
    """An array that records what is read of it."""

    ndim, shape = 4, (1, 50, 60, 70)

    def __init__(self) -> None:
        self.read: list[tuple[slice, ...]] = []

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        self.read.append(where)
        return np.zeros([part.stop - part.start for part in where], np.float32)


def test_only_the_block_is_read() -> None:
    array = _Recorder()
    read_block(array, (-2, 10, 65), (8, 8, 8), 0, np.float32)
    assert array.read == [(slice(0, 1), slice(0, 6), slice(10, 18), slice(65, 70))]


def test_an_epoch_follows_the_last_one() -> None:
    sampler = EpochSampler(num_batches=3, batch_size=2)
    assert len(sampler) == 6
    assert list(sampler) == list(sampler) == [0, 1, 2, 3, 4, 5]
    sampler.set_epoch(4)
    assert list(sampler) == [24, 25, 26, 27, 28, 29]
    fixed = EpochSampler(num_batches=3, batch_size=2, advance=False)
    fixed.set_epoch(4)
    assert list(fixed) == [0, 1, 2, 3, 4, 5]


def test_an_interrupted_epoch_goes_on_and_the_next_is_whole() -> None:
    sampler = EpochSampler(num_batches=3, batch_size=2, skip_batches=2)
    sampler.set_epoch(1)
    assert list(sampler) == [10, 11]
    sampler.set_epoch(2)
    assert list(sampler) == [12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize(("size", "world", "expected"), [(6, 3, [2, 2, 2]), (7, 2, [4, 3]), (7, 4, [2, 2, 2, 1])])
def test_processes_share_every_batch(size: int, world: int, expected: list[int]) -> None:
    whole = list(EpochSampler(num_batches=4, batch_size=size))
    samplers = [EpochSampler(num_batches=4, batch_size=size, rank=rank, world_size=world) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    sizes = [share_of(size, rank, world) for rank in range(world)]
    assert sizes == expected and [len(sampler) for sampler in samplers] == [4 * n for n in sizes]
    for batch in range(4):
        parts = [share[n * batch : n * (batch + 1)] for share, n in zip(shares, sizes, strict=True)]
        assert sorted(index for part in parts for index in part) == whole[size * batch : size * (batch + 1)]
    forced = [sum(is_forced(index % size, size, 0.5) for index in share) for share in shares]
    assert max(forced) - min(forced) <= 4


def test_a_batch_that_cannot_be_shared() -> None:
    message = "batch of 2 is too small for 3 processes.*data.batch_size to 3 or more, or trainer.devices to 2 or less"
    with pytest.raises(ValueError, match=message):
        EpochSampler(num_batches=1, batch_size=2, world_size=3)
