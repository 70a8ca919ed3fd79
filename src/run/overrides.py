"""The overrides that make a run's configuration: those of its first call, with what later calls changed."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from umamba.run.resume import DEFAULT_CONFIG, OF_THE_CALL, PLACE


def merged_overrides(stored: Sequence[str], cfg: DictConfig) -> list[str]:
    """Overrides that give the configuration with which this call goes on.

    Args:
        stored: Those of the run so far.
        cfg: Its configuration, whose keys tell which groups are sections of it.

    Returns:
        Those of this call where it describes the whole run; else the stored ones without those of keys that this call
        gives, and behind them this call's. What is to be done (train, test, resume, trusted) is that of the first call.
    """
    hydra = HydraConfig.get()
    given = {line: _key(line) for line in hydra.overrides.task}
    groups = {name for name in given.values() if name in hydra.runtime.choices}
    if hydra.job.config_name not in (None, DEFAULT_CONFIG) or any(name not in cfg for name in groups):
        of_the_first = [line for line in stored if _key(line) in OF_THE_CALL]
        return [line for line, name in given.items() if name not in OF_THE_CALL] + of_the_first
    asked = {name: line for line, name in given.items() if name not in OF_THE_CALL}
    kept: dict[str, str] = {}
    for line in stored:
        name = _key(line)
        section = name.split(".")[0]
        kept.pop(name, None)  # of a key that is given twice the last one holds, there where it stands
        of_the_choice = section in groups and (section != "trainer" or name in PLACE)
        if name not in asked and not of_the_choice:
            kept[name] = line
    return [*kept.values(), *asked.values()]


def _key(line: str) -> str:
    """The key or group that an override is of; of a part of one that has several lines the part."""
    try:
        return str(OverridesParser.create().parse_override(line).key_or_group)
    except OverrideParseException:
        return line
