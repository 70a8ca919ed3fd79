"""The base of every data module: raw data set -> plan and store -> batches of augmented patches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import blosc2
import lightning as L
import torch
import torchio as tio
from torch.utils.data import DataLoader

from umamba.datamodules.at_work import AtWork
from umamba.datamodules.augmentation.device.chain import Collate, DeviceChain
from umamba.datamodules.augmentation.device.stream import DeviceAugmenter
from umamba.datamodules.doctor.quick import quick_check
from umamba.datamodules.patches import PatchDataset
from umamba.datamodules.placement import Placement, WatchedLoader
from umamba.datamodules.sampling import EpochSampler, share_of
from umamba.datamodules.shared_memory import PREFETCH, batch_bytes, check_shared_memory, validation_workers
from umamba.datamodules.splits import select_split
from umamba.planning.configuration import Configuration
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.prepare import prepare, prepare_plan, refuse_cascade, topology_edits
from umamba.planning.store import Store
from umamba.processes import become_worker
from umamba.raw.dataset import RawCase, RawDataset, refuse_raw_folders

log = logging.getLogger(__name__)


class SegmentationDataModule(L.LightningDataModule):
    """Batches of patches of a data set in nnU-Net's raw layout; planned and preprocessed when that is needed.

    A batch is a dict of "image" (B, C, *patch) float32, "label" (B, *patch) int16 and "case", a list of B names. Under
    distributed training B is the plan's batch size over all processes together, of which some may take one sample more
    than others; the trainer needs ``use_distributed_sampler=False``, for the sampler does the sharing.

    A data set is a subclass that sets the class attributes and overrides `make_raw`.

    Args:
        dataset_dir: Raw data set, the folder with dataset.json.
        prepared_dir: Where fingerprint, plan and preprocessed store are kept.
        configuration: Of the plan: "2d", "3d_fullres" or "3d_lowres".
        planning: Options of the planner.
        fold: Fold of the cross-validation, or "all": train on every case and validate with the same ones.
        split_by: Keeps cases of one patient or video in one fold, see `umamba.datamodules.splits.make_group_splits`.
        augmentation: Transforms in order, or a mapping of named ones; null for none, also as an entry. An entry that
            still needs to know the patch is a partial, called with ``patch_size``.
        num_workers: Processes that prepare cases and make batches; 0 works in the main process.
        iterations_per_epoch: Training batches per epoch.
        val_iterations: Validation batches per epoch, the same ones in every epoch.
        oversample: Share of a batch that is centred on foreground.
        seed: Of sampling and augmentation.
        patch_size: Instead of the plan's.
        patch_multiple: Patch axes are rounded up to a multiple of this, for networks that need it.
        batch_size: Instead of the plan's.
        augment_on: "cpu": the workers augment; "cuda": the GPU does; "auto": the GPU where the workers fall short.

    Attributes:
        plan: The plan, with a changed patch or batch size in it.
        topology_edits: Keys of the network's topology that were edited in plan.json.
        plan_configuration: The plan's configuration that is trained.
        store: The preprocessed training cases.
        raw: The raw data set.
        train_ids: Names of the cases trained on.
        val_ids: Names of the cases validated with.
        test_cases: Cases to predict and score: the test set if it has labels, else the validation cases.
    """

    task: Literal["semantic", "instances"] = "semantic"
    nsd_tolerance: float | Mapping[str, float] = 2.0

    plan: Plan
    topology_edits: list[str]
    plan_configuration: Configuration
    store: Store
    raw: RawDataset
    train_ids: tuple[str, ...]
    val_ids: tuple[str, ...]
    test_cases: tuple[RawCase, ...]

    def __init__(
        self,
        *,
        dataset_dir: Path | str,
        prepared_dir: Path | str,
        configuration: str = "3d_fullres",
        planning: PlannerOptions | Mapping[str, Any] | None = None,
        fold: int | Literal["all"] = 0,
        split_by: str | None = None,
        augmentation: Sequence[Any] | Mapping[str, Any] | None = (),
        num_workers: int = 0,
        iterations_per_epoch: int = 250,
        val_iterations: int = 50,
        oversample: float = 0.33,
        seed: int = 0,
        patch_size: Sequence[int] | None = None,
        patch_multiple: int = 1,
        batch_size: int | None = None,
        augment_on: str = "cpu",
    ) -> None:
        super().__init__()
        self.placement = Placement(augment_on)
        self.dataset_dir = Path(dataset_dir)
        self.prepared_dir = Path(prepared_dir)
        self.configuration = configuration
        self.planning = planning if isinstance(planning, PlannerOptions) else PlannerOptions.of(planning or {})
        self.fold = fold
        self.split_by = split_by
        chosen = augmentation.values() if isinstance(augmentation, Mapping) else augmentation or ()
        self.augmentation = [transform for transform in chosen if transform is not None]
        _check_counts(num_workers=num_workers, iterations_per_epoch=iterations_per_epoch, val_iterations=val_iterations)
        self.num_workers = num_workers
        self.iterations_per_epoch = iterations_per_epoch
        self.val_iterations = val_iterations
        if not 0 <= oversample <= 1:
            raise ValueError(f"data.oversample is a share of the batch, 0 to 1; it is {oversample}.")
        self.oversample = oversample
        self.seed = seed
        self.patch_size = patch_size
        self.patch_multiple = patch_multiple
        self.batch_size = batch_size
        self.at_work: dict[bool, AtWork] = {}  # of the loaders, by whether they are for training
        self._planned: Plan | None = None  # as it lies in the prepared folder
        self._prepared = False

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Create, convert or download the raw data set into `dataset_dir`; called if there is no dataset.json.

        Args:
            source: Archive or folder as the owners distribute it; None generates or downloads where that can be done.
            incomplete: Accept another number of cases than the owners state.

        Raises:
            FileNotFoundError: It cannot be made here; the message says what to get and where to put it.
        """
        raise FileNotFoundError(
            f"There is no raw data set at {self.dataset_dir} (no dataset.json). Put one in nnU-Net's layout there, or "
            "point data.dataset_dir at it."
        )

    def make_plan(self) -> None:
        """Make what is missing or stale of raw data and plan, and open both; once. No case is preprocessed.

        Raises:
            FileNotFoundError: The raw data set is missing and cannot be made.
            ValueError: The raw data are faulty (`umamba.raw.dataset.DatasetError`), or a setting does not fit them.
        """
        if self._planned is not None:
            return
        refuse_cascade(self.configuration)  # before raw data are made or read
        refuse_raw_folders(self.prepared_dir, self.dataset_dir, "data.prepared_dir")
        if not hasattr(self, "raw"):
            self.open_raw()
        quick_check(self.raw)
        plan = prepare_plan(self.dataset_dir, self.prepared_dir, self.planning, max(1, self.num_workers))
        refuse_cascade(self.configuration, plan.configuration(self.configuration).previous_stage)
        self.topology_edits = topology_edits(self.prepared_dir, plan, self.configuration)
        self.plan, self.plan_configuration = self._adapt(plan)
        self._transforms = [self._build(entry) for entry in self.augmentation]
        masked = [c for c, masked in enumerate(self.plan_configuration.use_mask_for_norm) if masked]
        self._chain = DeviceChain(self._transforms, self.plan_configuration.patch_size, masked)
        self._augmenter = DeviceAugmenter(self._chain)
        self._planned = plan

    def prepare_data(self) -> None:
        """Make what is missing or stale of raw data, plan and store, and open all; once.

        Raises:
            FileNotFoundError, ValueError: As `make_plan`; or another process has planned anew since that was called.
        """
        if self._prepared:
            return
        self.make_plan()
        plan, self.store = prepare(
            self.dataset_dir, self.prepared_dir, self.configuration, self.planning, max(1, self.num_workers)
        )
        if plan != self._planned:
            raise ValueError(
                f"{self.prepared_dir / 'plan.json'} was changed while this run was starting. Start it again once the "
                "plan is settled."
            )
        log.info(
            "%s, %s, fold %s: %d cases to train on, %d to validate with, %d to test.",
            self.plan.dataset_name, self.configuration, self.fold, len(self.train_ids), len(self.val_ids),
            len(self.test_cases),
        )  # fmt: skip
        self._prepared = True

    def check_shared_memory(self) -> None:
        """Refuse, before any case is preprocessed, workers whose batches do not fit into /dev/shm.

        Raises:
            MemoryError: As it says.
        """
        on_device = self.placement.choice != "cpu" and torch.cuda.is_available() and self._chain.turns
        enlarged = self._chain.stages[0].transform.input_size if on_device else ()
        check_shared_memory(
            batch_bytes(self.plan_configuration, len(self.plan.channel_names), enlarged), self.num_workers
        )

    def open_raw(self) -> None:
        """Open the raw data set, made if it is missing, and share out its cases. Predicting and scoring need no more.

        Raises:
            FileNotFoundError, ValueError: As `prepare_data`.
        """
        if not (self.dataset_dir / "dataset.json").is_file():
            self.make_raw()
        self.raw = RawDataset.open(self.dataset_dir)
        identifiers = [case.identifier for case in self.raw.training_cases]
        split = select_split(identifiers, self.fold, (self.prepared_dir, self.dataset_dir), self.split_by)
        self.train_ids, self.val_ids = split.train, split.val
        self.test_cases = self._choose_test_cases()

    def setup(self, stage: str | None = None) -> None:
        """Open plan and store in a process in which `prepare_data` was not called."""
        self.prepare_data()

    def train_dataloader(self) -> DataLoader:
        """Augmented patches, `iterations_per_epoch` batches of them.

        Where the device augments, batches have "pending" instead of image and label; `transfer_batch_to_device`
        finishes them.

        Raises:
            ValueError: augment_on is "cuda" and the run is on another device.
        """
        if self.placement.choice != "cpu":
            anew = self.trainer is not None and _progress(self.trainer) == (0, 0)
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
        rank, world_size, epoch, done = 0, 1, 0, 0
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            epoch, done = _progress(self.trainer)
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
        )
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
        workers = self.num_workers if training else validation_workers(self.num_workers)
        dataset.at_work = self.at_work[training] = AtWork(workers, dataset.case_of)
        loader = WatchedLoader(
            dataset,
            sampler=sampler,
            collate_fn=Collate(self._chain),
            batch_size=share_of(self.plan_configuration.batch_size, rank, world_size),
            num_workers=workers,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers > 0 else None,
            generator=torch.Generator(),  # the loader seeds its workers: not from the generator that the network uses
        )
        loader.at_work = dataset.at_work
        if training:
            self.placement.watch(loader, sampler, self.trainer)
        return loader

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

    def _adapt(self, plan: Plan) -> tuple[Plan, Configuration]:
        """Put the patch and batch size asked for into the plan."""
        configuration = plan.configuration(self.configuration)
        wanted = configuration.patch_size if self.patch_size is None else self.patch_size
        if len(wanted) != configuration.spatial_dims:
            raise ValueError(
                f"data.patch_size={[*wanted]} has {len(wanted)} axes; {self.configuration} of this data set has "
                f"{configuration.spatial_dims}, such as the plan's {[*configuration.patch_size]}."
            )
        patch_size = tuple(-(-int(size) // self.patch_multiple) * self.patch_multiple for size in wanted)
        changes: dict[str, Any] = {"patch_size": patch_size}
        if self.batch_size is not None:
            changes["batch_size"] = int(self.batch_size)
        configuration = dataclasses.replace(configuration, **changes)
        configurations = {**plan.configurations, self.configuration: configuration}
        return dataclasses.replace(plan, configurations=configurations), configuration

    def _choose_test_cases(self) -> tuple[RawCase, ...]:
        labelled = tuple(case for case in self.raw.test_cases if case.label is not None)
        if labelled:
            log.info("The test set are the %d labelled cases of imagesTs.", len(labelled))
            return labelled
        log.info("imagesTs has no labelled case: the test set are the %d validation cases.", len(self.val_ids))
        if self.fold == "all":
            log.warning("With data.fold=all these were trained on: their scores say nothing about new cases.")
        return tuple(case for case in self.raw.training_cases if case.identifier in set(self.val_ids))


def _progress(trainer: L.Trainer) -> tuple[int, int]:
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
        if not isinstance(count, int) or count < least:
            raise ValueError(f"data.{key} is {count!r}; expected a whole number, {least} or more.")


def _start_worker(worker: int) -> None:
    """One thread per worker process: workers are the parallelism, and more threads only get in each other's way."""
    become_worker()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
