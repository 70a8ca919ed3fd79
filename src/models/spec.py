"""What every network of the project is built from: the image it reads, the labels it writes, the plan's topology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umamba.models.topology import Size, check_topology


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Interface of the networks' constructors; they take these fields as keywords, beside keywords of their own.

    A network whose topology is its own (SegResNet, UNETR, SwinUNETR) leaves features, kernels and strides unused.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: number of labels, background included.
        features_per_stage: channels of each stage, highest resolution first.
        kernel_sizes, strides: one per stage, an int or one int per axis; the first stride is 1.
        patch_size: input size that training will use, voxels; checked against the strides.
        deep_supervision: whether the network returns the logits of every decoder stage.

    Raises:
        ValueError: `spatial_dims` is not 2 or 3, or a number of channels is not positive.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    features_per_stage: Sequence[int] = ()
    kernel_sizes: Sequence[int | Sequence[int]] = ()
    strides: Sequence[int | Sequence[int]] = ()
    patch_size: Sequence[int] | None = None
    deep_supervision: bool = True

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {self.spatial_dims!r}; allowed: 2, 3.")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more.")

    def stages(self) -> tuple[tuple[int, ...], list[Size], list[Size]]:
        """Features, kernel sizes and strides, one entry per stage and one int per axis (else ValueError)."""
        kernels, strides = check_topology(
            self.spatial_dims, self.features_per_stage, self.kernel_sizes, self.strides, self.patch_size
        )
        return tuple(self.features_per_stage), kernels, strides
