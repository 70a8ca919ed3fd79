"""What a sweep cannot do is refused before a job is started, and what is no sweep is said to be none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests import warm_start
from umamba.locations import ROOT
from umamba.run.devices import CPU
from umamba.run.job_state import Condition, planned_steps
from umamba.sweep.__main__ import command_line, show
from umamba.sweep.entry import Entry, SweepJob
from umamba.sweep.launcher import LocalLauncher, SlurmLauncher
from umamba.sweep.slurm import batch_script, submit
from umamba.sweep.status import survey, varied

TRAIN = str(ROOT / "train.py")
SBATCH = {"time": "1:00:00", "cpus_per_task": 4, "partition": None, "requeue": True, "exclusive": False}


def config(**changes: object):
    usual = {"trainer": {"devices": 1, "num_nodes": 1}, "test": False, "optimized_metric": None}
    return OmegaConf.merge(usual, changes)


def job(folder: Path, name: str = "seed-1") -> SweepJob:
    entry = Entry(sweep=folder, name=name)
    entry.update(number=0, overrides=["seed=1"], asked=["seed=1"])
    return SweepJob(name=name, command=["python", "train.py", "a=1; rm", "run_dir='x y'"], entry=entry)


@pytest.mark.parametrize(
    ("launcher", "changes", "message"),
    [
        (LocalLauncher(gpus=CPU), {"trainer": {"devices": 2}}, r"trainer.devices=2 gives a job several GPUs"),
        (LocalLauncher(gpus=CPU, per_gpu=0), {}, r"per_gpu=0"),
        (LocalLauncher(gpus=CPU, per_gpu=True), {}, r"per_gpu=True"),
        (LocalLauncher(gpus=[0, 0]), {}, "different ones of"),
        (LocalLauncher(), {"optimized_metric": "dice"}, "expected a column of metrics.csv"),
        (LocalLauncher(), {"optimized_metric": "test/dsc"}, "test=false leaves out"),
        (SlurmLauncher(SBATCH), {"optimized_metric": "val/dice_ema"}, "does not wait"),
        (SlurmLauncher(SBATCH), {"trainer": {"num_nodes": 2}}, "trainer.num_nodes=2: .* one node"),
    ],
)
def test_what_no_job_could_do(launcher, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launcher.check([config(), config(**changes)])


def test_no_gpu(monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"there is no GPU that this process may see.*hydra.launcher.gpus=cpu"):
        LocalLauncher(gpus="auto").check([config()])
    several = LocalLauncher(gpus=CPU, per_gpu=2)
    several.check([config()])
    assert len(several.slots) == 2


def test_several_gpus_of_each_job_are_for_one_job_at_a_time() -> None:
    LocalLauncher().check([config(trainer={"devices": 4})])


def test_a_batch_script_says_what_it_runs_and_quotes_it(tmp_path: Path) -> None:
    folder = tmp_path / "with blank"
    text = batch_script([job(folder)], sbatch=SBATCH, setup=["module load cuda"], at_once=None)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --cpus-per-task=4" in lines and "#SBATCH --requeue" in lines
    assert "#SBATCH --array=0-0" in lines and f'#SBATCH --output="{folder}/jobs/%A_%a.out"' in lines
    assert not any("partition" in line or "exclusive" in line for line in lines)
    assert any("'a=1; rm'" in line for line in lines) and lines[-1].startswith("exec ")
    assert lines.index("module load cuda") < lines.index('case "$SLURM_ARRAY_TASK_ID" in')


@pytest.mark.parametrize(
    "options", [{"array": "0-3"}, {"output": "x"}, {"n tasks": 3}, {"time": "1\n#SBATCH --x"}, {"-J": "x"}]
)
def test_options_that_are_none_of_sbatch_or_the_sweeps_own(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match="expected a long option of sbatch"):
        batch_script([job(tmp_path)], sbatch=options, setup=[], at_once=None)


@pytest.mark.parametrize("signal", ["USR1@120", "R:USR1@120", "B:USR2@120", "B:KILL", "B:", "B:USR1@soon"])
def test_signals_that_no_job_would_get_or_outlive(signal: str) -> None:
    with pytest.raises(ValueError, match=r"sbatch\.signal=.*expected B:USR1@SECONDS"):
        SlurmLauncher({"signal": signal}, submit=False).check([config()])


@pytest.mark.parametrize("signal", ["B:USR1@120", "B:SIGUSR1@300", "b:term@60", None])
def test_signals_that_end_a_job_with_its_checkpoint(signal: str | None) -> None:
    SlurmLauncher({"signal": signal}, submit=False).check([config()])


def test_a_folder_with_a_percent_sign_is_where_the_output_goes(tmp_path: Path) -> None:
    text = batch_script([job(tmp_path / "50%j")], sbatch={}, setup=[], at_once=None)
    assert f"#SBATCH --output={tmp_path}/50%%j/jobs/%A_%a.out\n" in text


def test_no_sbatch_and_one_that_refuses(tmp_path: Path, monkeypatch) -> None:
    arguments = {"sbatch": SBATCH, "setup": [], "at_once": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no sbatch here.*submit=false"):
        SlurmLauncher(SBATCH).check([config()])
    submit([job(tmp_path)], **arguments, really=False)
    assert len(list(tmp_path.rglob("submit_*.sh"))) == 1
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match="invalid partition specified: x"):
        submit([job(tmp_path)], **arguments, really=True)


def test_what_is_no_folder_of_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder of a sweep"):
        survey(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder of a sweep"):
        survey(tmp_path / "nowhere")
    entry = job(tmp_path).entry
    for content, fault in (("{", "is not valid JSON"), ("{}", "is no state of a run; expected attempts")):
        entry.file(".json").write_text(content)
        with pytest.raises(ValueError, match=rf"seed-1.json {fault}.* Remove .* to begin anew\.\Z"):
            survey(tmp_path)


def test_a_sweep_of_another_launcher_is_known_by_its_runs(tmp_path: Path, capsys) -> None:
    for seed, step in ((1, 20), (2, 5)):
        run = tmp_path / f"seed-{seed}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text("trainer: {max_epochs: 2}\ndata: {iterations_per_epoch: 10}\n")
        (run / "overrides.txt").write_text(f"data=phantom\nseed={seed}\n")
        torch.save({"global_step": step}, run / "checkpoints" / "last.ckpt")
    for name, config in (("notes", "a: 1\n"), ("torn", "a: [1,\n"), ("list", "- 1\n"), ("binary", "\0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    found = survey(tmp_path)
    assert [(f.condition, f.step, f.steps) for f in found] == [
        (Condition.FINISHED, 20, 20),
        (Condition.STOPPED, 5, 20),
    ]
    assert varied(found) == [["seed=1"], ["seed=2"]]
    show(found)
    said = capsys.readouterr().out
    assert "5 of 20" in said and "1 stopped, 1 finished" in said and all(len(line) <= 80 for line in said.splitlines())


def test_folders_that_only_have_a_configuration_are_no_jobs(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.yaml").write_text("learning_rate: 1\n")
    with pytest.raises(FileNotFoundError, match="is no folder of a sweep"):
        survey(tmp_path)


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [("max_epochs: 2", 20), ("max_epochs: 2, accumulate_grad_batches: 3", 8), ("max_epochs: 2, max_steps: 7", 7),
     ("max_epochs: -1, max_steps: 7", 7), ("max_epochs: null", None),
     ("max_epochs: 2, limit_train_batches: 0.25", 4), ("max_epochs: 2, overfit_batches: 3", 6)],
)  # fmt: skip
def test_how_many_steps_a_run_is_to_take(tmp_path: Path, trainer: str, steps: int | None) -> None:
    (tmp_path / "config.yaml").write_text(f"trainer: {{{trainer}}}\ndata: {{iterations_per_epoch: 10}}\n")
    assert planned_steps(tmp_path) == steps


def test_the_folds_of_a_cross_validation_are_one_job(tmp_path: Path) -> None:
    made = job(tmp_path, "model-a")
    for fold in (0, 1):
        run = made.entry.run_dir / f"fold_{fold}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text("trainer: {max_epochs: 2}\ndata: {iterations_per_epoch: 10}\n")
        torch.save({"global_step": 20 - fold}, run / "checkpoints" / "last.ckpt")
    (finding,) = survey(tmp_path)
    assert (finding.step, finding.steps, finding.condition) == (39, 40, Condition.WANTED)
    state = made.entry.state()
    state["attempts"] = [{"started": "2026-01-01T00:00:00+00:00", "asked": ["seed=1"]}]
    made.entry.save(state)
    (finding,) = survey(tmp_path)
    assert finding.condition is Condition.STOPPED and json.dumps(finding.facts())


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["status", "logs/a"], ["action=status", "folder='logs/a'"]),
        (["logs/a", "format=json"], ["action=status", "folder='logs/a'", "format=json"]),
        (["status", "folder=x"], ["action=status", "folder=x"]),
        (["--cfg=job"], ["action=status", "--cfg=job"]),
    ],
)
def test_the_folder_may_be_said_as_it_is(given: list[str], read: list[str]) -> None:
    assert command_line(given) == read


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ([TRAIN], ["hydra/launcher=basic"], "would run the jobs within one process"),
        ([TRAIN], ["hydra/launcher=submitit_slurm"], "hydra/launcher=slurm gives jobs to SLURM"),
        ([TRAIN], ["hydra/launcher=slurm"], "there is no sbatch here"),
        ([TRAIN], ["hydra.sweep.subdir=x"], "gives several jobs the folder x"),
        ([TRAIN], ["hydra.sweep.subdir=../x"], "expected a folder below hydra.sweep.dir"),
        (["-m", "umamba.evidence"], ["hydra/launcher=gpus", "manifest=short", "state=s"], "deals its runs to GPUs"),
    ],
)  # fmt: skip
def test_launchers_that_do_not_do_say_so_in_a_message(tmp_path: Path, program, arguments, message: str) -> None:
    seeds = ["seed=1,2"] if program == [TRAIN] else []
    line = [*program, "--multirun", *arguments, *seeds, "hydra.sweep.dir=s"]
    ended = warm_start.run(*line, cwd=tmp_path, env={**os.environ, "PATH": str(tmp_path), "HYDRA_FULL_ERROR": "0"})
    said = ended.stderr + ended.stdout
    assert ended.returncode == 1 and message in said and "Traceback" not in said, said
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.rglob("jobs"))  # nothing was begun


def test_a_sweep_is_started_once(tmp_path: Path, monkeypatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    launcher = LocalLauncher()
    launcher.config = OmegaConf.create({"hydra": {"hydra_logging": None, "verbose": False}})
    with pytest.raises(ValueError, match="torchrun or srun has started 2 processes"):
        launcher.launch([["seed=1"]], 0)
