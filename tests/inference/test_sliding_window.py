"""Laws of the sliding window: every voxel covered, cut and merged again is the identity, mirroring averages."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba.inference.sliding_window import (
    ensemble,
    gaussian_weights,
    mirrored,
    pad_to_patch,
    sliding_window,
    window_starts,
)


@given(size=st.integers(1, 400), patch=st.integers(1, 200), step=st.floats(0.1, 1))
def test_windows_cover_the_axis_evenly(size: int, patch: int, step: float) -> None:
    if size < patch:
        with pytest.raises(ValueError, match="pad the image"):
            window_starts(size, patch, step)
        return
    starts = window_starts(size, patch, step)
    assert starts[0] == 0 and starts[-1] == size - patch
    gaps = np.diff(starts)
    assert (gaps <= np.ceil(step * patch)).all()
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1 + 1e-9


def test_number_of_windows_is_nnunets() -> None:
    # image 100, patch 40, half a patch apart: ceil(60 / 20) + 1 = 4 windows at 0, 20, 40, 60
    assert window_starts(100, 40) == [0, 20, 40, 60]
    assert window_starts(40, 40) == [0]


def test_weights_are_a_gaussian_of_an_eighth_of_the_patch() -> None:
    weights = gaussian_weights((32, 16)).numpy()
    z, y = np.meshgrid(np.arange(32) - 16, np.arange(16) - 8, indexing="ij")
    expected = np.exp(-0.5 * ((z / 4) ** 2 + (y / 2) ** 2))
    inner = (slice(4, 28), slice(2, 14))
    np.testing.assert_allclose(weights[inner], expected[inner], rtol=2e-2)  # scipy cuts the kernel at 4 sigma
    assert weights.max() == 1 and weights.min() > 0


def predict_sliding_window(*arguments, **options) -> torch.Tensor:
    """All planes together."""
    return torch.cat(list(sliding_window(*arguments, **options)), 1)


class Pointwise(torch.nn.Module):
    """Logits that depend on each voxel alone: merging windows must reproduce them whatever the weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 2 * x + 1], 1)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    patch=st.tuples(*[st.integers(1, 12)] * 3),
    dims=st.sampled_from([2, 3]),
    window_batch=st.integers(1, 4),
    mirror=st.booleans(),
)
def test_cut_and_merged_is_the_identity(shape, patch, dims, window_batch, mirror) -> None:
    image = torch.randn(1, *shape)
    logits = predict_sliding_window(
        mirrored(Pointwise(), range(dims) if mirror else ()), image, patch[-dims:], 2, window_batch=window_batch
    )
    torch.testing.assert_close(logits, torch.cat([image, 2 * image + 1]), rtol=1e-4, atol=1e-5)


def test_mirroring_averages_over_all_flips() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 6, 6, 6)
    with torch.no_grad():
        got = predict_sliding_window(mirrored(network, (0, 1, 2)), image, (6, 6, 6), 2)
        flips = [c for n in range(4) for c in itertools.combinations((1, 2, 3), n)]
        expected = sum(network(image.flip(f)[None])[0].flip(f) for f in flips) / 8
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_symmetric_and_undone() -> None:
    image = torch.ones(1, 3, 4)
    padded, inner = pad_to_patch(image, (8, 4))
    assert padded.shape == (1, 8, 4)
    assert padded[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert torch.equal(padded[(slice(None), *inner)], image)


class Says(torch.nn.Module):
    """The same logits everywhere."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.view(1, -1, *[1] * (x.ndim - 2)).expand(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 8, 24), (16, 16)])
def test_a_constant_of_120_classes_survives_the_corners_of_the_weights(patch: tuple[int, ...]) -> None:
    """The weights there are 4e-11: in float16 they are 0, and the quotient is NaN."""
    assert gaussian_weights((32, 32, 32)).min() < 1e-10
    values = torch.linspace(-3, 40, 120)
    logits = predict_sliding_window(Says(values), torch.zeros(1, 20, 24, 30), patch, 120, window_batch=2)
    assert logits.dtype == torch.float32 and logits.shape == (120, 20, 24, 30)
    torch.testing.assert_close(logits.double(), values.double().view(-1, 1, 1, 1).expand_as(logits), rtol=2e-6, atol=0)


class ByPlace(torch.nn.Module):
    """Logits that depend on where a voxel lies in its window: merging is a true average of different answers."""

    def __init__(self, patch: tuple[int, ...], classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.field = 50 * torch.randn(classes, *patch, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.field * x.mean(1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    patch=st.tuples(*[st.integers(1, 8)] * 3),
    dims=st.sampled_from([2, 3]),
    classes=st.integers(1, 5),
    step=st.floats(0.2, 1),
    window_batch=st.integers(1, 5),
)
def test_sums_are_those_of_a_plain_loop_in_float64(shape, patch, dims, classes, step, window_batch) -> None:
    patch = patch[-dims:]
    image, network = torch.randn(2, *shape), ByPlace(patch, classes)
    got = predict_sliding_window(network, image, patch, classes, step=step, window_batch=window_batch)

    padded, inner = pad_to_patch(image, patch)
    size = padded.shape[1:]
    weights = gaussian_weights(patch).double()
    total, weight_sum = torch.zeros(classes, *size, dtype=torch.double), torch.zeros(size, dtype=torch.double)
    for z in range(size[0]) if dims == 2 else [slice(None)]:
        volume, sums, shares = padded[:, z], total[:, z], weight_sum[z]  # views of the slice, or of all
        for start in itertools.product(*map(lambda n, p: window_starts(n, p, step), size[-dims:], patch)):
            window = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
            answer = network(volume[(slice(None), *window)][None])[0].double()
            sums[(slice(None), *window)] += weights * answer
            shares[window] += weights
    expected = (total / weight_sum)[(slice(None),) * (4 - dims) + inner]
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    patch=st.tuples(*[st.integers(1, 6)] * 3),
    dims=st.sampled_from([2, 3]),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    data=st.data(),
)
def test_one_voxel_that_is_no_number_is_found_where_it_is(shape, patch, dims, value, data) -> None:
    voxel = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    image = torch.ones(1, *shape)
    image[(0, *voxel)] = value
    place = re.escape(f"at voxel {voxel} (z, y, x")
    with pytest.raises(FloatingPointError, match=f"class [01] {place}.*is itself not finite"):
        predict_sliding_window(Pointwise(), image, patch[-dims:], 2, window_batch=data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("shape", [(5, 9, 7), (12, 9, 10)])
def test_the_layout_of_a_networks_maps_changes_nothing(shape: tuple[int, ...]) -> None:
    network, image = ByPlace((6, 4, 5), 3), torch.randn(1, *shape)
    last = predict_sliding_window(
        lambda x: network(x).to(memory_format=torch.channels_last_3d), image, (6, 4, 5), 3, window_batch=2
    )
    assert torch.equal(last, predict_sliding_window(network, image, (6, 4, 5), 3, window_batch=2))


def test_an_ensemble_is_the_mean_of_its_networks() -> None:
    networks = [Says(torch.tensor(values)) for values in ([0.0, 3.0], [1.0, 0.0], [2.0, 0.0])]
    logits = predict_sliding_window(ensemble(networks), torch.zeros(1, 5, 6, 7), (4, 4, 4), 2)
    assert torch.allclose(logits, torch.ones(2, 5, 6, 7), atol=1e-6)


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_mirroring_goes_over_the_axes_given_and_leaves_the_patches_as_they_are(axes: tuple[int, ...]) -> None:
    seen = []
    patches = torch.randn(1, 1, 3, 4, 5)
    before = patches.clone()
    result = mirrored(lambda x: seen.append(x.clone()) or x, axes)(patches)
    torch.testing.assert_close(result, before)  # each flip is undone
    assert torch.equal(patches, before) and len(seen) == 2 ** len(axes)
    for one in seen:
        assert any(
            torch.equal(one, before.flip([axis + 2 for axis in flipped]))
            for n in range(len(axes) + 1)
            for flipped in itertools.combinations(axes, n)
        )
