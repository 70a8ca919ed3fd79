"""Train one network on one data set, then predict and score its test cases.

    python train.py experiment=flare_umamba_enc
    python train.py data=hippocampus model=umamba_bot fold=0 trainer.max_epochs=50

Raw data, plan and preprocessed store are made first where they are missing or out of date. Everything a run produces
is in its folder: checkpoints/, predictions/, tables/, figures/, metrics.csv, config.yaml, provenance.json.
"""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.callbacks.last_checkpoint import is_finished
from src.evaluation.figures import loss_figure
from src.evaluation.held_out import cases_of_training
from src.evaluation.test_set import predict_and_score
from src.models.segmentation_module import SegmentationModule
from src.planning.fingerprint import Fingerprint
from src.resolvers import register_resolvers
from src.run import is_sweep_job, run_in_own_process, save_run
from src.targets import check_config
from src.trainer import check_last_checkpoint, entries, make_trainer

log = logging.getLogger(__name__)
register_resolvers()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    if is_sweep_job():
        run_in_own_process(__file__)
        return
    run_dir = Path(cfg.run_dir)
    check_config(OmegaConf.to_container(cfg, resolve=True), cfg.trusted)
    metadata = save_run(cfg, run_dir)
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    callbacks = entries(cfg.get("callbacks"))
    last = run_dir / "checkpoints" / "last.ckpt"
    check_last_checkpoint(last, cfg, callbacks)
    fast_dev_run = bool(cfg.trainer.fast_dev_run)
    resume = cfg.train and cfg.resume and last.is_file() and not fast_dev_run
    finished = resume and is_finished(last, max_epochs=cfg.trainer.max_epochs, max_steps=cfg.trainer.max_steps)

    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()
    metadata["cases"] = cases_of_training(datamodule, last if resume else None)

    model = instantiate(cfg.model)
    module = SegmentationModule(
        plan=datamodule.plan,
        configuration=cfg.data.configuration,
        network=model.network,
        optimizer=instantiate(cfg.optimizer) or model.optimizer,
        scheduler=model.scheduler,
        deep_supervision=model.deep_supervision,
        metadata=metadata,
        compile=cfg.compile,
    )

    fingerprint = Fingerprint.load(datamodule.prepared_dir / "fingerprint.json")
    loggers = entries(cfg.get("logger"))
    trainer = make_trainer(cfg.trainer, loggers, callbacks)
    for logger in loggers:
        logger.log_hyperparams({**metadata, "plan": datamodule.plan.to_dict(), "fingerprint": fingerprint.to_dict()})

    if finished:
        log.info("%s has been trained to its end; nothing is trained again.", run_dir)
    elif cfg.train:
        if resume:
            log.info("Resuming from %s.", last)
        trainer.fit(module, datamodule, ckpt_path=last if resume else None, weights_only=True)
    if fast_dev_run:
        log.info("trainer.fast_dev_run makes no checkpoint: there is nothing to test.")
        return
    if cfg.train and trainer.is_global_zero and (run_dir / "metrics.csv").is_file():
        loss_figure(run_dir / "metrics.csv", run_dir / "figures" / "loss.png")
    overlays = run_dir / "figures" / "overlays.png"  # the last that a test leaves
    if finished and overlays.is_file() and overlays.stat().st_mtime > last.stat().st_mtime:
        log.info("It has been tested too; eval.py tests it again, with other options if you like.")
    elif cfg.test and trainer.is_global_zero:
        predict_and_score([last], datamodule, run_dir, loggers, trusted=cfg.trusted)


if __name__ == "__main__":
    main()
