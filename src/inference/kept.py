"""Probabilities and logits as files beside the label maps: arrays in NAME.npz, or probabilities/NAME.nii.gz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from umamba.files import atomic_file
from umamba.machine import require_memory
from umamba.raw.description import PICTURE_ENDINGS
from umamba.raw.readers import Geometry
from umamba.raw.volume_files import write_volume

_FOLDER = "probabilities"


def parse_probabilities(value: bool | str | None) -> str | None:
    """The kind of file that probabilities=... asks for, "npz" or "nifti"; None for none (else ValueError)."""
    kinds = {False: None, None: None, True: "npz", "npz": "npz", "nifti": "nifti"}
    if not isinstance(value, (bool, str, type(None))) or value not in kinds:  # 1 is not true
        raise ValueError(f"probabilities={value}: expected true or false, npz or nifti.")
    return kinds[value]


def check_kept(keep: Sequence[str], *, nifti: bool, file_ending: str) -> None:
    """See that the files can be written.

    Raises:
        ValueError: Probabilities of pictures are wanted as NIfTI, or it would do nothing.
    """
    if nifti and "probabilities" not in keep:
        raise ValueError("NIfTI files are of probabilities, which are not to be kept: keep has none.")
    if nifti and file_ending in PICTURE_ENDINGS:
        raise ValueError(
            f"probabilities=nifti: images of {file_ending} have no place in space that a NIfTI file could say. Use "
            "probabilities=npz, arrays on the image's grid."
        )


def kept_files(label_map: Path, name: str, keep: Sequence[str], *, nifti: bool) -> list[Path]:
    """The files beside the label map of a case, see `write_kept`."""
    volumes = [label_map.parent / _FOLDER / f"{name}.nii.gz"] if nifti else []
    arrays = [label_map.with_name(f"{name}.npz")] if set(keep) - ({"probabilities"} if nifti else set()) else []
    return [*arrays, *volumes]


def write_kept(kept: Mapping[str, np.ndarray], files: Sequence[Path], geometry: Geometry) -> None:
    """Write what was kept of a case.

    Args:
        kept: "probabilities", "logits": (K, Z, Y, X) float16.
        files: From `kept_files`; those ending with .npz get the arrays that no other file takes.
        geometry: Size, spacing and place of the image, which the NIfTI files get.

    Raises:
        MemoryError: A NIfTI file needs more than there is: float32, twice.
        OSError: The disk is full or cannot be written to.
    """
    volumes = [path for path in files if path.suffix != ".npz"]
    arrays = {name: values for name, values in kept.items() if name != "probabilities" or not volumes}
    for path in volumes:
        write_volume(_as_volume(kept["probabilities"], geometry), path)
    for path in set(files) - set(volumes):
        with atomic_file(path) as beside:
            np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]  # an array called allow_pickle there is none


def _as_volume(values: np.ndarray, geometry: Geometry) -> sitk.Image:
    """(x, y, z, class) in float32, for NIfTI has no shorter type; a 2D image lies at z = 0."""
    require_memory(8 * values.size, f"probabilities=nifti: {values.shape[0]} classes in float32 do not fit into memory")
    image = sitk.GetImageFromArray(values.astype(np.float32), isVector=False)
    n = geometry.dimension
    direction = np.eye(4)
    direction[:n, :n] = np.reshape(geometry.direction, (n, n))
    image.SetSpacing([*geometry.spacing[::-1][:n], *[1.0] * (4 - n)])
    image.SetOrigin([*geometry.origin, *[0.0] * (4 - n)])
    image.SetDirection(direction.ravel().tolist())
    return image
