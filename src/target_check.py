"""Whether plain data from a file name only such code to be built as is allowed, or trusted by the user.

What is allowed stands with whoever asks: `umamba.targets` for checkpoints, `umamba.run.stored` for a run's folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from hydra.utils import get_object

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_EXPECTED = "expected the name of a package, module, class or function."
HYDRA = {"_target_": str, "_partial_": bool, "_args_": list, "_recursive_": bool, "_convert_": str}
# Nobody is advised to trust the whole of these
_OF_OTHERS = {*sys.stdlib_module_names, "umamba", "torch", "lightning", "torchio", "monai", "numpy", "hydra"}
# They keep a crafted configuration from exhausting time or memory.
_MAX_ENTRIES, _MAX_DEPTH, _MAX_TEXT = 10_000, 16, 4_096


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The classes that a package itself exports, of one kind.

    Attributes:
        package: its dotted name.
        base: full name of the class that they derive from.
    """

    package: str
    base: str

    def __contains__(self, target: str) -> bool:
        """Whether a target is one of them; no further dot is followed, and nothing but the package is imported."""
        package, _, name = target.rpartition(".")
        found = getattr(import_module(package), name, None) if package == self.package else None
        return isinstance(found, type) and issubclass(found, get_object(self.base))

    def __str__(self) -> str:
        return f"{self.package}.<{self.base.rpartition('.')[2]}>"


Allowed = Sequence[str | Exports]


def trusted_names(trusted: str | Sequence[str] | None) -> tuple[str, ...]:
    """What the user gave as ``trusted=``, one name or a list, as a tuple.

    Raises:
        ValueError: an entry is no dotted name, or Python finds nothing of that name.
    """
    if not isinstance(trusted, (str, Sequence, type(None))):
        raise ValueError(f"trusted={trusted!r}: {_EXPECTED}")
    names = (trusted,) if isinstance(trusted, str) else tuple(trusted or ())
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"trusted={name!r}: {_EXPECTED}")
        _check_is_there(name)
    return names


def _check_is_there(name: str) -> None:
    """See that a trusted name is one of something: trust in nothing does nothing, and is a slip of the pen."""
    root = name.partition(".")[0]
    try:
        if root not in sys.modules and find_spec(root) is None:
            raise ValueError(
                f"trusted={name}: Python finds no package or module {root}. Correct the name; if it lies in a folder "
                "of your own, put that folder into PYTHONPATH."
            )
    except (ImportError, AttributeError) as error:
        raise ValueError(f"trusted={name}: {error}. {_EXPECTED.capitalize()}") from error
    try:
        found, path = (import_module(root) if name != root else None), root
        for part in name.split(".")[1:]:
            path = f"{path}.{part}"
            found = getattr(found, part) if hasattr(found, part) else import_module(path)
    except Exception as error:  # the import runs the user's own code, which may raise anything
        hint = f" The module of that file is {name.removesuffix('.py')}." if name.endswith(".py") else ""
        raise ValueError(f"trusted={name} cannot be imported ({error}).{hint} {_EXPECTED.capitalize()}") from error


class Check:
    """Walks plain data; counts what it sees, for lists that hold each other can be endless.

    Args:
        trusted: what the user vouches for, see `trusted_names`.
        source: where the data come from, for the message of a refusal.
        advice: how that message ends, after "If it is code of yours, or of somebody you trust,"; {} stands for
            ``trusted=[...]``.
    """

    def __init__(self, trusted: Sequence[str], *, source: str, advice: str) -> None:
        self.trusted = trusted
        self.source = source
        self.advice = advice
        self.seen = 0

    def node(
        self,
        node: object,
        where: str,
        allowed: Allowed,
        inside: Allowed,
        *,
        largest: float | None = None,
        depth: int = 0,
    ) -> None:
        """Check one value and all below it.

        Args:
            node: the value.
            where: its key.
            allowed: targets that it may name itself.
            inside: targets that what it holds may name.
            largest: bound of the numbers, if any.
            depth: of `node`.
        """
        self.seen += 1
        if self.seen > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise ValueError(f"{where} has more than {_MAX_ENTRIES} entries or is nested over {_MAX_DEPTH} deep.")
        if isinstance(node, dict):
            for key, value in node.items():
                place = f"{where}.{key!s:.100}"
                if not isinstance(key, str):
                    raise ValueError(f"{place}: a key must be text, it is a {type(key).__name__}.")
                self._scalar(key, place, None)
                if key == "_target_":
                    self._target(value, place, allowed)
                elif key in HYDRA:
                    if not isinstance(value, HYDRA[key]):
                        raise ValueError(f"{place} must be a {HYDRA[key].__name__}, it is {shown(value)}.")
                elif key.startswith("_") and key.endswith("_"):
                    raise ValueError(f"{place}: only {', '.join(HYDRA)} may stand between underscores.")
                self.node(value, place, inside, inside, largest=largest, depth=depth + 1)
        elif isinstance(node, list):
            for index, value in enumerate(node):
                self.node(value, f"{where}[{index}]", inside, inside, largest=largest, depth=depth + 1)
        else:
            self._scalar(node, where, largest)

    @staticmethod
    def _scalar(value: object, where: str, largest: float | None) -> None:
        if not isinstance(value, (str, bool, int, float, type(None))):
            raise ValueError(f"{where} must be text, a number, true, false or null; it is a {type(value).__name__}.")
        if isinstance(value, str) and ("${" in value or len(value) > _MAX_TEXT):
            raise ValueError(f"{where} must be text of at most {_MAX_TEXT} characters without ${{...}}: {value!r:.80}")
        if largest is not None and isinstance(value, (int, float)) and not abs(value) <= largest:
            raise ValueError(f"{where} is {value}; expected a number from {-largest} to {largest}.")

    def _target(self, target: object, where: str, allowed: Allowed) -> None:
        if not isinstance(target, str) or not _NAME.fullmatch(target):
            raise ValueError(f"{where} must be a dotted name, it is {shown(target)}.")
        if target in self.trusted or any(
            target in entry if isinstance(entry, Exports) else target == entry for entry in allowed
        ):
            return
        root = next((name for name in self.trusted if target.startswith(f"{name}.")), None)
        if root is not None:
            _check_defined_below(target, root, where)
            return
        root = target.split(".")[0]
        raise ValueError(
            f"{where} is {target!r}, which is not among what {self.source} may have built "
            f"({', '.join(map(str, allowed)) or 'nothing here'}). If it is code of yours, or of somebody you trust, "
            + self.advice.format(f"trusted=[{target if root in _OF_OTHERS else root}]")
        )


def shown(value: object) -> str:
    """A value for a message; of what holds others the type alone, for it may be endless."""
    return f"{value!r:.200}" if isinstance(value, (str, bool, int, float, type(None))) else type(value).__name__


def _check_defined_below(target: str, root: str, where: str) -> None:
    """A trusted package vouches for what it defines, not for what it imports (``mymix.os.system``)."""
    try:
        module = getattr(get_object(target), "__module__", None) or ""
    except Exception as error:  # the import runs the user's own code, which may raise anything
        raise ValueError(f"{where} is {target!r}, which cannot be imported: {error}") from error
    if module != root and not module.startswith(f"{root}."):
        raise ValueError(
            f"{where} is {target!r}, which {root} does not define itself (it comes from {module or 'elsewhere'}). To "
            f"allow it all the same, give its full name: trusted=[{target}]."
        )
