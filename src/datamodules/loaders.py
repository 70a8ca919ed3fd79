"""From the store to batches: the loaders of a data module, and where their patches are augmented."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import blosc2
import lightning as L
import torch
import torchio as tio
from torch.utils.data import DataLoader

from umamba.datamodules.at_work import AtWork
from umamba.datamodules.augmentation.device.chain import Collate, DeviceChain
from umamba.datamodules.augmentation.device.ring import Ring
from umamba.datamodules.augmentation.device.stream import DeviceAugmenter
from umamba.datamodules.augmentation.previous_stage import CASCADE_TRANSFORMS, with_cascade_transforms
from umamba.datamodules.open_cases import room_for_cases
from umamba.datamodules.patches import PatchDataset
from umamba.datamodules.placement import Placement, WatchedLoader
from umamba.datamodules.sampling import EpochSampler, share_of
from umamba.datamodules.shared_memory import PREFETCH, batch_bytes, check_shared_memory, make_ring, validation_workers
from umamba.planning.configuration import Configuration
from umamba.planning.plan import Plan
from umamba.planning.store import Store
from umamba.processes import become_worker
from umamba.typed import has_type, is_whole

log = logging.getLogger(__name__)

_DRAWS = 1 << 16  # bytes, the most that a sample's draws take but for very long patches, whose batches go torch's way


class PatchDataModule(L.LightningDataModule):
    """Batches of patches of the cases of a store; `SegmentationDataModule` makes plan and store, and names the cases.

    Args:
        augmentation: Transforms in order, or a mapping of named ones; null for none, also as an entry. An entry that
            still needs to know the patch is a partial, called with ``patch_size``.
        num_workers: Processes that prepare cases and make batches; 0 works in the main process.
        iterations_per_epoch: Training batches per epoch.
        val_iterations: Validation batches per epoch, the same ones in every epoch.
        oversample: Share of a batch that is centred on foreground.
        seed: What sampling and augmentation draw from.
        augment_on: "cpu": the workers augment; "cuda": the GPU does; "auto": the GPU where the workers fall short.
        patch_size: Voxels along each axis of the patch, instead of the plan's.
        patch_multiple: Patch axes are rounded up to a multiple of this, for networks that need it.
        batch_size: Patches per step over all processes, instead of the plan's.

    Attributes:
        plan, plan_configuration, store, train_ids, val_ids: As those of `SegmentationDataModule`, which sets them.
        placement: Where patches are augmented.
        at_work: What the workers of the loaders are making, by whether the loader is for training.
    """

    plan: Plan
    plan_configuration: Configuration
    store: Store
    train_ids: tuple[str, ...]
    val_ids: tuple[str, ...]

    def __init__(
        self,
        *,
        augmentation: Sequence[Any] | Mapping[str, Any] | None = (),
        num_workers: int = 0,
        iterations_per_epoch: int = 250,
        val_iterations: int = 50,
        oversample: float = 0.33,
        seed: int = 0,
        augment_on: str = "cpu",
        patch_size: Sequence[int] | None = None,
        patch_multiple: int = 1,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.placement = Placement(augment_on)
        chosen = augmentation.values() if isinstance(augmentation, Mapping) else augmentation or ()
        self.augmentation = [transform for transform in chosen if transform is not None]
        _check_counts(num_workers=num_workers, iterations_per_epoch=iterations_per_epoch, val_iterations=val_iterations)
        self.num_workers = num_workers
        self.iterations_per_epoch = iterations_per_epoch
        self.val_iterations = val_iterations
        _check_sizes(patch_size=patch_size, patch_multiple=patch_multiple, batch_size=batch_size)
        if isinstance(oversample, bool) or not 0 <= oversample <= 1:
            raise ValueError(f"data.oversample is a share of the batch, 0 to 1; it is {oversample}.")
        if batch_size is not None and not is_whole(batch_size, 1):
            raise ValueError(f"data.batch_size={batch_size}: expected a whole number from 1, or null for the plan's.")
        self.oversample = oversample
        self.seed = seed
        self.patch_size = patch_size
        self.patch_multiple = patch_multiple
        self.batch_size = batch_size
        self.at_work: dict[bool, AtWork] = {}

    def build_augmentation(self) -> None:
        """Build the transforms for the patch of `plan_configuration`, and share them out between workers and device.

        Raises:
            ValueError: An entry of `augmentation` is no transform, or of a cascade where there is none; or a cascade is
                to be augmented on the GPU.
        """
        self._transforms = [self._build(entry) for entry in self.augmentation]
        if self.plan_configuration.previous_stage is not None:
            self.placement.keep_on_cpu("what a cascade's previous stage segmented is augmented on the CPU alone")
            self._transforms = with_cascade_transforms(self._transforms)
        elif wrong := [one.name for one in self._transforms if isinstance(one, CASCADE_TRANSFORMS)]:
            raise ValueError(
                f"augmentation has {', '.join(wrong)}, of what the previous stage of a cascade segmented; "
                f"{self.plan_configuration.name} has no previous stage. Leave it out."
            )
        masked = [c for c, masked in enumerate(self.plan_configuration.use_mask_for_norm) if masked]
        self._chain = DeviceChain(self._transforms, self.plan_configuration.patch_size, masked)
        self._augmenter = DeviceAugmenter(self._chain)

    def check_shared_memory(self) -> None:
        """Refuse, before any case is preprocessed, workers whose batches do not fit into /dev/shm.

        Raises:
            MemoryError: As it says.
        """
        enlarged = self.placement.choice != "cpu" and torch.cuda.is_available()
        check_shared_memory(self._batch_bytes(enlarged=enlarged), self.num_workers)

    def train_dataloader(self) -> DataLoader:
        """Augmented patches, `iterations_per_epoch` batches of them.

        Where the device augments, batches have "pending" instead of image and label; `transfer_batch_to_device`
        finishes them.

        Raises:
            ValueError: augment_on is "cuda" and the run is on another device.
        """
        if self.placement.choice != "cpu":
            anew = self.trainer is not None and progress(self.trainer) == (0, 0)
            self.placement.begin(self._device(), self._chain, anew=anew)
        return self._loader(self.train_ids, self._transforms, self.iterations_per_epoch, training=True)

    def val_dataloader(self) -> DataLoader:
        """Patches as they are, the same `val_iterations` batches in every epoch."""
        return self._loader(self.val_ids, [], self.val_iterations, training=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Lightning's copying, after which a pending batch is augmented."""
        if "pending" not in batch:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        finished = {**self._augmenter(batch["pending"], device), "case": batch["case"]}
        return finished if self.trainer is None else self.trainer.precision_plugin.convert_input(finished)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: where patches are augmented."""
        return self.placement.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the run that wrote the checkpoint."""
        self.placement.load_state_dict(state_dict)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _loader(
        self, identifiers: Sequence[str], transforms: Sequence[tio.Transform], num_batches: int, *, training: bool
    ) -> DataLoader:
        self._refuse_without_previous()
        rank, world_size, epoch, done = 0, 1, 0, 0
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            epoch, done = progress(self.trainer)
        workers = self.num_workers if training else validation_workers(self.num_workers)
        share, room = share_of(self.plan_configuration.batch_size, rank, world_size), self._room(world_size)
        keep = not training and self._kept_bytes(num_batches, share, workers) <= room
        if training:
            log.info("Up to %.1f GiB of patches and small cases are kept in memory by each worker.", room / 2**30)
        dataset = PatchDataset(
            self.store,
            identifiers,
            configuration=self.plan_configuration,
            transforms=transforms,
            num_samples=num_batches * self.plan_configuration.batch_size,
            oversample=self.oversample,
            seed=2 * self.seed + (not training),  # validation draws other numbers than training
            chain=self._chain if training else None,
            first_on_device=self.placement.first if training else None,
            room_for_cases=0 if keep else room,
        )
        dataset.kept = {} if keep else None
        sampler = EpochSampler(
            num_batches=num_batches,
            batch_size=self.plan_configuration.batch_size,
            rank=rank,
            world_size=world_size,
            advance=training,
            skip_batches=done if training else 0,
        )
        # Lightning sets the epoch too, but on resuming only after the workers have begun to draw.
        sampler.set_epoch(epoch)
        dataset.at_work = self.at_work[training] = AtWork(workers, dataset.case_of)
        ring = self._make_ring(workers, rank, world_size, training=training)
        loader = WatchedLoader(
            dataset,
            sampler=sampler,
            collate_fn=Collate(self._chain, ring),
            batch_size=share,
            num_workers=workers,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available() and ring is None,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers > 0 else None,
            generator=torch.Generator(),  # the loader seeds its workers: not from the generator that the network uses
        )
        loader.at_work = dataset.at_work
        if training:
            self.placement.watch(loader, sampler, self.trainer)
        return loader

    def _refuse_without_previous(self) -> None:
        """See that a stage of a cascade has what the one before it segments (else ValueError)."""
        entry = self.plan_configuration
        if entry.previous_stage is not None and self.store.previous is None:
            raise ValueError(
                f"{entry.name} is trained with what {entry.previous_stage} segments, which the store lacks. Train it "
                "with train.py, or see umamba.cascade.training."
            )

    def _make_ring(self, workers: int, rank: int, world_size: int, *, training: bool) -> Ring | None:
        """Memory in which batches travel to a GPU; None without one, without workers, and where there is no room."""
        if self.trainer is None or not workers or self._device().type != "cuda":
            return None
        batch_size = self.plan_configuration.batch_size
        each = self._batch_bytes(enlarged=training and self.placement.choice != "cpu") // batch_size + _DRAWS
        return make_ring(each * share_of(batch_size, rank, world_size), workers, world_size)

    def _batch_bytes(self, *, enlarged: bool) -> int:
        size = self._chain.stages[0].transform.input_size if enlarged and self._chain.turns else ()
        return batch_bytes(self.plan_configuration, self.plan.num_inputs(self.plan_configuration.name), size)

    def _room(self, world_size: int) -> int:
        """Bytes that each process of both loaders may keep."""
        return room_for_cases((self.num_workers + validation_workers(self.num_workers) or 1) * world_size)

    def _kept_bytes(self, batches: int, share: int, workers: int) -> int:
        """Of all samples that a process makes of so many batches, if none is augmented."""
        own = -(-batches // max(1, workers)) * share
        return own * self._batch_bytes(enlarged=False) // self.plan_configuration.batch_size

    def _build(self, entry: Any) -> tio.Transform:
        if isinstance(entry, tio.Transform):
            return entry
        try:
            return entry(patch_size=tuple(self.plan_configuration.patch_size))
        except TypeError as error:
            raise ValueError(
                "An entry of augmentation must be a torchio transform, or a `_partial_: true` one that takes "
                f"patch_size; {entry!r} is neither: {error}"
            ) from error


def progress(trainer: L.Trainer) -> tuple[int, int]:
    """The epoch that a new or resumed run begins with, and how many batches of it are done."""
    # Lightning declares the counters' base class, which has neither.
    epochs, batches = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress
    processed: int = epochs.processed  # type: ignore[attr-defined]
    started: int = epochs.started  # type: ignore[attr-defined]
    if processed < started and not batches.is_last_batch:
        return processed, batches.current.processed  # type: ignore[attr-defined]
    return started, 0


def _check_counts(**counts: int) -> None:
    for key, count in counts.items():
        least = 1 if key == "iterations_per_epoch" else 0
        if not is_whole(count, least):
            raise ValueError(f"data.{key} is {count!r}; expected a whole number, {least} or more.")


def _check_sizes(**sizes: Any) -> None:
    """Refuse what would be cut to a whole number; how large one may be the plan says."""
    for key, size in sizes.items():
        if key == "patch_size":
            sound, expected = has_type([*size] if isinstance(size, Sequence) else size, list[int]), "whole numbers"
        else:
            sound, expected = has_type(size, int), "a whole number"
        if size is not None and not sound:
            raise ValueError(f"data.{key} is {size!r}; expected {expected}.")


def start_worker(worker: int) -> None:
    """One thread per worker process: workers are the parallelism, and more threads only get in each other's way."""
    become_worker()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
