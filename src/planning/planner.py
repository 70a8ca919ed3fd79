"""nnU-Net's self-configuration: fingerprint -> plan (Isensee et al. 2021; nnunetv2 2.1 and 2.8).

Rule "2.1" is what the U-Mamba paper's Table 2 was planned with; "2.8" lets 2D patches grow until two fill the GPU.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from umamba.planning.cascade import CASCADE, FULL, LOW, LOWRES_TRIGGER
from umamba.planning.configuration import Configuration
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.normalization import say_near_misses, scheme_for, uses_mask
from umamba.planning.options import PRESETS, PlannerOptions
from umamba.planning.plan import Plan, said_by
from umamba.planning.topology import ANISOTROPY, Topology, plain_unet_cost, plan_topology, residual_unet_cost
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetDescription

_INITIAL_VOXELS = {2: 2048**2, 3: 256**3}  # a start certainly too large
_REFERENCE_BATCH = {2: 12, 3: 2}  # batch sizes at which the reference values were measured
_MIN_BATCH = 2
_MAX_FEATURES = {2: 512, 3: 320}
_LOWRES_STEP = 1.03  # factor per step towards the low-resolution spacing
_LOWRES_MIN_RATIO = 2  # rule 2.8 drops a low resolution that saves less than this factor of voxels
_RESENC_BLOCKS = (1, 3, 4) + (6,) * 16


def plan_dataset(fingerprint: Fingerprint, description: DatasetDescription, options: PlannerOptions) -> Plan:
    """Plan a data set.

    Args:
        fingerprint: Spacings, shapes and intensities of the training cases.
        description: What dataset.json says; of an opened `RawDataset` the files are counted, else numTraining holds.
        options: The user's choices.
    """
    cases = len(description.training_cases) if isinstance(description, RawDataset) else description.num_training
    spacing = target_spacing(fingerprint)
    forward = transpose_order(spacing)
    backward = (forward.index(0), forward.index(1), forward.index(2))
    shapes = [
        resampled_shape(shape, old, spacing)
        for shape, old in zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True)
    ]
    median_shape = np.median(shapes, axis=0)[list(forward)]
    spacing = spacing[list(forward)]
    num_voxels = float(np.prod(median_shape) * cases)
    planner = _Planner(description, fingerprint, options)
    say_near_misses(description.channel_names, options.rule)

    configurations = {"2d": planner.configure("2d", spacing[1:], median_shape[1:], num_voxels, batch_dice=True)}
    if median_shape[0] != 1:
        full = planner.configure(FULL, spacing, median_shape, num_voxels, batch_dice=False)
        lowres = planner.low_resolution(full, spacing, median_shape, cases)
        configurations[FULL] = full
        if lowres is not None:
            full = dataclasses.replace(full, batch_dice=True)
            cascade = dataclasses.replace(full, name=CASCADE, previous_stage=LOW)
            configurations |= {FULL: full, LOW: lowres, CASCADE: cascade}
    return Plan(
        dataset_name=description.name,
        **said_by(description),
        rule=options.rule,
        preset=options.preset,
        memory_gb=float(planner.memory_gb),
        base_features=options.base_features,
        num_training=cases,
        transpose_forward=forward,
        transpose_backward=backward,
        intensities=fingerprint.intensities,
        original_median_spacing=fingerprint.median_spacing,
        original_median_shape=fingerprint.median_shape,
        configurations=configurations,
    )


def target_spacing(fingerprint: Fingerprint) -> np.ndarray:
    """Spacing of the full-resolution data, axes as in the files: the median, finer across thick slices."""
    spacings = np.asarray(fingerprint.spacings, dtype=np.float64)
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile(np.asarray(fingerprint.shapes_after_crop), 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest_allowed = max(target[others])
    if target[worst] > ANISOTROPY * finest_allowed and size[worst] * ANISOTROPY < min(size[others]):
        target[worst] = np.percentile(spacings[:, worst], 10)
        if target[worst] < finest_allowed:
            target[worst] = finest_allowed + 1e-5  # stays the coarsest axis
    return target


def transpose_order(spacing: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    """Coarsest axis first, the others in order."""
    worst = int(np.argmax(spacing))
    second, third = (axis for axis in range(3) if axis != worst)
    return worst, second, third


def resampled_shape(shape: Sequence[int], old: Sequence[float], new: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Shape after a change of spacing, rounded half to even; at least 1 voxel per axis.

    nnU-Net lets an axis vanish (shape 0) and fails later; one voxel is kept here.
    """
    return tuple(max(1, round(o / n * size)) for o, n, size in zip(old, new, shape, strict=True))


def reference_batch(dims: int) -> int:
    """The batch size at which nnU-Net measured its reference values."""
    return _REFERENCE_BATCH[dims]


class _Planner:
    """Plans the configurations of one data set: holds what is the same for all of them."""

    def __init__(self, description: DatasetDescription, fingerprint: Fingerprint, options: PlannerOptions) -> None:
        self.preset = PRESETS[options.preset]
        self.options = options
        self.memory_gb = self.preset.memory_gb if options.memory_gb is None else options.memory_gb
        self.num_labels = description.num_label_entries
        self.normalization = tuple(scheme_for(name, options.rule) for name in description.channel_names)
        ratio = fingerprint.median_relative_size
        self.use_mask = tuple(uses_mask(scheme, ratio) for scheme in self.normalization)

    def features(self, num_stages: int, dims: int) -> tuple[int, ...]:
        return tuple(min(_MAX_FEATURES[dims], self.options.base_features * 2**stage) for stage in range(num_stages))

    def cost(self, topology: Topology) -> int:
        patch, strides = topology.patch_size, topology.strides
        features = self.features(len(strides), len(patch))
        if self.preset.residual:
            return residual_unet_cost(patch, strides, features, self.num_labels, blocks=_RESENC_BLOCKS[: len(strides)])
        return plain_unet_cost(patch, strides, features, self.num_labels)

    def fit_patch(
        self, spacing: Sequence[float] | np.ndarray, median_shape: Sequence[float] | np.ndarray, reference: float
    ) -> tuple[Topology, int, str]:
        """The largest patch whose cost is within the reference, its cost, and why it is not larger.

        Args:
            spacing: mm, an entry per axis of the patch.
            median_shape: of the training cases at that spacing, voxels.
            reference: nnU-Net's estimate that the network may reach, voxels times channels.

        Raises:
            ValueError: even the smallest patch costs more.
        """
        spacing, dims = tuple(spacing), len(spacing)
        inverse = 1 / np.asarray(spacing, dtype=np.float64)
        initial = [round(edge) for edge in inverse * (_INITIAL_VOXELS[dims] / np.prod(inverse)) ** (1 / dims)]
        clipped = [min(edge, median) for edge, median in zip(initial, median_shape, strict=True)]
        topology = plan_topology(spacing, clipped)
        cost, shrunk = self.cost(topology), False
        # Rule 2.8 asks whether the smallest batch fits, not the reference batch; residual presets never did.
        relax = self.options.rule == "2.8" and not self.preset.residual
        share = _MIN_BATCH / _REFERENCE_BATCH[dims] if relax else 1.0
        while (cost / _REFERENCE_BATCH[dims] * _MIN_BATCH if relax else cost) > reference:
            shares = [edge / median for edge, median in zip(topology.patch_size, median_shape, strict=True)]
            by_share = [int(axis) for axis in np.argsort(shares, kind="stable")]
            shrinkable = [axis for axis in by_share if topology.patch_size[axis] > topology.divisor[axis]]
            if not shrinkable:
                raise ValueError(
                    f"No patch fits {self.memory_gb} GB at base_features {self.options.base_features}: even "
                    f"{topology.patch_size} costs {cost * share:.3g} of {reference:.3g}. Raise planning.memory_gb or "
                    "lower planning.base_features."
                )
            axis = shrinkable[-1]
            patch = list(topology.patch_size)
            # The divisor after a trial step counts, so that sizes such as 224 between 256 and 192 are not skipped.
            patch[axis] -= topology.divisor[axis]
            step = plan_topology(spacing, patch).divisor[axis]
            patch[axis] = topology.patch_size[axis] - step
            topology = plan_topology(spacing, patch)
            cost, shrunk = self.cost(topology), True
        if shrunk:
            reason = f"shrunk until its cost fits {self.memory_gb:g} GB (rule {self.options.rule})"
        elif any(edge > median for edge, median in zip(initial, median_shape, strict=True)):
            reason = "covers the median case along its clipped axes; memory is not the limit"
        else:
            reason = f"nnU-Net's largest starting patch, {_INITIAL_VOXELS[dims]:,} voxels; memory is not the limit"
        return topology, cost, reason

    def configure(
        self,
        name: str,
        spacing: Sequence[float] | np.ndarray,
        median_shape: Sequence[float] | np.ndarray,
        num_voxels: float,
        *,
        batch_dice: bool,
    ) -> Configuration:
        """Patch, topology and batch of one configuration, axes already transposed."""
        dims = len(spacing)
        reference = self.preset.reference[dims] * (self.memory_gb / self.preset.memory_gb)
        topology, cost, patch_reason = self.fit_patch(spacing, median_shape, reference)
        by_memory = round(reference / cost * _REFERENCE_BATCH[dims])
        by_share = round(num_voxels * self.preset.max_share / math.prod(topology.patch_size))
        batch_size = max(min(by_memory, by_share), _MIN_BATCH)
        if min(by_memory, by_share) < _MIN_BATCH:
            batch_reason = f"the smallest allowed (memory gives {by_memory}, the data set's size {by_share})"
        elif by_share < by_memory:
            batch_reason = f"{self.preset.max_share:.0%} of the data set's voxels (memory gives {by_memory})"
        else:
            batch_reason = f"memory ({self.memory_gb:g} GB)"
        stages = len(topology.strides)
        encoder = _RESENC_BLOCKS[:stages] if self.preset.residual else (2,) * stages
        return Configuration(
            name=name,
            patch_size=topology.patch_size,
            batch_size=batch_size,
            spacing=_floats(spacing),
            median_shape=_floats(median_shape),
            strides=topology.strides,
            kernel_sizes=topology.kernel_sizes,
            features_per_stage=self.features(stages, dims),
            n_conv_per_stage=encoder,
            n_conv_per_stage_decoder=(1 if self.preset.residual else 2,) * (stages - 1),
            residual_encoder=self.preset.residual,
            normalization=self.normalization,
            use_mask_for_norm=self.use_mask,
            batch_dice=batch_dice,
            data_identifier=name,
            estimate=cost,
            reference=int(reference),
            patch_reason=patch_reason,
            batch_reason=batch_reason,
        )

    def low_resolution(
        self, full: Configuration, spacing: np.ndarray, median_shape: np.ndarray, cases: int
    ) -> Configuration | None:
        """The 3d_lowres configuration if a full-resolution patch sees too little of a case, else None."""
        lowres = spacing.copy()
        voxels = float(np.prod(median_shape))
        patch_voxels, configuration = math.prod(full.patch_size), None
        while patch_voxels / voxels < LOWRES_TRIGGER:
            much_finer = lowres.max() / lowres > 2
            lowres[much_finer if much_finer.any() else slice(None)] *= _LOWRES_STEP
            shape = spacing / lowres * median_shape
            voxels = float(np.prod(shape))
            rounded = [round(edge) for edge in shape]
            configuration = self.configure(LOW, lowres, rounded, voxels * cases, batch_dice=False)
            patch_voxels = math.prod(configuration.patch_size)
        if self.options.rule == "2.8" and float(np.prod(median_shape)) / voxels < _LOWRES_MIN_RATIO:
            return None
        return configuration


def _floats(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
