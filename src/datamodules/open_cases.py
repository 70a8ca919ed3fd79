"""Cases that a process keeps open between samples, and decoded where they are small."""

from __future__ import annotations

import os

from umamba.machine import free_memory
from umamba.planning.store import Store, StoredCase

_MOST_OPEN = 200  # cases, of three open files each; a process may commonly have 1024
_SMALL = 64 << 20  # bytes of a case that is decoded whole: in some 0.2 s, for which training need not wait
_SHARE = 0.125  # of the free memory, for the decoded cases of all processes together
_MOST_KEPT = 2 << 30  # bytes of them in a process


def room_for_cases(processes: int) -> int:
    """Bytes of decoded cases that each of so many processes may keep."""
    return min(_MOST_KEPT, int(_SHARE * free_memory()) // max(1, processes))


class OpenCases:
    """Gives the cases of a store to one process; to another, after a fork or when it is sent there, its own.

    The cases that were used last stay open: opening one takes as long as reading a small patch of it. A small case is
    decoded whole when it is first used, and stays so: decompressing a patch takes longer than all else that a sample
    needs. Once there is no more room, none is given up for another, which would be used no more often.

    Args:
        store: Where they lie.
        room: Bytes that a process may keep of decoded cases.
    """

    def __init__(self, store: Store, room: int = 0) -> None:
        self.store, self.room = store, room
        self._begin()

    def __call__(self, identifier: str) -> StoredCase:
        """A case of the store, as `Store.case` opens it, or decoded."""
        if self._process != os.getpid():
            self._begin()
        if identifier in self._decoded:
            return self._decoded[identifier]
        case = self._open.pop(identifier, None) or self.store.case(identifier)
        if self._left and case.nbytes <= min(_SMALL, self._left):
            self._left -= case.nbytes
            self._decoded[identifier] = case.decoded()
            return self._decoded[identifier]
        self._open[identifier] = case  # at the end: the first is the one that was not used for longest
        if len(self._open) > _MOST_OPEN:
            del self._open[next(iter(self._open))]
        return case

    def _begin(self) -> None:
        self._process, self._left = os.getpid(), self.room
        self._open: dict[str, StoredCase] = {}
        self._decoded: dict[str, StoredCase] = {}

    def __reduce__(self) -> tuple[type[OpenCases], tuple[Store, int]]:
        return OpenCases, (self.store, self.room)  # open files cannot be sent
