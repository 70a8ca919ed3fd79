"""Provenance of a run, and W&B that never asks for a key."""

import json
import logging
from pathlib import Path

from omegaconf import OmegaConf

from src.run import git_revision, save_run, wandb_logger


def test_a_run_keeps_its_resolved_config_overrides_and_origin(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"seed": 3, "name": "run_${seed}"})
    metadata = save_run(cfg, tmp_path / "run")
    assert metadata["config"] == {"seed": 3, "name": "run_3"}
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").name == "run_3"
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance == metadata["provenance"]
    assert provenance["git_revision"] == git_revision()
    assert provenance["versions"]["torch"].startswith("2.")


def test_wandb_is_offline_without_a_key(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setattr("src.run.has_wandb_key", lambda: False)
    with caplog.at_level(logging.WARNING):
        logger = wandb_logger(project="p", save_dir=str(tmp_path))
    assert logger._offline and "wandb sync" in caplog.text
