"""Hydra's launchers of this program: ``hydra/launcher=serial``, ``gpus`` or ``slurm``.

Hydra itself runs the jobs of a sweep in one process, one after the other, and knows nothing of the sweep when it is
asked again. Here each is a process of its own, none is done twice, and `python -m umamba.sweep status` tells of all.
"""

from __future__ import annotations

import inspect
import logging
import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from umamba.machine import usable_cpus
from umamba.plain import plain
from umamba.run import ranks
from umamba.run.devices import CPU, Slot, find_devices, slots_of, workers_per_run
from umamba.run.jobs import run_jobs
from umamba.run.score import check_metric, score_of
from umamba.run.stop import goes_on_with
from umamba.run.sweep import argument, command_of, speaking_of
from umamba.run.unbegun import Before, remove_unbegun
from umamba.sweep.entry import Entry, SweepJob
from umamba.sweep.settings import check_settings
from umamba.sweep.slurm import check_options, submit
from umamba.typed import is_whole

log = logging.getLogger(__name__)

_MODULE = "hydra_plugins.umamba"
HERE = Slot(name="this machine")


class _SweepLauncher(Launcher):
    """Makes jobs of Hydra's overrides, and has those run that are not done."""

    config: DictConfig
    context: HydraContext
    script: Path

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config
        self.script = Path(inspect.getfile(inspect.unwrap(task_function))).resolve()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs of a sweep.

        Raises:
            ValueError: What is asked for cannot be done; nothing was started.
            Stopped: A signal ended the sweep; its jobs have ended too, with their checkpoints.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if ranks.started_outside() > 1:
            raise ValueError(
                f"torchrun or srun has started {ranks.started_outside()} processes, of which each would run this "
                "sweep. A sweep deals its jobs to processes itself: start it once, without torchrun and srun."
            )
        folder = Path(self.config.hydra.sweep.dir)
        try:
            if any(
                override.lstrip("+").startswith("run_dir=") for overrides in job_overrides for override in overrides
            ):
                raise ValueError(
                    "run_dir=... is given to a sweep, whose jobs get folders of their own: say hydra.sweep.dir=FOLDER, "
                    "with which the same command also goes on with what is left. hydra.sweep.subdir names the jobs."
                )
            configs = [self._config(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
            self.check(configs)
            jobs = self._jobs(configs)
            self.check_settings(configs, jobs)
        except Exception:
            remove_unbegun(folder, Before.there)
            raise
        for config, job in zip(configs, jobs, strict=True):
            asked = job.command[2:-1]  # without Python and script, nor where it is done
            task = list(config.hydra.overrides.task)
            job.entry.update(number=config.hydra.job.num, overrides=task, asked=asked)
        if not any(given.startswith("hydra.sweep.dir=") for given in self.config.hydra.overrides.hydra):
            goes_on_with(argument("hydra.sweep.dir", folder))  # the usual one has the time in its name
        waiting = [job for job in jobs if not job.entry.is_finished()]
        log.info("%d of %d job(s) to do in %s; how they stand: python -m umamba.sweep status %s", len(waiting),
                 len(jobs), folder, folder)  # fmt: skip
        failed = self.run(waiting)
        if failed:
            log.error("%d of %d job(s) failed; the same command with hydra.sweep.dir=%s does what is left.",
                      len(failed), len(jobs), folder)  # fmt: skip
        return [self._return(config, job, failed.get(job.name)) for config, job in zip(configs, jobs, strict=True)]

    def check(self, configs: Sequence[DictConfig]) -> None:
        """Refuse with a ValueError, before anything is started, what no job could do."""
        for config in configs:
            check_metric(config.get("optimized_metric"), test=config.test)

    def check_settings(self, configs: Sequence[DictConfig], jobs: Sequence[SweepJob]) -> None:
        """Refuse what the process of a job would refuse, but for what it says of the data, before one is started.

        Raises:
            ValueError, OSError, ImportError, HydraException: See `build_parts`.
        """

    @abstractmethod
    def run(self, jobs: Sequence[SweepJob]) -> dict[str, str]:
        """Run jobs; name -> why it failed."""

    def returned(self, config: DictConfig, job: SweepJob) -> float | None:
        """What a sweeper gets of a job that is done."""
        return score_of(job.entry.run_dir, config.optimized_metric) if config.get("optimized_metric") else None

    def _config(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _jobs(self, configs: Sequence[DictConfig]) -> list[SweepJob]:
        jobs = [self._job(config) for config in configs]
        names = [job.name for job in jobs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"hydra.sweep.subdir gives several jobs the folder {twice[0]}, in which one can train. Leave it "
                "out, or let it depend on all that the sweep varies."
            )
        return jobs

    def _job(self, config: DictConfig) -> SweepJob:
        with speaking_of(config):
            sweep, name = Path(config.hydra.sweep.dir).absolute(), str(config.hydra.sweep.subdir)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"hydra.sweep.subdir={name}: expected a folder below hydra.sweep.dir.")
        entry = Entry(sweep=sweep, name=name)
        command = command_of(self.script, config.hydra, config.hydra.overrides.task, entry.run_dir)
        return SweepJob(name=name, command=command, entry=entry)

    def _return(self, config: DictConfig, job: SweepJob, reason: str | None) -> JobReturn:
        """As Hydra and its sweepers want it: a job that failed raises where its value is asked for."""
        done = _Return(overrides=list(config.hydra.overrides.task), cfg=config)
        try:
            if reason is not None:
                raise RuntimeError(f"{job.name} failed: {reason}")
            done.return_value = self.returned(config, job)
            done.status = JobStatus.COMPLETED
        except (RuntimeError, ValueError, OSError) as error:
            done.return_value, done.status = error, JobStatus.FAILED
        return done


class _Return(JobReturn):
    """Hydra's, without the line that it writes of a job that failed: why it did was said by then."""

    @property
    def return_value(self) -> Any:
        """Its score, if one is asked for."""
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


class LocalLauncher(_SweepLauncher):
    """Jobs on this machine: one after the other, or dealt to its GPUs.

    Args:
        gpus: None: one job at a time, which has all that there is and says what it says here. Else each job sees one
            GPU and writes <sweep>/jobs/<job>.log: "auto" (all GPUs), numbers or UUIDs, or "cpu".
        per_gpu: Jobs on one GPU at a time.
    """

    def __init__(self, gpus: Any = None, per_gpu: int = 1) -> None:
        self.gpus, self.per_gpu = gpus, per_gpu

    def check(self, configs: Sequence[DictConfig]) -> None:
        """See the base."""
        super().check(configs)
        self.slots = [HERE] if self.gpus is None else self._dealt()
        several = [config.trainer.devices for config in configs if config.trainer.devices not in (1, "1")]
        if self.gpus is not None and several:
            raise ValueError(
                f"trainer.devices={several[0]} gives a job several GPUs, hydra/launcher=gpus gives each one. Leave one "
                "of the two out: without the launcher the jobs run one after the other, each on its GPUs."
            )

    def check_settings(self, configs: Sequence[DictConfig], jobs: Sequence[SweepJob]) -> None:
        """See the base. A job of SLURM runs on another machine, of which nothing is known here."""
        check_settings(configs, jobs)

    def _dealt(self) -> list[Slot]:
        if not is_whole(self.per_gpu, 1):
            raise ValueError(f"hydra.launcher.per_gpu={self.per_gpu}: expected how many jobs a GPU takes at a time.")
        gpus = plain(self.gpus)
        devices = find_devices(gpus)
        if gpus == "auto" and [device.name for device in devices] == [CPU]:
            raise ValueError(
                "hydra/launcher=gpus: there is no GPU that this process may see. Leave the launcher out to run "
                "the jobs one after the other, or say hydra.launcher.gpus=cpu and with "
                "hydra.launcher.per_gpu how many at a time."
            )
        slots = slots_of(devices, self.per_gpu)
        threads = str(max(1, usable_cpus() // len(slots)))
        shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if len(slots) > 1 else {}
        return [Slot(name=slot.name, environment={**shared, **slot.environment}) for slot in slots]

    def run(self, jobs: Sequence[SweepJob]) -> dict[str, str]:
        """See the base."""
        for job in jobs:
            if self.gpus is not None:
                job.log = job.entry.file(".log")
            if len(self.slots) > 1 and not any("data.num_workers=" in word for word in job.command):
                job.command = [*job.command, f"data.num_workers={workers_per_run(len(self.slots))}"]
        return run_jobs(jobs, self.slots)


class SlurmLauncher(_SweepLauncher):
    """Jobs as an array of batch jobs of SLURM, which run while this process has long ended.

    Args:
        sbatch: Options of sbatch and their values, with _ for -; of those that are None nothing is said.
        setup: Lines of the batch script before the job, such as ``module load cuda``.
        at_once: So many jobs run at a time; None: all that SLURM lets.
        submit: False: write the batch script alone.
    """

    def __init__(self, sbatch: Any, setup: Any = (), at_once: int | None = None, submit: bool = True) -> None:
        self.sbatch, self.setup_lines = dict(sbatch), list(setup)
        self.at_once, self.submit = at_once, submit

    def check(self, configs: Sequence[DictConfig]) -> None:
        """See the base."""
        super().check(configs)
        wanted = [config.optimized_metric for config in configs if config.get("optimized_metric")]
        if wanted:
            raise ValueError(
                f"optimized_metric={wanted[0]} is asked of each job when it has ended; hydra/launcher=slurm does not "
                "wait for that. Search within one job of SLURM (hydra/launcher=gpus there), or leave it out."
            )
        several = [config.trainer.num_nodes for config in configs if config.trainer.num_nodes != 1]
        if several:
            raise ValueError(
                f"trainer.num_nodes={several[0]}: a job of hydra/launcher=slurm is one process on one node, which "
                "trainer.devices gives several GPUs of that. Runs over several nodes are submitted with srun, each by "
                "a script of its own."
            )
        check_options(sbatch=self.sbatch, at_once=self.at_once, really=self.submit)

    def run(self, jobs: Sequence[SweepJob]) -> dict[str, str]:
        """Submit jobs; none has failed yet."""
        if jobs:
            submit(jobs, sbatch=self.sbatch, setup=self.setup_lines, at_once=self.at_once, really=self.submit)
        return {}


def register_launchers() -> None:
    """Make Hydra know the launchers of configs/hydra/launcher/.

    It takes plugins from the package hydra_plugins only, which is there if any plugin is installed.
    """
    parent, _, name = _MODULE.partition(".")
    try:
        package = import_module(parent)
    except ModuleNotFoundError:
        package = sys.modules[parent] = ModuleType(parent)
        package.__path__ = []
    module = sys.modules[_MODULE] = ModuleType(_MODULE)
    setattr(package, name, module)
    for launcher in (LocalLauncher, SlurmLauncher):
        launcher.__module__ = _MODULE
        setattr(module, launcher.__name__, launcher)
        Plugins.instance().register(launcher)


def refuse_other_launchers() -> None:
    """In a job that another launcher of Hydra's runs: within one process, where each job finds what the last has left.

    Raises:
        HydraException: Always; the kind that is shown as a message also where the launcher has raised it again.
    """
    chosen = HydraConfig.get().runtime.choices.get("hydra/launcher")
    raise HydraException(
        f"hydra/launcher={chosen} would run the jobs within one process, where they share memory, random "
        "numbers and devices, and signals do not reach them. Choose serial (one after the other), gpus or slurm."
    )
