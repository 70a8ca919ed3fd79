"""The console command: ``umamba predict checkpoint=last.ckpt input=images output=predictions``, and its siblings.

Each command is a module with a ``main``; what it is given are Hydra overrides, and ``umamba COMMAND --help`` lists them
with their meaning. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from umamba.help import exit_with_help

COMMANDS = {  # name -> module with the command's main, its config, what it does
    "predict": ("umamba.inference.__main__", "predict", "segment the images of a folder"),
    "evaluate": ("umamba.evaluation.__main__", "eval", "score checkpoints, or stored predictions"),
    "plan": ("umamba.planning.__main__", "planning", "plan a data set and say why"),
    "doctor": ("umamba.datamodules.doctor.__main__", "doctor", "find what is wrong with a raw data set"),
    "report": ("umamba.evaluation.report.__main__", "report", "tables, tests, ranks and figures of all runs"),
    "best": ("umamba.cross_validation.__main__", "best", "the best of several cross-validations, and of pairs of them"),
    "sweep": ("umamba.sweep.__main__", "sweep", "how the jobs of a sweep stand"),
    "benchmark": ("umamba.benchmark.__main__", "epochs", "time training epochs and say what bounds them"),
    "export": ("umamba.export.__main__", "export", "a network for others: one file, ONNX, nnU-Net's folder"),
}
VERSION = "versions of this package and of what it stands on, for a bug report"
STANDS_ON = ("torch", "triton", "lightning", "hydra-core", "monai", "torchio", "SimpleITK", "numpy")


def main() -> None:
    """Run the command that the first argument names.

    Raises:
        SystemExit: no such command (code 2), or the command's own exit code.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(_usage())
        return
    if name == "version":
        sys.stdout.write(_versions())
        return
    if name not in COMMANDS:
        alike = "; umamba sweep status FOLDER says how a sweep's jobs stand" if name == "status" else ""
        sys.stderr.write(f"There is no command {name!r}, only {', '.join(COMMANDS)} and version{alike}.\n")
        raise SystemExit(2)
    module, config, what = COMMANDS[name]
    sys.argv = [f"umamba {name}", *sys.argv[2:]]
    exit_with_help(f"umamba {name}: {what}.", config, sys.argv[0])
    from umamba.run.command import run_command  # takes a while, as the command does

    run_command(import_module(module).main)


def _usage() -> str:
    commands = {name: what for name, (_, _, what) in COMMANDS.items()} | {"version": VERSION}
    lines = [f"  {name:<10}{what}" for name, what in commands.items()]
    return "\n".join(
        ["usage: umamba COMMAND [key=value ...]", "", *lines, "", "umamba COMMAND --help lists its keys.", ""]
    )


def _versions() -> str:
    lines = []
    for name in ("umamba-lightning", *STANDS_ON):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines.append(f"python {sys.version.split()[0]}, {sys.platform}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
