"""Stands in for train.py in tests of sweeps: composes train.yaml, "trains" 20 steps and leaves the files of a run.

The environment says what else: STUB_FAILS, the seed whose job fails; STUB_GATE, a file without which none gets beyond
step 5.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from umamba.locations import CONFIGS
from umamba.resolvers import register_resolvers
from umamba.run.errors import explained
from umamba.run.lock import locked_run
from umamba.run.stop import deferred, ends_on_signals, requested
from umamba.run.sweep import follow_sweep, is_sweep_job
from umamba.sweep.launcher import refuse_other_launchers, register_launchers
from umamba.typed import check_types

register_resolvers()
register_launchers()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    with explained():
        if is_sweep_job():
            refuse_other_launchers()
        if os.environ.get("STUB_FAILS") == str(cfg.seed):
            check_types({"deaf": 3}, {"deaf": bool})
        follow_sweep()
        with locked_run(Path(cfg.run_dir)):
            train(cfg, Path(cfg.run_dir))


def train(cfg: DictConfig, folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0
    last.parent.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=False))
    with open(folder / "starts", "a") as file:
        seen: dict[str, Any] = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        seen |= {"step": step, "workers": cfg.data.num_workers, "slurm": [n for n in os.environ if n[:5] == "SLURM"]}
        file.write(json.dumps(seen) + "\n")
    with deferred():
        while step < 20 and not requested():
            if step >= 5 and not Path(os.environ.get("STUB_GATE", "/")).exists():
                time.sleep(0.05)
                continue
            step += 1
            (folder / "metrics.csv").write_text(f"step,val/dice_ema\n{step - 1},{0.5 + cfg.seed / 100}\n")
        torch.save({"global_step": step}, last)


if __name__ == "__main__":
    with ends_on_signals(), explained():
        main()
