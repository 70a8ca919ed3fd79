"""What a user can put right is said in a message alone; where the program failed is for train.log."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from umamba.locations import CONFIGS
from umamba.run.compare import ResumeError
from umamba.run.console import for_terminal
from umamba.run.hints import hint
from umamba.run.lock import RunInUseError

_WANDB = "WANDB_SERVICE"  # set by W&B for the process that it is started in, and so for its children
REASON = "UMAMBA_REASON"  # in the environment of a job: the file in which it says why it failed, for those who ask
FULL = "HYDRA_FULL_ERROR"  # Hydra's own switch: 1 shows every traceback
_LOGGED = "_umamba_logged"  # attribute of an error whose traceback was written
_within: list[bool] = []  # one for each `explained` that the program is in
_PACKAGE = str(Path(__file__).resolve().parents[1])
_RAISED_ON_PURPOSE = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError)  # if by this project's own code
_OF_THE_MACHINE = (  # errors of files that no program can put right
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
_MAKES_FOLDERS = (("mkdir", "pathlib.py"), ("mkdir", "__init__.py"), ("makedirs", "<frozen os>"), ("makedirs", "os.py"))
_OF_LIBRARIES = ("MisconfigurationException",)  # Lightning's, of values that its Trainer does not take
_IN_A_TARGET = re.compile(r"\AError in call to target .*^full_key: (\S+)", re.DOTALL | re.MULTILINE)
_MISSING = re.compile(r"Missing mandatory value: ([\w.]+)")
_OF_OMEGACONF = re.compile(r"^ +(?:full_key|object_type|reference_type)[:=].*\n?", re.MULTILINE)  # its own words
# Where Hydra has looked for a group's files, and those of them that are no choices but parts of others
_OF_HYDRA = re.compile(r"^\t_\w+\n|\n*^Config search path:\n(?:\t.*\n?)*", re.MULTILINE)
_APPEND = re.compile(r"\nTo append to your config use .*", re.DOTALL)  # Hydra's advice, where the key is another one
_OPTIMIZER = re.compile(r"\boptimizer\.\w+")
_NO_CHOICE = (
    "{} chooses none of the group's files, which --help lists. In a sweep callbacks=none and logger=none leave theirs "
    "out; an experiment or debug that is not wanted is not given."
)
_NO_DASHES = (
    "Options are key=value, without dashes: data=hippocampus, not --data hippocampus. --help lists them. Hydra's "
    "flags, such as --config-name=cross_validation, stand in front of them."
)
_OF_THE_MODEL = (
    "The optimiser is model.optimizer, its values are set there (model.optimizer.lr=...); `optimizer` replaces it as "
    "a whole. A run that is resumed keeps the optimiser it was begun with: there neither may change."
)


@contextmanager
def explained(code: int = 1) -> Iterator[None]:
    """End the program with a code and the message alone where an error is one that this project raises itself.

    To be put around Hydra and, as a decorator, within its job: within the job, for Hydra puts a line of its own before
    an error that leaves it; around Hydra for what is wrong in the command line. The traceback goes to the log file of
    the run, if that is open. Any other error is a fault of the program and keeps its traceback on the console too.
    """
    outermost = not _within
    shown_in_full = outermost and os.environ.get(FULL) == "1"
    if shown_in_full:
        yield
        return
    os.environ[FULL] = "1"  # Hydra lets errors through instead of ending the process with a traceback of its own
    _within.append(True)
    try:
        yield
    except SystemExit as end:
        if traceback.extract_tb(end.__traceback__)[-1].filename == argparse.__file__:  # Hydra's, of its own flags
            sys.stderr.write(f"{for_terminal(_NO_DASHES, sys.stderr)}\n")
        raise
    except Exception as error:
        log_traceback(error)
        if not is_for_the_user(error):
            _say_reason(f"{type(error).__name__}: {error}")
            raise
        _say_reason(message_of(error))
        sys.stderr.write(f"{for_terminal(message_of(error), sys.stderr)}\n")
        raise SystemExit(code) from None
    finally:
        _within.pop()
        if outermost:
            del os.environ[FULL]


def explaining() -> bool:
    """Whether the program is in `explained`, which has set Hydra's switch itself."""
    return bool(_within)


def environment_of_children() -> dict[str, str]:
    """The environment for a program that this one starts: without what is of this process alone.

    That is the switch that `explained` has set for itself, the file for its own failure, and the W&B process that
    serves this one: all programs would hang on it, and end with it.
    """
    own = {_WANDB, REASON, *({FULL} if explaining() else ())}
    return {key: value for key, value in os.environ.items() if key not in own}


def _say_reason(text: str) -> None:
    """Tell the process that has started this one why it fails; what was said first is the reason."""
    path = os.environ.get(REASON)
    if path is not None:
        with suppress(OSError), open(path, "x", encoding="utf-8") as file:
            file.write(text)


def is_for_the_user(error: BaseException) -> bool:
    """Whether an error says what was given wrongly, or what the machine lacks; not where the program failed."""
    if isinstance(error, (ResumeError, RunInUseError, HydraException, OmegaConfBaseException)):
        return True
    if type(error).__name__ in _OF_LIBRARIES or _chooses_nothing(error) or _has_no_launcher(error):
        return True
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE and error.filename is not None:
        return True
    if _makes_no_folder(error):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError) and error.name is None:  # said by hand, not by an import statement
        return True
    by_us = bool(frames) and os.path.realpath(frames[-1].filename).startswith(_PACKAGE)
    return (
        by_us and isinstance(error, _RAISED_ON_PURPOSE) and not isinstance(error, (NotImplementedError, RecursionError))
    )


def message_of(error: BaseException) -> str:
    """What to tell the user; of an error of Hydra's own also what it comes from."""
    if _chooses_nothing(error):
        given = [each for each in sys.argv[1:] if each.endswith("=null") and (CONFIGS / each[: -len("=null")]).is_dir()]
        return _NO_CHOICE.format(", ".join(given) or "A group set to null")
    if (built := _IN_A_TARGET.search(str(error))) and isinstance(error, InstantiationException) and error.__cause__:
        said = message_of(error.__cause__)  # which Hydra quotes behind the name of a class
        return said if is_for_the_user(error.__cause__) else f"{built[1]}: {said}"
    if _makes_no_folder(error) and isinstance(error, OSError):
        return f"The folder {error.filename} cannot be made ({error.strerror}). Give another place for what is written."
    if isinstance(error, OmegaConfBaseException) and (missing := _MISSING.search(str(error))):
        return f"{missing[1]}=... is missing, and has no default. --help says what it is."
    parts = [str(error)]
    if isinstance(error, HydraException) and error.__cause__ is not None and str(error.__cause__) not in parts[0]:
        parts.append(str(error.__cause__))
    text = _OF_HYDRA.sub("", _OF_OMEGACONF.sub("", " ".join(parts)))
    parts = [text]
    of_hydra = isinstance(error, (HydraException, OmegaConfBaseException)) or _has_no_launcher(error)
    if of_hydra and (further := hint(text)):
        parts = [_APPEND.sub("", text) if further.startswith("There is") else text, further]
    if of_hydra and _OPTIMIZER.search(text) and "model.optimizer" not in text:
        parts.append(_OF_THE_MODEL)
    return "\n".join(part.rstrip("\n") for part in parts)


def _makes_no_folder(error: BaseException) -> bool:
    """Whether it is of a folder that was to be made: below a file, in /proc, on a disk that is read only."""
    if not isinstance(error, OSError) or error.errno in (errno.ENOSPC, errno.EDQUOT) or error.filename is None:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and (frames[-1].name, os.path.basename(frames[-1].filename)) in _MAKES_FOLDERS


def _chooses_nothing(error: BaseException) -> bool:
    """Whether it is Hydra's error for group=null."""
    return isinstance(error, ValueError) and str(error).startswith("Config group override must be a string or a list")


def _has_no_launcher(error: BaseException) -> bool:
    """Whether it is Hydra's error for a launcher of train.py that is given to another program."""
    return isinstance(error, RuntimeError) and str(error).startswith("Unknown plugin class : 'hydra_plugins.umamba.")


def log_traceback(error: BaseException) -> None:
    """Write an error with its traceback to the log files, once, and not to the console."""
    if vars(error).get(_LOGGED):
        return
    vars(error)[_LOGGED] = True
    log_to_files(str(error), error)


def log_to_files(text: str, error: BaseException | None = None) -> None:
    """Write a line, and the traceback of an error, to the log files and not to the console."""
    information = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "%s", (text,), information)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
