"""A run's folder: opened for one training at a time, with a record of what every call did in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from umamba.files import read_json, write_json, write_text
from umamba.plain import to_plain
from umamba.planning.plan import Plan
from umamba.run import ranks
from umamba.run.asked import check_options
from umamba.run.compare import Differences, ResumeError, in_lines
from umamba.run.idle import say_idle
from umamba.run.lock import locked_run, refuse_links
from umamba.run.overrides import merged_overrides
from umamba.run.provenance import provenance
from umamba.run.resume import (
    DEFAULT_CONFIG,
    as_then,
    check_checkpoint,
    check_data,
    check_last,
    read_checkpoint,
    resumed_config,
)
from umamba.run.stop import deferred, goes_on_with
from umamba.run.stored import check_stored, refuse_interpolations
from umamba.run.sweep import argument, follow_sweep, short
from umamba.run.unbegun import log_sizes, restore_logs, say_held
from umamba.targets import present_names
from umamba.usual_loss import with_loss

log = logging.getLogger(__name__)

_NEW = {"data", "data.dataset_dir", "model", "experiment", "debug", "hparams_search", "ckpt_path"}  # what to train
_WITHOUT = (
    "Put the run's own file back, or remove this one: the run then goes on with the configuration in its checkpoint. "
    "Or give another run_dir."
)
_RECORD = ("config.yaml", "overrides.txt", "provenance.json")


@dataclass(kw_only=True)
class Run:
    """A run that is going on.

    Attributes:
        config: its configuration, interpolations resolved.
        folder: where everything it makes is.
        resume_from: the checkpoint to go on from, its own last one or `ckpt_path`; or None.
        changes: what of the stored configuration this call changes; None if the run is new.
        begun: whether all that can be refused has been looked at; what was refused before leaves no record.
        metadata: ``{"config": ..., "provenance": ..., "cases": ...}`` as plain data, for the checkpoints.
    """

    config: DictConfig
    folder: Path
    resume_from: Path | None = None
    changes: Differences | None = None
    begun: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Path:
        """Its last checkpoint."""
        return last_checkpoint(self.folder)

    def use_data(self, plan: Plan, configuration: str, cases: Mapping[str, Any]) -> None:
        """Keep the cases in the checkpoints to come; only now is it sure, and recorded, that a run goes on.

        Raises:
            ResumeError: the checkpoint to go on from was trained with another plan or other cases.
        """
        self.metadata["cases"] = cases
        if self.resume_from:
            checkpoint = read_checkpoint(self.resume_from)
            check_data(self.resume_from, checkpoint, plan, configuration, cases)
            self.metadata["cases"] = as_then(cases, checkpoint.get("cases"))
            if ranks.is_first():
                self.record()

    def record(self) -> None:
        """Write config.yaml, overrides.txt and provenance.json as they are now; the last keeps what each call gave."""
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        call, path = provenance(overrides), self.folder / "provenance.json"
        kept = self.folder / "overrides.txt"
        if self.changes is None or not self.last.is_file() or not path.is_file():
            record = call
        else:
            except_for = f", except{in_lines(self.changes)}" if self.changes else "."
            log.info("Continuing with the configuration of %s%s", self.folder, except_for)
            first = read_json(path)
            if not first:
                log.warning("%s was not whole: what it said of the calls before this one is lost.", path)
            call["changes"] = {key: list(values) for key, values in self.changes.items()}
            record = {**first, "resumes": [*first.get("resumes", []), call]}
            if kept.is_file() and HydraConfig.initialized():
                overrides = self._merged(kept, overrides)
        write_text("\n".join(overrides) + "\n", kept)
        self.metadata["provenance"] = record
        write_json(record, path)
        write_text(OmegaConf.to_yaml(self.config, resolve=True), self.folder / "config.yaml")

    def _merged(self, kept: Path, overrides: list[str]) -> list[str]:
        """Those of the run so far with those of this call."""
        try:
            return merged_overrides(kept.read_text(encoding="utf-8").splitlines(), self.config)
        except (UnicodeDecodeError, HydraException) as error:
            log.warning("%s was not as a run leaves it (%s): it gets this call's overrides alone.", kept, error)
            return overrides


def last_checkpoint(folder: Path) -> Path:
    """Where a run keeps its last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def check_goes_on(cfg: DictConfig) -> Run:
    """The run that `open_run` would go on with as asked; nothing is written (else ResumeError)."""
    check_options(cfg)
    cfg.run_dir = os.path.abspath(cfg.run_dir)
    return _run(*_choose(cfg))


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """Open a new run's folder, or that of one to go on with; the run's first process holds it until the end.

    Nothing in the folder is changed by a call that is refused; of its log file the first process sees to that.

    Raises:
        ResumeError: the run cannot go on as asked.
        RunInUseError: another training is going on in this folder.
    """
    check_options(cfg)
    cfg.run_dir = os.path.abspath(cfg.run_dir)
    if ranks.is_started_from_first():
        ranks.follow_first()
        folder = Path(HydraConfig.get().runtime.output_dir)  # Lightning passes it on
        say_held()
        with deferred():  # were it gone before it has met the first one, that would wait for it
            yield _run(_loaded(folder / "config.yaml"), None)
        return
    given = any(override.startswith("run_dir=") for override in HydraConfig.get().overrides.task)
    if not given and (ranks.started_outside() > 1 or not ranks.is_first()):  # each of them says so, and none waits
        raise ResumeError("Several processes of one run, started by torchrun or srun, need run_dir=<folder>.")
    if not given:  # the usual folder has the time in its name: without this a repeated command would begin another run
        goes_on_with(argument("run_dir", Path(short(Path(cfg.run_dir)))))
    if not ranks.is_first():
        say_held()
        yield _run(*_choose(cfg))
        return
    follow_sweep()
    refuse_links(Path(cfg.run_dir))
    with locked_run(Path(cfg.run_dir)):
        run = _run(*_choose(cfg))
        recorded = [run.folder / name for name in _RECORD]
        new = not any(path.exists() for path in (*recorded, run.last.parent))
        if run.resume_from is None:
            run.record()
        ranks.announce_first()
        logs = log_sizes(run.folder)
        say_held()
        try:
            yield run
        except Exception:
            if not run.begun:
                restore_logs(logs)
            if new and not run.begun:  # or the next call would take over the setting that was wrong in this one
                for path in recorded:
                    path.unlink(missing_ok=True)
            raise


def _loaded(path: Path) -> DictConfig:
    reason = ""
    try:
        config = OmegaConf.load(path)
        if isinstance(config, DictConfig):
            return config
    except (YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        reason = f" ({str(error).splitlines()[0]})"
    raise ResumeError(f"{path} is not the configuration of a run{reason}. {_WITHOUT}")


def _run(config: DictConfig, changes: Differences | None) -> Run:
    folder = Path(config.run_dir)
    metadata = {"config": to_plain(config)}
    resume_from = _checkpoint_of(folder, config) if config.train else None
    return Run(config=config, folder=folder, resume_from=resume_from, changes=changes, metadata=metadata)


def _checkpoint_of(folder: Path, config: Mapping[str, Any] | DictConfig) -> Path | None:
    """The run's last checkpoint, or the one of another run that it is begun from; None if it has neither."""
    last, other = last_checkpoint(folder), config.get("ckpt_path")
    if last.is_file():
        return last
    return None if other is None else Path(other)


def _choose(cfg: DictConfig) -> tuple[DictConfig, Differences | None]:
    """The configuration to use, and what of a stored one is changed; None if the run is new.

    Nothing is built of a stored one before it has been checked here: the folder may come from anybody.
    """
    folder = Path(cfg.run_dir)
    last, stored_path = last_checkpoint(folder), folder / "config.yaml"
    if cfg.train and not cfg.resume and any(folder.glob("checkpoints/*.ckpt")):
        raise ResumeError(
            f"{folder} has a trained checkpoint, which resume=false would overwrite. Give a new run another run_dir, "
            "or remove the folder."
        )
    _find_begun_from(cfg, last)
    if cfg.train:
        check_last(last)
    source, stored = stored_path, None
    if stored_path.is_file():
        stored = with_loss(present_names(OmegaConf.to_container(_loaded(stored_path))))
    own = _checkpoint_of(folder, stored if isinstance(stored, Mapping) else {})
    begun_from = own if last.is_file() or cfg.ckpt_path is None else Path(cfg.ckpt_path)
    checkpoint = read_checkpoint(begun_from) if begun_from is not None else None
    if begun_from is not None and checkpoint is not None and (stored is None or begun_from != own):
        source, stored = begun_from, checkpoint["config"]
        if begun_from != last and isinstance(stored, dict):
            stored = {**stored, "ckpt_path": str(begun_from)}
    if stored is None:
        if (folder / "metrics.csv").is_file():
            raise ResumeError(
                f"{folder} holds a metrics.csv, which a new run would replace, and no run to go on with: no "
                "config.yaml and no checkpoints/last.ckpt. Give another run_dir, or move the file away."
            )
        _say_new(folder, cfg)
        return OmegaConf.create(to_plain(cfg)), None
    needed = {"data": dict, "model": dict, "trainer": dict, "run_dir": str}
    if not isinstance(stored, dict) or any(not isinstance(stored.get(key), kind) for key, kind in needed.items()):
        raise ResumeError(f"{source} holds no configuration of a run. {_WITHOUT}")
    try:
        refuse_interpolations(stored)
        config, changes = resumed_config(cfg, stored, trained=checkpoint is not None)
        check_stored(to_plain(config), to_plain(cfg), cfg.trusted, folder)
    except ResumeError:
        raise
    except ValueError as error:
        raise ResumeError(f"{source}: {error}") from error
    if begun_from is not None and checkpoint is not None:
        check_checkpoint(begun_from, checkpoint, config)
    say_idle(config)
    return config, changes


def _say_new(folder: Path, cfg: DictConfig) -> None:
    """A call that names a folder and nothing to train may want to go on with a run that is elsewhere."""
    hydra = HydraConfig.get()
    named = {override.split("=", 1)[0].lstrip("+") for override in hydra.overrides.task}
    if hydra.job.config_name == DEFAULT_CONFIG and "run_dir" in named and not named & _NEW:
        runs = [entry.name for entry in folder.parent.glob("*/") if (entry / "config.yaml").is_file()]
        alike = [short(folder.parent / name) for name in get_close_matches(folder.name, runs, n=2, cutoff=0.7)]
        log.warning("There is no run in %s: a new one starts, with the default data=%s and model=%s.%s", folder,
                    cfg.data_name, cfg.model_name, f" There is {' and '.join(alike)}." if alike else "")  # fmt: skip


def _find_begun_from(cfg: DictConfig, last: Path) -> None:
    """Have ``ckpt_path`` say where the file is; null if it is the run's own last checkpoint, which is taken anyway."""
    if cfg.ckpt_path is None:
        return
    path = Path(os.path.abspath(cfg.ckpt_path))
    if not path.is_file():
        raise ResumeError(f"ckpt_path={cfg.ckpt_path}: there is no such file.")
    if not cfg.train and not last.is_file():
        raise ResumeError("train=false tests what run_dir has; eval.py ckpt_path=<file> output=<folder> scores any.")
    cfg.ckpt_path = None if path == last else str(path)
