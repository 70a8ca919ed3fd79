"""The base of every data module: raw data set -> plan and store, of which the loaders make batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from umamba.datamodules.doctor.quick import quick_check
from umamba.datamodules.loaders import PatchDataModule
from umamba.datamodules.splits import select_split
from umamba.files import check_takes_files
from umamba.planning.cascade import previous_stage
from umamba.planning.edits import with_sizes
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.prepare import prepare, prepare_plan, topology_edits
from umamba.planning.store import Store, read_meta
from umamba.raw.dataset import RawCase, RawDataset, refuse_raw_folders
from umamba.raw.instances import grow_pixels
from umamba.words import listed

log = logging.getLogger(__name__)


class SegmentationDataModule(PatchDataModule):
    """Batches of patches of a data set in nnU-Net's raw layout; planned and preprocessed when that is needed.

    A batch is a dict of "image" (B, C, *patch) float32, "label" (B, *patch) int16 and "case", a list of B names. Under
    distributed training B is the plan's batch size over all processes together, of which some may take one sample more
    than others; the trainer needs ``use_distributed_sampler=False``, for the sampler does the sharing.

    A data set is a subclass that sets the class attributes and overrides `make_raw`.

    Args:
        dataset_dir: Raw data set, the folder with dataset.json.
        prepared_dir: Where fingerprint, plan and preprocessed store are kept.
        configuration: Which of the plan's: "2d", "3d_fullres", "3d_lowres" or "3d_cascade_fullres"; the last needs a
            store with what the previous stage segmented, see `umamba.cascade`.
        planning: Options of the planner, see `umamba.planning.options.PlannerOptions`.
        fold: Fold of the cross-validation, from 0 on, or "all": train on every case and validate with the same ones.
        split_by: Keeps cases of one patient or video in one fold, see `umamba.datamodules.splits.make_group_splits`.
        grow: Instance data only: px by which predicted instances are grown back over the boundary class to be scored.
        loading: How batches are made, see `PatchDataModule`.

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

    topology_edits: list[str]
    raw: RawDataset
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
        grow: float = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.dataset_dir = Path(dataset_dir)
        self.prepared_dir = Path(prepared_dir)
        self.configuration = configuration
        self.planning = planning if isinstance(planning, PlannerOptions) else PlannerOptions.of(planning or {})
        self.fold = fold
        self.split_by = split_by
        self.grow = self._own_growth(grow)
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

    def check_places(self) -> None:
        """See that what is missing can be written where it belongs, before anything is made.

        Raises:
            ValueError: The folder of the raw data, which are to be made, or that of the preparation cannot be written.
        """
        if not (self.dataset_dir / "dataset.json").is_file():
            check_takes_files(self.dataset_dir, "data.dataset_dir")
        if not self.prepared_dir.is_dir():  # what is prepared already may be read only
            check_takes_files(self.prepared_dir, "data.prepared_dir")

    def make_plan(self) -> None:
        """Make what is missing or stale of raw data and plan, and open both; once. No case is preprocessed.

        Raises:
            FileNotFoundError: The raw data set is missing and cannot be made.
            ValueError: The raw data are faulty (`umamba.raw.dataset.DatasetError`), or a setting does not fit them.
        """
        if self._planned is not None:
            return
        refuse_raw_folders(self.prepared_dir, self.dataset_dir, "data.prepared_dir")
        if not hasattr(self, "raw"):
            self.open_raw()
        quick_check(self.raw)
        plan = prepare_plan(self.dataset_dir, self.prepared_dir, self.planning, max(1, self.num_workers))
        previous_stage(plan.configurations, plan.configuration(self.configuration).name)  # refuses what is no cascade
        self.topology_edits = topology_edits(self.prepared_dir, plan, self.configuration)
        self.plan = with_sizes(
            plan,
            self.configuration,
            patch_size=self.patch_size,
            multiple=self.patch_multiple,
            batch_size=self.batch_size,
        )
        self.plan_configuration = self.plan.configuration(self.configuration)
        self.build_augmentation()
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
            "%s, %s, fold %s: %d training, %d validation and %d test cases.",
            self.plan.dataset_name, self.configuration, self.fold, len(self.train_ids), len(self.val_ids),
            len(self.test_cases),
        )  # fmt: skip
        say_absent_classes(self.store, self.plan, self.train_ids, self.val_ids)
        self._prepared = True

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

    def _own_growth(self, grow: float) -> float:
        pixels = grow_pixels(grow)
        if pixels and self.task != "instances":
            raise ValueError(
                f"data.grow={pixels} grows predicted instances (cells, nuclei) back over their boundary class; this "
                f"data set has none, it is scored by class (task {self.task}). Leave it out."
            )
        return pixels

    def _choose_test_cases(self) -> tuple[RawCase, ...]:
        labelled = tuple(case for case in self.raw.test_cases if case.label is not None)
        if labelled:
            log.info("Test set: the %d labelled cases of imagesTs.", len(labelled))
            return labelled
        log.info("Test set: the %d validation cases, because imagesTs has no labelled case.", len(self.val_ids))
        if self.fold == "all":
            log.warning("With fold=all these were trained on: their scores say nothing about new cases.")
        return tuple(case for case in self.raw.training_cases if case.identifier in set(self.val_ids))


def say_absent_classes(store: Store, plan: Plan, train: Sequence[str], val: Sequence[str]) -> None:
    """Warn of each class, or region, that no training case has, and say which ones no validation case has."""
    counts = {case: read_meta(store.folder / case)["locations"] for case in {*train, *val}}
    unseen = []
    for number, (name, values) in enumerate(plan.foreground.items(), start=1):
        key = str(number if plan.regions else values[0])
        if any(counts[case].get(key) for case in train):
            if not any(counts[case].get(key) for case in val):
                unseen.append(name)
            continue
        held_out = [case for case in val if counts[case].get(key)]
        where = f"; of those that are held out {listed(held_out, 5)} has it, and will be scored 0" if held_out else ""
        log.warning("No case that is trained on has %s: the network cannot learn it%s.", name, where)
    if unseen:
        log.info(
            "No validation case has %s: pseudo Dice and scores of this fold say nothing about it.", ", ".join(unseen)
        )
