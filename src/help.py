"""``--help`` of the commands: what one does, its keys with their meaning, the choices of its groups.

The config files explain their keys in comments; help shows these, and needs neither Hydra nor torch for it.
"""

from __future__ import annotations

import re
import sys

from umamba.locations import CONFIGS

_GROUP = re.compile(r"^  - (?:override )?/?([a-z_/]+): (\S+)")


def exit_with_help(description: str | None, config: str) -> None:
    """If the command line asks for help, print it and end the process; a script calls this before its heavy imports.

    Args:
        description: what the command does and how it is called: the script's docstring.
        config: name of its config file.

    Raises:
        SystemExit: after printing.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(help_text(description, config))
        raise SystemExit(0)


def help_text(description: str | None, config: str) -> str:
    """The text that `exit_with_help` prints."""
    lines = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if line and not line.startswith(("defaults:", "  - ", "#"))]
    groups = [(match[1], match[2]) for match in map(_GROUP.match, lines) if match and (CONFIGS / match[1]).is_dir()]
    parts = [(description or "").strip(), "", "Keys, given as key=value:", "", *(f"  {line}" for line in keys)]
    if groups:
        parts += ["", "Groups, given as group=choice; group.key=value changes a key of the choice:", ""]
        parts += [f"  {name} ({default}): {', '.join(_choices(name))}" for name, default in groups]
    parts += ["", "All keys that this would use: the same command with --cfg job. Hydra's own flags: --hydra-help.", ""]
    return "\n".join(parts)


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("[!_]*.yaml"))
