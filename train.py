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
from omegaconf import DictConfig

from src.callbacks.atomic_checkpoint import AtomicCheckpointIO
from src.evaluation.figures import loss_figure
from src.evaluation.test_set import predict_and_score
from src.models.segmentation_module import SegmentationModule
from src.planning.fingerprint import Fingerprint
from src.resolvers import register_resolvers
from src.run import is_sweep_job, run_in_own_process, save_run

log = logging.getLogger(__name__)
register_resolvers()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    if is_sweep_job():
        run_in_own_process(__file__)
        return
    run_dir = Path(cfg.run_dir)
    metadata = save_run(cfg, run_dir)
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    datamodule = instantiate(cfg.data)
    datamodule.prepare_data()

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
    loggers = list(instantiate(cfg.logger).values())
    callbacks = list(instantiate(cfg.callbacks).values())
    trainer = instantiate(cfg.trainer, logger=loggers, callbacks=callbacks, plugins=[AtomicCheckpointIO()])
    for logger in loggers:
        logger.log_hyperparams({**metadata, "plan": datamodule.plan.to_dict(), "fingerprint": fingerprint.to_dict()})

    last = run_dir / "checkpoints" / "last.ckpt"
    if cfg.train:
        resume_from = last if cfg.resume and last.is_file() else None
        if resume_from:
            log.info("Resuming from %s.", resume_from)
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        if trainer.is_global_zero:
            loss_figure(run_dir / "metrics.csv", run_dir / "figures" / "loss.png")
    if cfg.test and trainer.is_global_zero:
        predict_and_score([last], datamodule, run_dir, loggers)


if __name__ == "__main__":
    main()
