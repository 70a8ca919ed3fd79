"""Laws of the sliding window: every voxel covered, cut and merged again is the identity, mirroring averages."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.inference.sliding_window import gaussian_weights, pad_to_patch, predict_sliding_window, window_starts


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
        Pointwise(), image, patch[-dims:], num_classes=2, window_batch=window_batch, mirror=mirror
    )
    torch.testing.assert_close(logits, torch.cat([image, 2 * image + 1]), rtol=1e-4, atol=1e-5)


def test_mirroring_averages_over_all_flips() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 6, 6, 6)
    with torch.no_grad():
        got = predict_sliding_window(network, image, (6, 6, 6), 2, mirror=True)
        flips = [c for n in range(4) for c in itertools.combinations((1, 2, 3), n)]
        expected = sum(network(image.flip(f)[None])[0].flip(f) for f in flips) / 8
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_symmetric_and_undone() -> None:
    image = torch.ones(1, 3, 4)
    padded, inner = pad_to_patch(image, (8, 4))
    assert padded.shape == (1, 8, 4)
    assert padded[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert torch.equal(padded[(slice(None), *inner)], image)


def test_progress_reports_every_window() -> None:
    seen = []
    predict_sliding_window(
        Pointwise(), torch.zeros(1, 3, 8, 8), (4, 4), 2, window_batch=4, progress=lambda *counts: seen.append(counts)
    )
    assert seen[-1] == (27, 27)  # 3 slices of 3 x 3 windows
