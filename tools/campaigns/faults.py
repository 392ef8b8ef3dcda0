"""Faults to put a process through: slow saves to be killed in, a disk that forgets what was not synced, odd clocks.

Each is a function that is called in a process of its own, before the command that is to suffer it.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import mmap
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PHASES = ("starting", "training", "writing", "syncing", "renaming")
STARTING, TRAINING, WRITING, SYNCING, RENAMING = range(5)
PIECES = 3  # in which a slow file is written


class Board:
    """A page of memory on which a process notes what it is at, and another one reads it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def note(self, phase: int) -> None:
        """Say what begins now."""
        self._page[0] = phase
        self._page[8:16] = (self.events + (phase > TRAINING)).to_bytes(8, "little")

    def clear(self) -> None:
        """Begin again."""
        self._page[:16] = bytes(16)

    @property
    def phase(self) -> int:
        """Of `PHASES`, by its place."""
        return self._page[0]

    @property
    def events(self) -> int:
        """How many times something was written, synced or renamed."""
        return int.from_bytes(self._page[8:16], "little")


def slow_saves(board: Board, seconds: float, seed: int) -> None:
    """Have each write, sync and rename of a save take up to so many seconds before and after it, noted on a board."""
    rng = random.Random(seed)
    fsync, replace, fdopen = os.fsync, os.replace, os.fdopen

    def wait() -> None:
        time.sleep(rng.uniform(0, seconds))

    def around(phase: int, do: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any) -> None:
            board.note(phase)
            wait()
            do(*args)
            wait()
            board.note(TRAINING)

        return slow

    class Slow(io.BufferedWriter):
        def write(self, data: Any) -> int:
            board.note(WRITING)
            view = memoryview(data)
            step = -(-len(view) // PIECES) or 1
            for at in range(0, len(view), step):
                super().write(view[at : at + step])
                self.flush()
                wait()
            board.note(TRAINING)
            return len(view)

    def slow_fdopen(descriptor: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "wb":
            return fdopen(descriptor, mode, *args, **kwargs)
        return Slow(io.FileIO(descriptor, "wb"))

    os.fsync, os.replace = around(SYNCING, fsync), around(RENAMING, replace)
    os.fdopen = slow_fdopen  # type: ignore[assignment]


def backward_clock() -> None:
    """Have the wall clock go back an hour each time that it is read."""
    hours = itertools.count(1)
    real = time.time()
    time.time = lambda: real - 3600 * next(hours)
    time.time_ns = lambda: int(1e9 * time.time())


def obey_permissions() -> None:
    """Have even root write only where the permissions let it (capset(2): without CAP_DAC_OVERRIDE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of capabilities from 32 on
    for call in (libc.capget, libc.capset):
        if call(header, sets):
            raise OSError(ctypes.get_errno(), "capabilities cannot be changed")
        sets[0] &= ~(1 << 1)


class ForgetfulDisk:
    """What would be left of a folder if the power went: what was synced, and nothing else.

    It sees os.fsync and os.replace. Of a file it remembers the content at its last sync, of a folder the names at its
    last sync; ``early`` is the other kind of file system, on which names reach the disk before they are synced, though
    contents do not.

    Parameters
    ----------
    folder
        Whose inside is watched, and which is on the disk itself.
    event
        The number of the sync or rename, counted from 1, before which the power goes.
    left
        Where to write what is left. The process then ends at once.
    """

    def __init__(self, folder: Path, event: int, left: Path, early: bool, board: Board) -> None:
        self._folder, self._left, self._early, self._board = folder, left, early, board
        self._event = event
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._kinds: dict[int, bool] = {}  # whether it is a folder
        self._held: list[int] = []  # descriptors, so that no number of a file is given to another one
        self._look(os.open(folder, os.O_RDONLY))
        self._fsync, self._replace = os.fsync, os.replace
        os.fsync, os.replace = self._synced, self._renamed  # type: ignore[assignment]

    def _synced(self, descriptor: int) -> None:
        self._count(SYNCING)
        self._fsync(descriptor)
        self._look(os.dup(descriptor))

    def _renamed(self, source: Any, target: Any) -> None:
        self._count(RENAMING)
        self._replace(source, target)

    def _count(self, phase: int) -> None:
        self._board.note(phase)
        if self._board.events == self._event:
            self._left.mkdir()
            self._rebuild(os.stat(self._folder).st_ino, self._folder, self._left)
            os._exit(99)

    def _look(self, descriptor: int) -> None:
        self._held.append(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {entry.name: self._number(entry) for entry in os.scandir(descriptor)}
        else:
            self._contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def _number(self, entry: os.DirEntry[str]) -> int:
        number = entry.inode()
        self._kinds[number] = entry.is_dir()
        return number

    def _rebuild(self, number: int, place: Path, left: Path) -> None:
        names = self._names.get(number, {})
        if self._early and place.is_dir():
            names = {entry.name: self._number(entry) for entry in os.scandir(place)}
        for name, inner in names.items():
            if self._kinds[inner]:
                (left / name).mkdir()
                self._rebuild(inner, place / name, left / name)
            else:
                (left / name).write_bytes(self._contents.get(inner, b""))


def moments(seed: int) -> Iterator[tuple[int, float]]:
    """Without end, moments to strike at: after how many events of saves (0: none), and after how many seconds more."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.75:
            yield rng.randint(1, 40), rng.uniform(0, 0.01)
        else:
            yield 0, rng.uniform(0, 1)
