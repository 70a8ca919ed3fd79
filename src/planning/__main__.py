"""Plan a data set and say what was decided and why.

python -m umamba.planning data=hippocampus
python -m umamba.planning data=custom data.dataset_dir=... preprocess=3d_fullres
python -m umamba.planning fingerprint=dataset_fingerprint.json dataset_json=dataset.json rule=2.8 output=plan.json
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "planning")  # before the imports that take seconds

import dataclasses
import logging
from pathlib import Path

from omegaconf import DictConfig

from umamba.files import check_takes_files, load_json, refuse_input
from umamba.plain import check_option_types, to_plain
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.nnunet_plans import load_plan
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.planning.prepare import prepare, prepare_plan
from umamba.planning.summary import summarize
from umamba.raw.description import DatasetDescription
from umamba.resolvers import register_resolvers
from umamba.run.command import command, run_command
from umamba.run.console import table_console
from umamba.run.habits import name_dataset

TYPES = {  # of the configuration; what is not here is looked at where it is used
    "fingerprint": Path | None, "dataset_json": Path | None, "plans": Path | None, "output": Path | None,
    "preprocess": str | list[str] | None,
}  # fmt: skip

log = logging.getLogger(__name__)


def planner_options(cfg: DictConfig) -> PlannerOptions:
    """The data config's planning options, overridden by those given on the command line without `data.planning.`."""
    chosen = to_plain(cfg.data.planning) if cfg.get("data") else {}
    names = [field.name for field in dataclasses.fields(PlannerOptions)]
    return PlannerOptions.of(chosen | {name: cfg[name] for name in names if cfg[name] is not None})


def check_output(cfg: DictConfig) -> None:
    """See that the plan is not written over a file it is made from, nor over any file that is no plan.

    Raises:
        ValueError: It would be.
    """
    if not cfg.output:
        return
    inputs = {key: cfg[key] for key in ("fingerprint", "dataset_json", "plans")}
    refuse_input(cfg.output, inputs)
    check_takes_files(Path(cfg.output).absolute().parent, "the folder of output")
    output = Path(cfg.output)
    if output.exists():
        try:
            is_plan = "configurations" in load_json(output)
        except (ValueError, TypeError):
            is_plan = False
        if not is_plan:
            raise ValueError(f"output={output} is there and is no plan; it is not replaced. Give another output.")


def make_plan(cfg: DictConfig) -> Plan:
    """Plan what the config names: files of a fingerprint, a plan to read, or a raw data set.

    Raises:
        ValueError: The config names no data set, or only half of one.
    """
    if cfg.get("data"):
        given = [key for key in ("fingerprint", "dataset_json", "plans") if cfg[key]]
        if given:
            raise ValueError(
                f"{', '.join(given)} would do nothing beside data=..., which makes its own. Leave one of them out."
            )
        options = planner_options(cfg)
        dataset_dir, prepared_dir = Path(cfg.data.dataset_dir), Path(cfg.data.prepared_dir)
        if not (dataset_dir / "dataset.json").is_file():
            raise FileNotFoundError(
                f"There is no raw data set at {dataset_dir} (no dataset.json). data.dataset_dir says where it is; "
                "those that have a name are made by python -m umamba.datamodules.prepare data=<name>."
            )
        if not prepared_dir.is_dir():
            check_takes_files(prepared_dir, "data.prepared_dir")
        plan = prepare_plan(dataset_dir, prepared_dir, options, cfg.workers)
        wanted = [cfg.preprocess] if isinstance(cfg.preprocess, str) else list(cfg.preprocess or ())
        for name in wanted:  # all of them, before the first is preprocessed
            plan.configuration(name)
        for name in wanted:
            plan, store = prepare(dataset_dir, prepared_dir, name, options, cfg.workers)
            log.info("%s: %d preprocessed cases in %s", name, len(store.identifiers), store.folder)
        return plan
    if cfg.dataset_json and (cfg.fingerprint or cfg.plans):
        description = DatasetDescription.read(cfg.dataset_json)
        if cfg.plans:
            return load_plan(cfg.plans, description)
        return plan_dataset(Fingerprint.load(cfg.fingerprint), description, planner_options(cfg))
    raise ValueError(
        "Nothing to plan. Give data=<name> for a raw data set, or fingerprint=<file> (or plans=<file>) together with "
        "dataset_json=<file>."
    )


register_resolvers()


@command("planning")
def main(cfg: DictConfig) -> None:
    check_option_types(cfg, TYPES)
    name_dataset(cfg)
    check_output(cfg)
    plan = make_plan(cfg)
    if cfg.output:
        Path(cfg.output).parent.mkdir(parents=True, exist_ok=True)
        plan.save(cfg.output)
        log.info("Wrote %s", cfg.output)
    table_console().print(summarize(plan))


if __name__ == "__main__":
    run_command(main)
