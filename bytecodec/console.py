"""What all commands share: the parser, exit codes, messages, and files that are never left half-written."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NoReturn

from bytecodec import __version__
from bytecodec.errors import MOST_MESSAGE, InputError
from bytecodec.safe_text import printable

DONE, FAILED, WRONG_COMMAND_LINE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
MOST_PREFIX = 100  # bytes of a file's name in its temporary name; file systems allow 143 to 255 in all
MOST_NAME = 250  # characters of a file's name in a message
MOST_LINE = 1000  # characters of a line on the terminal
MOST_DESCRIPTION = 30  # characters before a progress bar


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, no ``except Exception`` catches it."""


class Interruption:
    """Turns Ctrl-C and SIGTERM into a question, for work that ends well at a place of its own choosing.

    Within the ``with`` block the first of them only sets ``exit_code``; the second is a KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.exit_code = DONE

    def __bool__(self) -> bool:
        return self.exit_code != DONE

    def __enter__(self) -> Interruption:
        codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}

        def note(number: int, _frame: object) -> None:
            if self:
                raise KeyboardInterrupt
            self.exit_code = codes[signal.Signals(number)]

        try:
            self._before = {number: signal.signal(number, note) for number in codes}
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help ends with examples and shows every default."""

    def __init__(self, prog: str, description: str, examples: str, **kwargs: Any) -> None:
        lines = "\n".join("  " + line for line in examples.strip().splitlines())
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, 100),
            epilog=f"Examples:\n{lines}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )
        self.add_argument("--version", action="version", version=f"{prog} {__version__}")
        self.add_argument("-q", "--quiet", action="store_true", help="print errors only")

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and a sentence; argparse would put all its flags before it."""
        words = printable(message.rstrip("."), MOST_MESSAGE)
        self.exit(WRONG_COMMAND_LINE, f"{self.prog}: {words}. See {self.prog} --help.\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines, and ends the help of an option with its default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_one = not (isinstance(action.default, bool) or action.default in (None, argparse.SUPPRESS, "", []))
        if not action.help or "default" in action.help or not has_one:
            return action.help
        return f"{action.help} (default: %(default)s)"


def command(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Turn ``main(argv)`` into a console command that returns an exit code and never shows a traceback for
    what a user did: 0 done (a closed pipe is a way of being done), 1 refused, 130 and 143 interrupted."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        with _sigterm_raises():
            try:
                code = main(argv)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return code or DONE
            except BrokenPipeError:
                _silence_stdout()
                return DONE
            except KeyboardInterrupt:
                _silence_stdout()
                _print_error(main.__name__, "interrupted.")
                return INTERRUPTED
            except Terminated:
                _silence_stdout()
                return TERMINATED
            except InputError as error:
                _print_error(main.__name__, str(error))
            except MemoryError:
                _print_error(main.__name__, "there is not enough memory for this.")
            except OSError as error:
                _print_error(main.__name__, explain(error))
            except RuntimeError as error:  # which is how torch says it
                if not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
                    raise
                _print_error(main.__name__, "there is not enough memory for this.")
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()
            except (OSError, ValueError):  # it is what failed, and would again as the interpreter exits
                _silence_stdout()
            return FAILED

    return run


def explain(error: OSError) -> str:
    """One sentence for an OSError: the file, the system's word for it, and for the common ones what to do."""
    advice = {
        errno.ENOSPC: " Free some space, or write elsewhere; files that existed before are as they were.",
        errno.EACCES: " Check who may read and write there, or name another place.",
        errno.EROFS: " Name a place that can be written to.",
        errno.ENAMETOOLONG: " A name takes at most 255 bytes on most file systems: choose a shorter one.",
    }.get(error.errno or 0, "")
    if error.errno == errno.ENOENT and error.filename is not None:
        return f"there is no {printable(error.filename, MOST_NAME)}. Check the path."
    where = f"{printable(error.filename, MOST_NAME)}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}.{advice}"


def log(message: str, quiet: bool = False) -> None:
    """Print a message on stderr as one line.

    Names in it cannot add lines or control the terminal; see `printable`.
    """
    if not quiet and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(message, MOST_LINE), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in the words that fit, such as '3 min' or '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def print_path(path: str | os.PathLike[str]) -> None:
    """Print a path, or lines with paths in them, on stdout as the system spells them, whatever the locale says that
    characters are."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + os.linesep.encode())
        sys.stdout.buffer.flush()


def wrong_command_line(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Exit with 2: the command line is wrong whatever the files hold."""
    parser.error(message)


def progress(total: float | None, unit: str, quiet: bool = False, desc: str | None = None, **kwargs: Any) -> Any:
    """A tqdm bar on stderr that shows itself only after two seconds, and only to a terminal."""
    from tqdm import tqdm

    desc = desc and printable(desc, MOST_DESCRIPTION)

    hidden = quiet or sys.stderr is None or not sys.stderr.isatty()
    # A terminal that says it has no columns, as one without a window does, would get no bar at all.
    width: dict[str, Any] = {"dynamic_ncols": True}
    if not hidden and not os.get_terminal_size(sys.stderr.fileno()).columns:
        width = {"ncols": 80, "nrows": 24}
    return tqdm(total=total, unit=unit, desc=desc, disable=hidden, delay=2, file=sys.stderr, **width, **kwargs)


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a file to read bytes from; ``-`` is standard input."""
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed: name a file, or send one through a pipe.")
        if sys.stdin.isatty():
            log("reading from the terminal: end with Ctrl-D, or see --help for files and pipes.")
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def copy_input(source: BinaryIO, name: str, copy: BinaryIO) -> BinaryIO:
    """Copy an input that cannot be read twice, such as a pipe, to a temporary file, and return that."""
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
    """Open a file to write bytes to, which appears under its name whole or not at all; ``-`` is stdout.

    The bytes go to a file beside it that takes its name when the block ends well and is removed when it
    does not. An existing file that is no regular file, such as /dev/null or a named pipe, is written in
    place. ``binary`` bytes are refused a terminal.

    Raises
    ------
    InputError
        Binary output would go to a terminal.
    OSError
        The place cannot be written to; ``filename`` is the path that was asked for.
    """
    if path == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed: name a file, or send it through a pipe.")
        if binary and sys.stdout.isatty():
            raise InputError(
                "this is binary and standard output is a terminal: name a file, or send it through a pipe."
            )
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if is_special_file(path):
        with open(path, "wb") as file:
            yield file
        return
    with _replacing(path) as file:
        yield file


def is_special_file(path: str) -> bool:
    """Whether path exists and is neither a regular file nor a folder: a device or a named pipe."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    target = os.path.realpath(path)  # a link keeps pointing where it did
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file was to be written", path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(target)  # raises OSError for a name that is too long before anything is computed
        descriptor, beside = tempfile.mkstemp(prefix=f".{shortened(name, MOST_PREFIX)}.", suffix=".part", dir=folder)
    except FileNotFoundError:
        raise InputError(f"cannot write {path}: there is no folder {os.path.dirname(path)}. Make it first.") from None
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
        os.replace(beside, target)
        sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        if isinstance(error, OSError) and error.filename in (None, beside) and not isinstance(error, BrokenPipeError):
            error.filename = path
        raise


def shortened(name: str, most: int) -> str:
    """Return the beginning of a file's name, of at most ``most`` bytes and of whole characters."""
    name = name[:most]
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _mode_for(target: str) -> int:
    """The permissions of the file that is replaced, or those that open() would have given a new one."""
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def sync(file: BinaryIO) -> None:
    """Have what was written to a file on the disk; an error names the file."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or file.name
        raise


def sync_folder(folder: str) -> None:
    """Have the folder's entries reach the disk, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot, and lose nothing by it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_same_file(source: str, target: str) -> None:
    """Raise InputError where output would replace its own input."""
    if "-" in (source, target) or is_special_file(target):
        return
    with contextlib.suppress(OSError):
        if os.path.samefile(source, target):
            raise InputError(f"{target} is the input itself: name another output.")


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that what is open is closed and what is temporary goes."""

    def raise_terminated(_signal: int, _frame: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence_stdout() -> None:
    """Keep the interpreter from complaining, as it exits, about a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no real file
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _print_error(name: str, message: str) -> None:
    log(f"{name.replace('_', '-')}: {message}")
