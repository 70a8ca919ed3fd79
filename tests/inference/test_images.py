"""Images in memory: what goes in as an array, a tensor or a SimpleITK image comes out as one, on its own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.inference.small import make_plan, save_checkpoint
from umamba.inference.predictor import Predictor
from umamba.raw.description import DatasetError

SPACING = (1.5, 1.0, 0.8)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "a.ckpt"
    return Predictor.from_checkpoint(save_checkpoint(path, make_plan(forward=(2, 0, 1), classes=3)), "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    plan = make_plan(("R", "G", "B"), patch=(8, 8), ending=".png", classes=3)
    return Predictor.from_checkpoint(save_checkpoint(tmp_path_factory.mktemp("model") / "a.ckpt", plan), "cpu")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(1, 100, shape).astype(np.float32)


def turned(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-5.0, 7.0, 11.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    return image


def objects() -> sitk.Image:
    """SimpleITK's label map, run lengths whose voxels it cannot give."""
    return sitk.LabelImageToLabelMap(sitk.Image(8, 8, 8, sitk.sitkUInt8))


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(8, 8), torch.zeros(4, 8)])


def sheared() -> sitk.Image:
    image = sitk.Image(8, 8, 8, sitk.sitkFloat32)
    image.SetDirection((1, 0, 0.5, 0, 1, 0, 0, 0, 1))
    return image


def test_every_kind_gives_the_label_map_of_the_file(volumes: Predictor, tmp_path: Path) -> None:
    array = noise(9, 12, 11)
    image = turned(array)
    sitk.WriteImage(image, tmp_path / "scan.nii.gz")
    expected, _ = volumes.predict([tmp_path / "scan.nii.gz"])
    assert len(np.unique(expected)) > 1
    before = array.copy()
    for given in (array, array[None], array.astype(np.float64), torch.from_numpy(array)):
        label = volumes.segment(given, SPACING)
        assert type(label) is type(given) and np.array_equal(np.asarray(label), expected)
    label = volumes.segment(image)
    assert np.array_equal(sitk.GetArrayFromImage(label), expected)
    for property_of in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(label, property_of)() == getattr(image, property_of)()
    assert np.array_equal(array, before)


def test_probabilities_come_on_the_same_grid(volumes: Predictor) -> None:
    array = noise(9, 12, 11)
    label, probabilities = volumes.segment(array, SPACING, probabilities=True)
    assert probabilities.shape == (3, 9, 12, 11) and probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=3e-3)
    best = np.sort(probabilities, 0)
    clear = best[-1] - best[-2] > 0.01  # float16 has few numbers
    assert np.array_equal(label[clear], probabilities.argmax(0)[clear]) and clear.mean() > 0.5
    _, image = volumes.segment(turned(array), probabilities=True)
    assert image.GetNumberOfComponentsPerPixel() == 3 and image.GetDirection() == turned(array).GetDirection()
    np.testing.assert_array_equal(np.moveaxis(sitk.GetArrayFromImage(image), -1, 0), probabilities)


def test_pictures_and_several_channels(pictures: Predictor, tmp_path: Path) -> None:
    array = noise(3, 20, 17)
    label = pictures.segment(array, (1, 1))
    assert label.shape == (20, 17)
    as_list = [sitk.GetImageFromArray(channel) for channel in array]
    as_vector = sitk.GetImageFromArray(np.moveaxis(array, 0, -1), isVector=True)
    for given in (as_list, as_vector):
        assert np.array_equal(sitk.GetArrayFromImage(pictures.segment(given)), label)
    tensor = pictures.segment(torch.from_numpy(array), (1, 1))
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), label)


@pytest.mark.parametrize(
    ("image", "spacing", "error", "message"),
    [
        ("scan.nii.gz", SPACING, TypeError, "Expected a NumPy array, a torch tensor, a SimpleITK image.*got str"),
        ([], SPACING, TypeError, "got list"),
        (noise(8, 8, 8), None, ValueError, "spacing is None; an array needs its voxel size"),
        (noise(8, 8, 8), (1.0,), ValueError, "an array needs its voxel size"),
        (noise(8, 8, 8), (1.0, 0.0, 1.0), ValueError, "expected numbers > 0"),
        (noise(8, 8, 8), (1.0, float("nan"), 1.0), ValueError, "expected numbers > 0"),
        (noise(8, 8), SPACING, ValueError, r"shape \(8, 8\), which does not go with the spacing .*3 axes, or 4"),
        (noise(2, 8, 8, 8), SPACING, ValueError, "has 2 channels, the plan of Small expects 1 .*first axis"),
        (noise(8, 8), (1.0, 1.0), ValueError, "The image is 2D; the network was trained in 3D"),
        (noise(0, 8, 8), SPACING, ValueError, "has no voxel"),
        (np.full((8, 8, 8), np.nan), SPACING, ValueError, "NaN or infinite"),
        (np.full((8, 8, 8), 1j), SPACING, ValueError, "holds complex128; expected numbers"),
        (torch.full((8, 8, 8), 1j).conj(), SPACING, ValueError, "holds complex64; expected numbers"),
        (torch.zeros(8, 8, 8, device="meta"), SPACING, ValueError, "a tensor without values; expected a dense one"),
        (torch.ones(8, 8, 8).to_sparse(), SPACING, ValueError, "a tensor of layout torch.sparse_coo .*as to_dense"),
        (nested(), SPACING, ValueError, "a tensor of layout nested"),
        (sheared(), None, DatasetError, "The image has axes that are not at right angles"),
        (turned(noise(8, 8, 8)), SPACING, ValueError, "has a spacing of its own"),
        (objects(), None, ValueError, "holds label of 8-bit unsigned integer; expected numbers"),
    ],
)  # fmt: skip
def test_what_is_no_image_of_the_network_is_refused(volumes, image, spacing, error, message) -> None:
    with pytest.raises(error, match=message):
        volumes.segment(image, spacing)


def test_channels_on_different_grids_are_refused(pictures: Predictor) -> None:
    one, other = sitk.Image(8, 9, sitk.sitkFloat32), sitk.Image(8, 9, sitk.sitkFloat32)
    other.SetSpacing((2.0, 1.0))
    with pytest.raises(DatasetError, match="The channels differ in size, spacing or direction"):
        pictures.segment([one, one, other])


def test_channels_that_lie_apart_are_refused(pictures: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    one, other = sitk.Image(8, 9, sitk.sitkFloat32), sitk.Image(8, 9, sitk.sitkFloat32)
    one[0, 0] = other[0, 0] = 1.0
    other.SetOrigin((0.0, 0.5))
    pictures.segment([one, one, other])
    assert caplog.messages == ["The channels lie 0.50 voxels apart; they are taken voxel by voxel as if they did not."]
    other.SetOrigin((0.0, -50.0))
    with pytest.raises(DatasetError, match="The channels lie 50.00 voxels apart"):
        pictures.segment([one, one, other])


def test_odd_shapes(volumes: Predictor) -> None:
    """One voxel thick, smaller than the patch, and one voxel."""
    for shape in ((1, 12, 11), (3, 2, 5), (1, 1, 1), (5, 1, 30)):
        assert volumes.segment(noise(*shape), SPACING).shape == shape
        assert volumes.segment(np.zeros(shape, np.int16), SPACING).shape == shape
    reversed_view = noise(9, 12, 11)[::-1, ::2]
    assert np.array_equal(volumes.segment(reversed_view, SPACING), volumes.segment(reversed_view.copy(), SPACING))


@pytest.mark.parametrize(
    "spacing",
    ["111", b"111", "abc", 1.0, ("a", 1, 1), (None, 1, 1), (1,), (1, 1, 1, 1), None, [[1, 1, 1]], {1.0, 2.0, 3.0}],
)
def test_a_spacing_that_is_none_is_named(volumes: Predictor, spacing: object) -> None:
    with pytest.raises(ValueError, match=r"spacing is .*; an array needs its voxel size in mm"):
        volumes.segment(noise(9, 12, 11), spacing)  # type: ignore[arg-type]


def test_bfloat16_is_an_image_too(volumes: Predictor) -> None:
    array = torch.from_numpy(noise(9, 12, 11)).bfloat16()
    assert torch.equal(volumes.segment(array, SPACING), volumes.segment(array.float(), SPACING))


def test_however_an_array_lies_in_memory_it_is_the_same_image(volumes: Predictor) -> None:
    array = noise(9, 12, 11)
    expected = volumes.segment(array, SPACING)
    spread = np.zeros((18, 12, 33), np.float64)
    spread[::2, :, ::-3] = array
    for given in (np.asfortranarray(array), array[::-1].copy()[::-1], spread[::2, :, ::-3], array.astype(">f4")):
        np.testing.assert_array_equal(volumes.segment(given, SPACING), expected)
    tensor = torch.from_numpy(array)
    minus = torch.complex(tensor, -tensor).conj().imag  # a view whose sign is a bit of the tensor
    assert minus.is_neg()
    for one in (tensor.flip(2).flip(2), tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0), minus):
        np.testing.assert_array_equal(volumes.segment(one, SPACING), expected)


def test_what_would_be_lost_is_refused(volumes: Predictor) -> None:
    array = noise(9, 12, 11)
    with pytest.raises(TypeError, match=r"masked array.*image\.filled"):
        volumes.segment(np.ma.masked_array(array, array > 50), SPACING)
    real = turned(array)
    with pytest.raises(ValueError, match="The image holds complex"):
        volumes.segment(sitk.RealAndImaginaryToComplex(real, real))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e17, 3e36, 1e300])
def test_values_that_overflow_are_refused_and_give_no_empty_image(volumes: Predictor, scale: float) -> None:
    """Their deviation is infinite in float32, so that all of them would become 0."""
    array = noise(9, 12, 11).astype(np.float64) * scale
    with pytest.raises(ValueError, match=r"too large to be normalised in float32|beyond float32"):
        volumes.segment(array, SPACING)
    array[0, 0, 0] = -np.inf
    with pytest.raises(ValueError, match="NaN or infinite voxels"):
        volumes.segment(array, SPACING)
