"""Make a raw data set from what its owners distribute.

python -m umamba.datamodules.prepare data=hippocampus
python -m umamba.datamodules.prepare data=amos_mr source=downloads/amos22.zip
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "prepare")  # before the imports that take seconds

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from umamba.raw.dataset import RawDataset
from umamba.resolvers import register_resolvers
from umamba.run.command import command, run_command
from umamba.run.console import table_console
from umamba.run.habits import name_dataset
from umamba.words import count

register_resolvers()


@command("prepare")
def main(cfg: DictConfig) -> None:
    datamodule = instantiate(name_dataset(cfg).data)
    source = None if cfg.source is None else Path(cfg.source)
    if source is not None and source.resolve() == datamodule.dataset_dir.resolve():
        raise ValueError(
            f"source={source} is the folder that would be made. Say where the raw data set is to lie: "
            f"data.dataset_dir={datamodule.dataset_dir.parent / 'DatasetNNN_NAME'}."
        )
    datamodule.make_raw(source, incomplete=cfg.incomplete)
    raw = RawDataset.open(datamodule.dataset_dir)
    table_console(soft_wrap=True).print(
        f"{raw.folder}: {len(raw.training_cases)} training cases, {len(raw.test_cases)} test cases "
        f"({sum(case.label is not None for case in raw.test_cases)} with labels), "
        f"{count(len(raw.channel_names), 'channel')}, {len(raw.foreground)} class{'es' * (len(raw.foreground) != 1)}"
    )


if __name__ == "__main__":
    run_command(main)
