"""Whether the axes of an image are at right angles: a tilted gantry is refused, the rounding of a header is not.

SimpleITK refuses a NIfTI file whose sform alone says where it lies and is rounded to three decimals, as some programs
write it. Told to take it (ITK_NIFTI_SFORM_PERMISSIVE, a usual advice) it turns the image the other way: what it makes
the axes is the transpose of the rotation that is nearest to them (SimpleITK 2.5).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from umamba.raw.description import DatasetError
from umamba.raw.nifti_header import HEADER_DAMAGES, is_nifti, read_header, voxel_size

_OTHER_PLACE = 0.1  # mm: more than what rounding does
SHEAR = 2e-3  # largest product of two axes' directions: twice what headers round, see grids.DIRECTION_TOLERANCE
_EXACT = 1e-6  # of float32; what more ITK takes for none is between 1e-5 and 1e-3
_NONE_TO_ITK = 1e-5  # products that ITK takes for none whatever it is told
_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's x and y point the other way than ITK's


def check_right_angles(direction: np.ndarray, what: Path | str) -> None:
    """See that the axes of an image, the columns of its direction cosines, are at right angles (else DatasetError)."""
    if _shear(direction) > SHEAR:  # not of one that says nothing: NaN
        raise DatasetError(
            f"{what} has axes that are not at right angles, as of a tilted gantry (direction "
            f"{np.round(direction, 4).tolist()}); sizes and distances of its voxels are none of a grid of boxes, and "
            "NIfTI cannot hold it. Resample it to one, for instance in 3D Slicer."
        )


def sform_direction(path: Path) -> np.ndarray | None:
    """Direction cosines in ITK's order (3, 3) by the sform of a NIfTI file, put at right angles.

    Returns:
        By the qform, if that says the same, as ITK has them. None where there is no sform of three axes, or ITK may go
        by either.

    Raises:
        DatasetError: The axes are not at right angles, by more than a header rounds, or than its digits where a qform
            says the same; or they are rounded, and ITK takes them or a qform that says otherwise, as it is told.
    """
    if not is_nifti(path):
        return None
    try:
        header = read_header(path)
        axes = _axes(header)
    except HEADER_DAMAGES:
        return None  # which reading it says
    if axes is None:
        return None
    if header["qform_code"] > 0:
        turn, stated, sizes = _qform(header), header["sform"][:, :3].astype(float), np.asarray(voxel_size(header))
        agreed = (np.abs(turn * np.abs(sizes) - stated) <= _rounding(stated) + SHEAR * np.abs(sizes)).all()
        if not agreed:
            check_right_angles(_TO_LPS @ axes, path)
        if _shear(axes) > _NONE_TO_ITK and (not agreed or _apart(header) > _OTHER_PLACE):
            raise DatasetError(
                f"{path} lies {_apart(header):.3g} mm elsewhere by its qform than by its sform, whose numbers are "
                "rounded: programs take either. Make both equal (fslorient -copysform2qform, nibabel set_qform)."
            )
        return _TO_LPS @ turn if agreed and _shear(axes) > _EXACT else None
    check_right_angles(_TO_LPS @ axes, path)
    left, _, right = np.linalg.svd(axes)
    nearest: np.ndarray = _TO_LPS @ left @ right
    return nearest


def rounded_by(path: Path) -> float:
    """How far off right angles the sform of a NIfTI file that has no qform is; 0 where float32 can say no less."""
    header = read_header(path)
    axes = _axes(header)
    if header["qform_code"] > 0 or axes is None:
        return 0.0
    found = _shear(axes)
    return found if found > _EXACT else 0.0


def places(path: Path) -> tuple[float, str]:
    """How far apart a NIfTI file's sform and qform put a corner of the image, and which of the two ITK goes by.

    Returns:
        In voxels, 0 where only one of the two says where it lies; "sform" or "qform".
    """
    header = read_header(path)
    sizes = np.asarray(voxel_size(header))
    if min(header["sform_code"], header["qform_code"]) <= 0 or len(sizes) < 3 or not np.abs(sizes).min() > 0:
        return 0.0, "sform"
    return _apart(header) / float(np.abs(sizes).min()), "sform" if header["sform_code"] == 1 else "qform"


def _axes(header: np.void) -> np.ndarray | None:
    """Directions of the axes, in columns, by the sform of a header; None where it has none, or not of three axes."""
    stated, sizes = header["sform"][:, :3].astype(float), voxel_size(header)
    lengths = np.linalg.norm(stated, axis=0)
    finite = np.isfinite([*lengths, *sizes]).all() and lengths.all()
    return stated / lengths if header["sform_code"] > 0 and len(sizes) >= 3 and finite else None


def _apart(header: np.void) -> float:
    """The same in mm, of a header that has both; by the voxel size of the sform, which pixdim may contradict."""
    stated = header["sform"].astype(float)
    sizes = np.linalg.norm(stated[:, :3], axis=0)
    other = np.column_stack([_qform(header) * sizes, header["qoffset"].astype(float)])
    last = np.maximum(header["dim"][1:4].astype(float) - 1, 0)
    corners = np.array([[*(last * corner), 1] for corner in np.ndindex(2, 2, 2)])
    return float(np.linalg.norm(corners @ (stated - other).T, axis=1).max())


def _shear(direction: np.ndarray) -> float:
    return float(np.abs(direction.T @ direction - np.eye(len(direction))).max())


def _rounding(stated: np.ndarray) -> float:
    """By how much numbers may have been rounded, half of the last decimal that they have; 0 if that is one of many."""
    for decimals in range(6):
        if np.abs(stated - np.round(stated, decimals)).max() <= np.finfo(np.float32).eps * np.abs(stated).max():
            return 0.5 * 10.0**-decimals
    return 0.0


def _qform(header: np.void) -> np.ndarray:
    """Directions of the axes, in columns, by the quaternion of a header, as nifti1.h says."""
    b, c, d = header["quatern"].astype(float)
    a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    turn[:, 2] *= -1 if header["pixdim"][0] < 0 else 1
    return turn
