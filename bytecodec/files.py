"""Files of commands: standard input and output, and output files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from bytecodec.console import log
from bytecodec.errors import InputError

_MAX_PREFIX = 100  # bytes of a file's name in its temporary name; file systems allow 143 to 255 in all


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; ``-`` is standard input."""
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed: name a file, or pipe one to the command.")
        if sys.stdin.isatty():
            log("reading from the terminal: end with Ctrl-D, or see --help for files and pipes.")
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def copy_input(source: BinaryIO, name: str, copy: BinaryIO) -> BinaryIO:
    """Copy an input that cannot be read twice, such as a pipe, to the file ``copy``, and return that."""
    try:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"{name} does not fit into {tempfile.gettempdir()}, to which it is copied first: "
            "free some space there, or set TMPDIR to another folder."
        ) from None
    return copy


@contextlib.contextmanager
def open_output(path: str, binary: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing bytes, which appears under its name complete or not at all; ``-`` is stdout.

    The bytes are written to a temporary file in the same folder, which is renamed at the end of the block, or removed
    after an exception. A device or a named pipe is written directly.

    Raises
    ------
    InputError
        ``binary`` output would go to a terminal, the folder does not exist, or the path is a link to a file of another
        type, which a command may be reading.
    OSError
        The file cannot be written; ``filename`` is ``path``.
    """
    if path == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed: name a file, or use a pipe.")
        if binary and sys.stdout.isatty():
            raise InputError("standard output is a terminal, and the output is binary: name a file, or use a pipe.")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if is_special_file(path):
        with open(path, "wb") as file:
            yield file
        return
    with _replacing(path) as file:
        yield file


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def is_special_file(path: str) -> bool:
    """Return whether a path exists and is neither a regular file nor a folder, but a device or a named pipe."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    target = os.path.realpath(path)  # replace the file, and not a link to it
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.islink(path) and os.path.isfile(target) and _suffix(path) != _suffix(target):
        raise InputError(f"{path} is a link to {target}, a file of another type: name another output.")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(target)  # raises OSError for a name that is too long before anything is computed
        descriptor, temporary_path = tempfile.mkstemp(
            prefix=f".{shorten(name, _MAX_PREFIX)}.", suffix=".part", dir=folder
        )
    except FileNotFoundError:
        if os.path.isdir(folder):  # of a file system such as /proc
            raise InputError(f"cannot write {path}: {folder} accepts no new files. Name another folder.") from None
        raise InputError(f"cannot write {path}: there is no folder {os.path.dirname(path)}. Create it first.") from None
    except OSError as error:
        error.filename = path
        raise
    try:
        with os.fdopen(descriptor, "wb", buffering=io.DEFAULT_BUFFER_SIZE * 8) as file:
            yield file
            file.flush()
            if hasattr(os, "fchmod"):  # not on Windows
                os.fchmod(file.fileno(), _mode_for(target))
            os.fsync(file.fileno())
        os.replace(temporary_path, target)
        sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary_path)
        if (
            isinstance(error, OSError)
            and error.filename in (None, temporary_path)
            and not isinstance(error, BrokenPipeError)
        ):
            error.filename = path
        raise


def shorten(name: str, max_bytes: int) -> str:
    """Return the beginning of a file's name, of at most ``max_bytes`` bytes and of whole characters."""
    name = name[:max_bytes]
    while len(os.fsencode(name)) > max_bytes:
        name = name[:-1]
    return name


def _mode_for(target: str) -> int:
    """Return the permissions of the file that is replaced, or those that open() gives a new file."""
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def sync(file: BinaryIO) -> None:
    """Flush a file to the disk; an OSError names the file."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or file.name
        raise


def sync_folder(folder: str) -> None:
    """Flush the entries of a folder to the disk, except on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not support it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_regular(file: Any) -> bool:
    """Return whether an open file is a regular file of the system, and not a pipe, a device or an `io.BytesIO`."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:
        return False


def refuse_same_file(source: str, target: str) -> None:
    """Raise InputError if the output would replace the input."""
    if "-" in (source, target) or is_special_file(target):
        return
    with contextlib.suppress(OSError):
        if os.path.samefile(source, target):
            raise InputError(f"{target} is the input itself: name another output.")
