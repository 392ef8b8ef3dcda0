"""Faults for tools/campaigns/crash.py: slow saves, full and volatile disks, a backward clock, permissions.

Most are applied in a separate process, before the command that they affect.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import mmap
import os
import random
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PHASES = ("starting", "training", "writing", "syncing", "renaming")
STARTING, TRAINING, WRITING, SYNCING, RENAMING = range(5)
PIECES = 3  # in which a slow file is written


class Progress:
    """A page of shared memory in which one process records its phase for another process."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def record(self, phase: int) -> None:
        """Record a phase that begins now."""
        self._page[0] = phase
        self._page[8:16] = (self.events + (phase > TRAINING)).to_bytes(8, "little")

    def clear(self) -> None:
        """Reset phase and events."""
        self._page[:16] = bytes(16)

    @property
    def phase(self) -> int:
        """The current phase, an index of `PHASES`."""
        return self._page[0]

    @property
    def events(self) -> int:
        """The number of writes, syncs and renames that have begun."""
        return int.from_bytes(self._page[8:16], "little")


def slow_saves(progress: Progress, seconds: float, seed: int) -> None:
    """Delay each write, sync and rename by up to so many seconds before and after it, and record each."""
    rng = random.Random(seed)
    fdopen = os.fdopen

    def wait() -> None:
        time.sleep(rng.uniform(0, seconds))

    def delayed(phase: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any) -> None:
            progress.record(phase)
            wait()
            function(*args)
            wait()
            progress.record(TRAINING)

        return slow

    class SlowWriter(io.BufferedWriter):
        def write(self, data: Any) -> int:
            progress.record(WRITING)
            view = memoryview(data)
            step = -(-len(view) // PIECES) or 1
            for start in range(0, len(view), step):
                super().write(view[start : start + step])
                self.flush()
                wait()
            progress.record(TRAINING)
            return len(view)

    def slow_fdopen(descriptor: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "wb":
            return fdopen(descriptor, mode, *args, **kwargs)
        return SlowWriter(io.FileIO(descriptor, "wb"))

    os.fsync, os.replace = delayed(SYNCING, os.fsync), delayed(RENAMING, os.replace)
    os.fdopen = slow_fdopen  # type: ignore[assignment]


def backward_clock() -> None:
    """Set the wall clock back by an hour each time that it is read."""
    hours = itertools.count(1)
    real = time.time()
    time.time = lambda: real - 3600 * next(hours)
    time.time_ns = lambda: int(1e9 * time.time())


def obey_permissions() -> None:
    """Drop root's right to write everywhere (capset(2): CAP_DAC_OVERRIDE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for capabilities from 32 on
    for call in (libc.capget, libc.capset):
        if call(header, sets):
            raise OSError(ctypes.get_errno(), "capabilities cannot be changed")
        sets[0] &= ~(1 << 1)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file that uses all space of its disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


class VolatileDisk:
    """A disk that loses everything unsynced when the power is cut.

    It intercepts os.fsync and os.replace. It keeps the content of a file and the names in a folder as of their last
    sync.

    Parameters
    ----------
    folder
        The folder that is watched, itself synced.
    event
        The power is cut before the sync or rename of this number, counted from 1.
    remains
        Folder for what remains. The process then exits with 99.
    names_early
        Simulate a file system that writes names before they are synced, but not contents.
    """

    def __init__(self, folder: Path, event: int, remains: Path, names_early: bool, progress: Progress) -> None:
        self._folder, self._remains, self._names_early, self._progress = folder, remains, names_early, progress
        self._event = event
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._is_folder: dict[int, bool] = {}
        self._open_files: list[int] = []  # kept open, so that the kernel does not reuse their inode numbers
        self._remember(os.open(folder, os.O_RDONLY))
        self._fsync, self._replace = os.fsync, os.replace
        os.fsync, os.replace = self._sync, self._rename  # type: ignore[assignment]

    def _sync(self, descriptor: int) -> None:
        self._count(SYNCING)
        self._fsync(descriptor)
        self._remember(os.dup(descriptor))

    def _rename(self, source: Any, target: Any) -> None:
        self._count(RENAMING)
        self._replace(source, target)

    def _count(self, phase: int) -> None:
        self._progress.record(phase)
        if self._progress.events == self._event:
            self._remains.mkdir()
            self._rebuild(os.stat(self._folder).st_ino, self._folder, self._remains)
            os._exit(99)

    def _remember(self, descriptor: int) -> None:
        self._open_files.append(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {entry.name: self._inode(entry) for entry in os.scandir(descriptor)}
        else:
            self._contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def _inode(self, entry: os.DirEntry[str]) -> int:
        self._is_folder[entry.inode()] = entry.is_dir()
        return entry.inode()

    def _rebuild(self, inode: int, folder: Path, remains: Path) -> None:
        names = self._names.get(inode, {})
        if self._names_early and folder.is_dir():
            names = {entry.name: self._inode(entry) for entry in os.scandir(folder)}
        for name, child in names.items():
            if self._is_folder[child]:
                (remains / name).mkdir()
                self._rebuild(child, folder / name, remains / name)
            else:
                (remains / name).write_bytes(self._contents.get(child, b""))


def moments(seed: int) -> Iterator[tuple[int, float]]:
    """Yield moments to strike at, without end: after so many steps of saves (0: none) and so many seconds."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.75:
            yield rng.randint(1, 40), rng.uniform(0, 0.01)
        else:
            yield 0, rng.uniform(0, 1)
