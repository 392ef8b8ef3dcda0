"""Input files of a command: recordings, texts, folders of them, named pipes and standard input."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from bytecodec import formats
from bytecodec.console import explain, log
from bytecodec.errors import InputError
from bytecodec.files import copy_input, is_special_file, open_input
from bytecodec.formats import STANDARD_INPUT

TEXT_SUFFIX = ".txt"  # ending of the names of texts in a folder
NAMES_SHOWN = 3  # number of names in a message, which counts the rest
_Kinds = list[tuple[Path, formats.Kind]]


@dataclass(frozen=True)
class Input:
    """A regular file that can be read repeatedly, and its kind."""

    path: Path
    name: str  # in messages and config.json, which differs for a copy of a pipe
    is_sound: bool  # otherwise it is read as a text

    def open(self) -> BinaryIO:
        """Open the file for reading bytes, as a file object with its name."""
        raw = io.FileIO(self.path)
        raw.name = self.name  # the name in messages of `bytecodec.read_blocks`
        return cast(BinaryIO, io.BufferedReader(raw))

    @property
    def size(self) -> int:
        return self.path.stat().st_size


@dataclass
class Unreadable:
    """Collector of files that cannot be read: the first one is an error, or all are skipped with ``skip``."""

    skip: bool = False
    quiet: bool = False
    names: list[str] = field(default_factory=list)

    def note(self, name: str, error: InputError | OSError) -> None:
        """Raise the error, or report it once per file and return."""
        if not self.skip:
            raise error
        if name in self.names:  # reported when its peak was measured
            return
        self.names.append(name)
        log(f"skipped: {error if isinstance(error, InputError) else explain(error)}", self.quiet)

    @contextlib.contextmanager
    def handle_errors(self, name: str) -> Iterator[None]:
        """Handle the errors of a block that reads a file."""
        try:
            yield
        except (InputError, OSError) as error:
            self.note(name, error)

    def report(self) -> None:
        """Report the files that were skipped."""
        if self.names:
            count = len(self.names)
            were = "1 file could not be read and was" if count == 1 else f"{count} files could not be read and were"
            log(f"{were} skipped: {', '.join(self.names)}.", self.quiet)


@contextlib.contextmanager
def prepare_input(name: str) -> Iterator[Input]:
    """Identify one file; ``-`` and named pipes are copied to a temporary file, since inputs are read more than once."""
    if name != "-" and not is_special_file(name):
        yield _identify(Path(name), name)
        return
    if name != "-" and not stat.S_ISFIFO(os.stat(name).st_mode):
        raise InputError(f"{name} is a device, and inputs are read more than once: copy a part of it to a file first.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, called = Path(folder) / "input", STANDARD_INPUT if name == "-" else name
        with open_input(name) as source, path.open("wb") as copy:
            copy_input(source, called, copy)
        yield _identify(path, called)


@contextlib.contextmanager
def prepare_inputs(names: Sequence[str], unreadable: Unreadable, texts: bool = True) -> Iterator[list[Input]]:
    """Identify all files before any is read, those of folders sorted by path.

    In a folder, the recordings are identified, or with ``texts`` the texts if there are no recordings; see `files_in`.
    """
    with contextlib.ExitStack() as stack:
        found: list[Input] = []
        for name in names:
            if name != "-" and Path(name).is_dir():
                found += _choose_files(Path(name), unreadable, texts)
            else:
                with unreadable.handle_errors(name):
                    found.append(stack.enter_context(prepare_input(name)))
        if not found:
            raise nothing_readable(unreadable)
        yield found


def nothing_readable(unreadable: Unreadable) -> InputError:
    """Return the error for inputs of which no file can be read."""
    return InputError(f"none of the inputs can be read: {abbreviate(unreadable.names)}.")


def files_in(folder: Path, unreadable: Unreadable) -> list[Path]:
    """Return the files in a folder and the folders in it, sorted by path.

    Links are followed, and each folder is read once, even if several links lead to it. Files and folders whose names
    begin with a dot are skipped.
    """
    files, seen = [], set()
    errors: list[OSError] = []
    for here, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        visible = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(visible, key=lambda name: (os.path.islink(os.path.join(here, name)), name))
        files += [Path(here, name) for name in names if not name.startswith(".")]
    for error in errors:
        unreadable.note(str(error.filename), error)
    return sorted(files)


def abbreviate(names: Sequence[str]) -> str:
    """Return the first names and the number of the others."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _identify(path: Path, name: str) -> Input:
    with path.open("rb") as file:
        return Input(path, name, formats.is_recording(file, name))


def _choose_files(folder: Path, unreadable: Unreadable, texts: bool) -> list[Input]:
    """Return the recordings in a folder, or its texts if there are none, and report what is skipped."""
    sounds, plain, others = _Kinds(), _Kinds(), _Kinds()
    for path in files_in(folder, unreadable):
        try:
            kind = _kind(path)
        except OSError as error:
            unreadable.note(str(path), error)
            continue
        if kind.sound and kind.problem:
            unreadable.note(str(path), InputError(f"{path} {kind.problem}"))
        else:
            (sounds if kind.sound else plain if path.suffix.lower() == TEXT_SUFFIX else others).append((path, kind))
    chosen, what = sounds, "recording"
    if texts and not sounds:
        chosen, what, plain = plain, "text", _Kinds()
    for path, kind in chosen:
        if kind.problem:
            unreadable.note(str(path), InputError(f"{path} {kind.problem}"))
    chosen = [(path, kind) for path, kind in chosen if not kind.problem]
    rest = sorted(str(path.relative_to(folder)) for path, _ in plain + others)
    skipped = f"; skipped: {abbreviate(rest)}" if rest else ""
    if not chosen and not unreadable.names:
        requested = "recording and no .txt" if texts else "recording"
        raise InputError(f"there is no {requested} in the folder {folder}{skipped}.")
    log(f"{folder}: {len(chosen)} {what}{'s' * (len(chosen) != 1)}{skipped}.", unreadable.quiet)
    return [Input(path, str(path), kind.sound) for path, kind in chosen]


def _kind(path: Path) -> formats.Kind:
    """Return the kind of a file in a folder; raise OSError only for the name of a recording or a text."""
    other = formats.Kind(False)
    if is_special_file(str(path)):
        return other
    try:
        with path.open("rb") as file:
            return formats.identify(file, str(path))
    except OSError:
        if path.suffix.lower() in (*formats.SOUND_SUFFIXES, TEXT_SUFFIX):
            raise
        return other
