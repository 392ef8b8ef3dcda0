"""Faults for tools/campaigns/crash.py, which are applied in the process of the training before it begins."""

from __future__ import annotations

import io
import itertools
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

POWER_CUT = 99  # exit code

Fault = Callable[[], object]


def at(event: int, action: Callable[[], object], writes: bool = True) -> Fault:
    """Return a fault: an action before the sync or rename of a number, or, with ``writes``, amid a write."""
    numbers = itertools.count(1)

    def count() -> None:
        if next(numbers) == event:
            action()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            count()
            return function(*args)

        return call

    class Halves(io.BufferedWriter):
        def write(self, data: Any) -> int:
            view = memoryview(data)
            super().write(view[: len(view) // 2])
            self.flush()
            count()
            super().write(view[len(view) // 2 :])
            return len(view)

    def fdopen(descriptor: int, mode: str, **_: Any) -> Halves:
        return Halves(io.FileIO(descriptor, mode))

    def apply() -> None:
        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        if writes:
            os.fdopen = fdopen  # type: ignore[assignment]

    return apply


def after(seconds: float, number: int) -> Fault:
    """Return a fault: a signal after some time."""

    def apply() -> None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    return apply


def fill(path: Path) -> None:
    """Write a file that uses all space of its disk."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass


class VolatileDisk:
    """A folder as of the last syncs of its files and folders, from which it can be restored after a power cut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents: dict[int, bytes] = {}  # of files, by inode
        self.entries: dict[int, dict[str, tuple[int, bool]]] = {}  # of folders: inode and whether it is a folder

    def apply(self) -> None:
        """Store everything that this process syncs."""
        fsync = os.fsync

        def sync(descriptor: int) -> None:
            fsync(descriptor)
            self.remember(os.dup(descriptor))  # kept open, so that the kernel does not reuse its inode number

        self.remember(os.open(self.folder, os.O_RDONLY))
        os.fsync = sync  # type: ignore[assignment]

    def remember(self, descriptor: int) -> None:
        """Store the content of a file or the entries of a folder."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self.entries[status.st_ino] = entries(descriptor)
        else:
            self.contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def cut_power(self, remains: Path, early_names: bool) -> None:
        """Write what remains, and end this process; ``early_names``: names, but no contents, need no sync."""

        def restore(inode: int, folder: Path, target: Path) -> None:
            target.mkdir()
            names = entries(folder) if early_names and folder.is_dir() else self.entries.get(inode, {})
            for name, (child, is_folder) in names.items():
                if is_folder:
                    restore(child, folder / name, target / name)
                else:
                    (target / name).write_bytes(self.contents.get(child, b""))

        restore(self.folder.stat().st_ino, self.folder, remains)
        os._exit(POWER_CUT)


def entries(folder: Path | int) -> dict[str, tuple[int, bool]]:
    """Return the names in a folder, with their inodes and whether they are folders."""
    return {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(folder)}
