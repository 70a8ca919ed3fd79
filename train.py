"""Train one network on one data set, then predict and score its test cases.

    python train.py experiment=flare_umamba_enc
    python train.py data=hippocampus model=umamba_bot fold=0 trainer.max_epochs=50
    python train.py --config-name=cross_validation data=hippocampus model=umamba_bot    # five folds, and their ensemble
    python train.py --config-name=cascade data=flare model=umamba_enc    # 3d_lowres, then 3d_cascade_fullres on top
    python train.py run_dir=logs/.../fold_0/<time>      # continue a run, with its own configuration

Raw data, plan and preprocessed data are made first if they are missing or out of date. Everything that a run produces
is in its folder: checkpoints/, predictions/, tables/, figures/, metrics.csv, config.yaml, provenance.json.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "train")  # before the imports that take seconds
    from umamba.run.ranks import follow_if_started

    follow_if_started()

import logging
import sys

import hydra
import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig

from umamba.callbacks.last_checkpoint import ended_by
from umamba.cascade.command import run_cascade
from umamba.cascade.training import check_asked, find_previous
from umamba.cross_validation.cross_validate import cross_validate
from umamba.datamodules.sampling import check_shares
from umamba.evaluation.before_training import check_test, is_tested
from umamba.evaluation.held_out import cases_of_training
from umamba.evaluation.prepared import RunOptions
from umamba.evaluation.score_run import predict_and_score
from umamba.models.build import check_followed
from umamba.models.build_loss import check_loss
from umamba.planning.fingerprint import Fingerprint
from umamba.resolvers import register_resolvers
from umamba.run.announcement import announce, conclude
from umamba.run.asked import check_groups
from umamba.run.beginning import begin, take_over
from umamba.run.errors import explained
from umamba.run.folder import Run, open_run
from umamba.run.habits import in_own_words, name_dataset, with_essentials
from umamba.run.parts import build_parts
from umamba.run.quiet import only_first_says, short_warnings
from umamba.run.score import check_metric
from umamba.run.stop import deferred, ends_on_signals
from umamba.run.sweep import is_sweep_job
from umamba.run.unbegun import nothing_left
from umamba.sweep.launcher import refuse_other_launchers, register_launchers
from umamba.trainer import check_batch_norm, entries, fit, make_module

log = logging.getLogger(__name__)
register_resolvers()
register_launchers()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    with explained(), nothing_left(), only_first_says():
        check_groups(cfg)
        check_metric(cfg.optimized_metric, test=cfg.test)
        if is_sweep_job():
            refuse_other_launchers()
        short_warnings()
        if cfg.get("cascade"):
            run_cascade(name_dataset(cfg), __file__)
        elif cfg.get("cross_validation"):
            cross_validate(name_dataset(cfg), __file__)
        else:
            with open_run(with_essentials(name_dataset(cfg))) as run:
                train(run)
    return None


def train(run: Run) -> None:
    cfg, last = run.config, run.last
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    # What can be refused is refused before any case is read, and the rest before any is preprocessed.
    loggers = entries(cfg.get("logger"))
    parts = build_parts(cfg, last, loggers)
    trainer, model, datamodule = parts.trainer, parts.model, parts.datamodule
    limits = {key: cfg.trainer.get(key) for key in ("max_epochs", "max_steps", "max_time")}
    stops_early = any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    finished = ended_by(run.resume_from, stops_early=stops_early, **limits) if run.resume_from else None
    if run.resume_from != last:  # begun from another run's, it has no checkpoint of its own yet
        finished = None
    if cfg.train and not finished:
        check_asked(cfg)
    datamodule.check_places()
    datamodule.open_raw()
    check_loss(parts.loss, datamodule.raw, 2 if cfg.data.configuration == "2d" else 3)
    if cfg.test:
        check_test(datamodule)
    datamodule.make_plan()
    cases = cases_of_training(datamodule)
    take_over(run, cases)
    run.use_data(datamodule.plan, cfg.data.configuration, cases)
    previous = find_previous(run, datamodule) if cfg.train and not finished else None

    module = make_module(cfg, model, datamodule.plan, run.metadata)
    check_followed(module.network, datamodule.topology_edits)
    if not run.resume_from:
        check_batch_norm(cfg.trainer, module)
    begin(run, module, datamodule, cases)
    check_shares(datamodule.plan_configuration.batch_size, trainer.world_size)
    if cfg.train:
        datamodule.check_shared_memory()
    run.begun = True
    datamodule.prepare_data()
    if previous is not None:
        previous.give(datamodule, trainer.strategy.root_device, cfg.trusted)

    fingerprint = Fingerprint.load(datamodule.prepared_dir / "fingerprint.json")
    facts = {"plan": datamodule.plan.to_dict(), "fingerprint": fingerprint.to_dict()}
    for logger in loggers:
        logger.log_hyperparams({**run.metadata, **facts})

    if finished:
        log.info("%s has been trained to its end, by %s; nothing is trained again.", run.folder, finished)
    elif cfg.train:
        if run.resume_from:
            log.info("Resuming from %s.", run.resume_from)
        announce(run, trainer, datamodule, module)
        with deferred():
            fit(trainer, module, datamodule, run.resume_from)
    if cfg.trainer.fast_dev_run:
        log.info("trainer.fast_dev_run makes no checkpoint: there is nothing to test.")
        return
    if finished and cfg.test and is_tested(last, run.folder / "tables", datamodule):
        log.info("It has been tested too; eval.py tests it again, with other options if you like.")
    elif cfg.test and trainer.is_global_zero:
        predict_and_score([last], datamodule, run.folder, loggers, RunOptions(trusted=cfg.trusted))
    if trainer.is_global_zero and last.is_file():
        limit = ended_by(last, stops_early=stops_early, **limits) if cfg.train else None
        conclude(run.folder, cfg.trusted, limit)


if __name__ == "__main__":
    with ends_on_signals(), explained():
        sys.argv[1:] = in_own_words(sys.argv[1:])
        main()
