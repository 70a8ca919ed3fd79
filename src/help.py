"""``--help`` of the commands: what one does, its keys with their meaning, the choices of its groups.

The config files explain their keys in comments; help shows these, and needs neither Hydra nor torch for it.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Mapping

from umamba.locations import CONFIGS

_GROUP = re.compile(r"^  - (?:override )?/?([a-z_/]+): (\S+)")
_WIDTH = 118
_PROGRAM = r"(?:python -m umamba\S*|python \w+\.py|umamba \w+)"
_ENOUGH = 3  # examples of a command
_LEAST = 30  # columns that a key has to leave for its meaning; else that begins on the next line
# Files that show a group's keys: what all its choices start from, or the usual choice
SHOWN_FILES = {
    "data": ("data/_base.yaml",),
    "model": ("model/_nnunet_training.yaml", "model/_umamba.yaml"),
    "loss": ("loss/dice_ce.yaml",),
    "trainer": ("trainer/default.yaml",),
    "paths": ("paths/default.yaml",),
}
_USUAL = {"data": "custom"}  # the choice whose own keys are shown where the command line names none
_OF_SWEEPS = {"train": ("hydra/launcher", "serial", ("hydra/launcher/gpus.yaml", "hydra/launcher/slurm.yaml"))}
KEYS_OF_GROUPS = ("train", "epochs")  # commands that use all of a group's keys
_END = "All keys that this would use: the same command with --cfg job. Hydra's own flags: --hydra-help."

_called: list[str] = []  # config files of the commands that this process is


def config_name() -> str | None:
    """Name of the config file of the command that this process is; None if it is none of ours."""
    return _called[-1] if _called else None


def exit_with_help(description: str | None, config: str, called: str = "") -> None:
    """If the command line asks for help, print it and end the process; a script calls this before its heavy imports.

    Ctrl-C among these ends it too, as the system does and without a traceback; `ends_on_signals` follows.

    Args:
        description: what the command does and how it is called: the script's docstring.
        config: name of its config file.
        called: how it is called here, such as "umamba plan", for the examples; empty: as the config says.

    Raises:
        SystemExit: after printing.
    """
    _called.append(config)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if wanted():
        sys.stdout.write(help_text(description, config, called))
        raise SystemExit(0)


def wanted() -> bool:
    """Whether the command line asks for help."""
    return bool({"-h", "--help"} & set(sys.argv[1:]))


def help_text(description: str | None, config: str, called: str = "") -> str:
    """The text that `exit_with_help` prints."""
    lines = _lines(config)
    groups = [(match[1], match[2]) for match in map(_GROUP.match, lines) if match and (CONFIGS / match[1]).is_dir()]
    groups = [(name, default) for name, default in groups if name != "hydra"]
    shown: dict[str, tuple[str, ...]] = {**SHOWN_FILES} if config in KEYS_OF_GROUPS else {}
    if config in _OF_SWEEPS:
        group, default, of_launchers = _OF_SWEEPS[config]
        groups.append((group, default))
        shown[group.replace("/", ".")] = of_launchers
    text = re.sub(r"^(?=python )", "    ", (description or "").strip(), flags=re.MULTILINE)
    parts = [text, *_examples(lines, text, called)]
    for name in _on_top(config):
        parts += ["", f"Keys of --config-name={name}, given as key=value:", ""]
        parts += [f"  {line}" for line in _keys(_lines(name))]
    parts += ["", "Keys, given as key=value:", "", *(f"  {line}" for line in _keys(lines))]
    if groups:
        parts += ["", "Groups, given as group=choice; group.key=value changes a key of the choice:", ""]
        for name, default in groups:
            choices = f"{name} ({default}): {', '.join(choices_of(name))}"
            parts += textwrap.wrap(choices, _width(), initial_indent="  ", subsequent_indent="      ")
    for name, files in shown.items():
        parts += ["", f"Keys of {name}, given as {name}.key=value:", ""]
        for file in files:
            parts += [f"  {line}" for line in _keys(_lines(file.removesuffix(".yaml")))]
        choice = _chosen(name) or _USUAL.get(name, "")
        if choice and f"{name}/{choice}.yaml" not in files:
            parts += ["", f"Of {name}={choice}, beside these or in their place:", ""]
            parts += [f"  {line}" for line in _keys(_lines(f"{name}/{choice}"))]
    return "\n".join([*(fitting for line in parts for fitting in _fit(line)), "", _END, ""])


def arguments_text(description: str | None, arguments: Mapping[str, str]) -> str:
    """Help of a command without a config file."""
    width = max(map(len, arguments)) + 1
    lines = [f"  {name + '=':<{width}}  {meaning}" for name, meaning in arguments.items()]
    return "\n".join([(description or "").strip(), "", "Arguments, given as key=value:", "", *lines, ""])


def _lines(name: str) -> list[str]:
    return (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


def _on_top(config: str) -> list[str]:
    """Config files that ``--config-name`` puts on top of a command's own, the named one first."""
    named = re.search(r"(?:--config-name|-cn)[= ](\w+)", " ".join(sys.argv[1:]))
    names: list[str] = []
    name = named[1] if named else config
    while name != config and (CONFIGS / f"{name}.yaml").is_file():
        names.append(name)
        name = next((line[4:] for line in _lines(name) if re.fullmatch(r"  - [a-z]\w*", line)), config)
    return names


def _width() -> int:
    return min(_WIDTH, shutil.get_terminal_size((_WIDTH, 0)).columns)


def _fit(line: str) -> list[str]:
    """A key's line, its meaning wrapped in a column of its own where the line is longer than the terminal is wide."""
    key, mark, meaning = line.partition("# ")
    if len(line) <= _width() or not mark or not key.startswith("  "):
        return [line]
    below = bool(key.strip()) and len(key) + _LEAST > _width()
    margin = f"{' ' * (6 if below else len(key))}# "
    wrapped = textwrap.wrap(
        meaning, _width(), initial_indent=margin, subsequent_indent=f"{margin}  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    return [key.rstrip(), *wrapped] if below else [key + wrapped[0][len(key) :], *wrapped[1:]]


def _keys(lines: list[str]) -> list[str]:
    """The lines of a config that are keys: no list of defaults, nothing of Hydra's, no comment in front of the file."""
    shown: list[str] = []
    block = ""  # the key without indentation under which a line stands
    for line in lines:
        if line and not line.startswith((" ", "#")):
            block = line.partition(":")[0]
        if (
            line
            and block
            and block not in ("defaults", "hydra")
            and not line.startswith(("_", "  _target_", "  _partial_"))
        ):
            shown.append(line)
    return shown


def _chosen(group: str) -> str:
    """What the command line chooses of a group; empty if nothing that is there."""
    given = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith(f"{group}=")]
    return given[-1] if given and given[-1] in choices_of(group) else ""


def _examples(lines: list[str], description: str, called: str) -> list[str]:
    """The commands in front of a config that the description does not have, unless it has enough."""
    there = re.findall(rf"^    {_PROGRAM} +(.+)$", description, re.MULTILINE)
    given = [match for match in (re.match(rf"# ({_PROGRAM}) +(.+)$", line) for line in lines) if match]
    commands = [f"    {called or m[1]} {m[2]}" for m in given if not any(_same(m[2], other) for other in there)]
    if len(there) >= _ENOUGH or not commands:
        return []
    return [*([] if description.rpartition("\n")[2].startswith("    ") else [""]), *commands]


def _same(arguments: str, other: str) -> bool:
    """Whether two commands are given the same, whatever is said of them."""
    return re.split(r" {2,}", arguments)[0].strip() == re.split(r" {2,}", other)[0].strip()


def choices_of(group: str) -> list[str]:
    """Names that a group can be given: its files but those that others are made of."""
    return sorted(path.stem for path in (CONFIGS / group).glob("[!_]*.yaml"))
