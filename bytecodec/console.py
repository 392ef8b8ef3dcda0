"""Console commands: parser, exit codes, signals, messages and progress bars."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from bytecodec.errors import MAX_MESSAGE, InputError, printable
from bytecodec.version import __version__

DONE, FAILED, WRONG_COMMAND_LINE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
MAX_NAME = 250  # characters of a file's name in a message
MAX_LINE = 1000  # characters of any printed line; a message of an error has at most MAX_MESSAGE
MAX_DESCRIPTION = 30  # characters before a progress bar
MAX_VALUE = 40  # characters of a wrong value in a message
MAX_WHOLE = 2**63 - 1


class Terminated(BaseException):
    """Exception that SIGTERM raises; as KeyboardInterrupt, it is not caught by ``except Exception``."""


class Interruption:
    """Context in which Ctrl-C or SIGTERM is only recorded, for work that saves its state before it ends.

    The first signal sets ``exit_code``, which makes the object true; the second raises KeyboardInterrupt.
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
        except ValueError:  # only the main thread can handle signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Parser(argparse.ArgumentParser):
    """Argument parser whose help shows every default and ends with examples."""

    def __init__(self, prog: str, description: str, examples: str, **kwargs: Any) -> None:
        lines = "\n".join("  " + line for line in examples.strip().splitlines())
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, 100),
            epilog=f"Examples:\n{lines}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
            **kwargs,
        )
        self.add_argument("-h", "--help", action="help", help="print this help")
        self.add_argument("--version", action="version", version=f"{prog} {__version__}", help="print the version")
        self.add_argument("-q", "--quiet", action="store_true", help="print errors only")

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and the message alone; argparse would print all flags before it."""
        message = printable(message.rstrip("."), MAX_MESSAGE)
        self.exit(WRONG_COMMAND_LINE, f"{self.prog}: {message}. See {self.prog} --help.\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that keeps the line ends of the examples, and adds the default of an option to its help."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Show the positional arguments only, because the list below has all options."""
        self._prog += " [options]"
        super().add_usage(usage, [action for action in actions if not action.option_strings], (), prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = not (isinstance(action.default, bool) or action.default in (None, argparse.SUPPRESS, "", []))
        if not action.help or "default" in action.help or not has_default:
            return action.help
        return f"{action.help} (default: %(default)s)"


def option(
    group: argparse._ActionsContainer, names: str, kind: Callable[[str], Any], help: str, default: Any = None
) -> None:
    """Add an option; ``names`` are its flags and the placeholder of its value, such as "-o --output OUT"."""
    *flags, metavar = names.split()
    group.add_argument(*flags, type=kind, metavar=metavar, default=default, help=help)


def whole(minimum: int, maximum: int = MAX_WHOLE) -> Callable[[str], int]:
    """Return a parser of whole numbers in [minimum, maximum]."""
    limits = f"it must be {minimum} or more" if maximum == MAX_WHOLE else f"it must be from {minimum} to {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_quote(text)} is not a whole number: {limits}") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is too {'small' if value < minimum else 'large'}: {limits}")
        return value

    return parse


def number(minimum: float, maximum: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers in [minimum, maximum], or in (minimum, maximum] if ``above``."""
    limits = f"{'more than' if above else 'at least'} {minimum:g} and " + (
        "finite" if maximum == math.inf else f"at most {maximum:g}"
    )

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_quote(text)} is not a number: it must be {limits}") from None
        if not minimum <= value <= maximum or (above and value == minimum) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{_quote(text)} is out of range: it must be {limits}")
        return value

    return parse


def _quote(text: str) -> str:
    return repr(printable(text, MAX_VALUE))


def command(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Turn ``main(argv)`` into a console command that returns an exit code and shows no traceback for a user's mistake.

    The codes are 0 for success, which includes a closed pipe, 1 for an error, and 130 or 143 for an interruption.
    """

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
            except (InputError, MemoryError, OSError, RuntimeError) as error:
                if not (message := _message_of(error)):
                    raise
                _print_error(main.__name__, message)
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()
            except (OSError, ValueError):  # the interpreter would report the same error again when it exits
                _silence_stdout()
            return FAILED

    return run


def _message_of(error: Exception) -> str:
    """Return the message for an error that a user can act on, or "" for a fault of the program."""
    if isinstance(error, OSError):
        return explain(error)
    if isinstance(error, InputError):
        return str(error)
    # torch reports a lack of memory as a RuntimeError.
    is_memory = any(phrase in str(error) for phrase in ("can't allocate memory", "out of memory"))
    return "there is not enough memory for this." if is_memory or isinstance(error, MemoryError) else ""


def explain(error: OSError) -> str:
    """Return a message for an OSError: the file, the system's message, and a remedy for common errors."""
    advice = {
        errno.ENOSPC: " Free some space, or write to another disk; existing files are unchanged.",
        errno.EACCES: " Check the permissions, or name another folder.",
        errno.EROFS: " Name a folder that is not read-only.",
        errno.ENAMETOOLONG: " A name has at most 255 bytes on most file systems: choose a shorter one.",
    }.get(error.errno or 0, "")
    if error.filename is None:
        return f"{error.strerror or error}.{advice}"
    name = printable(error.filename, MAX_NAME)
    if error.errno == errno.ENOENT:
        return f"there is no {name}. Check the path."
    if error.errno == errno.EISDIR:
        return f"{name} is a folder: name a file."
    return f"{name}: {error.strerror or error}.{advice}"


def log(message: str, quiet: bool = False) -> None:
    """Print a message on stderr as one line.

    Names of files in it cannot add lines or control the terminal; see `printable`.
    """
    if not quiet and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(message, MAX_LINE), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit, such as '3 min' or '2.5 h'."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def print_path(path: str | os.PathLike[str]) -> None:
    """Print a path, or lines with paths, on stdout in the bytes of the file system, whatever the locale."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + os.linesep.encode())
        sys.stdout.buffer.flush()


def progress(total: float | None, unit: str, quiet: bool = False, desc: str | None = None, **kwargs: Any) -> Any:
    """Return a tqdm bar on stderr, which appears after two seconds and only on a terminal."""
    from tqdm import tqdm

    desc = desc and printable(desc, MAX_DESCRIPTION)
    hidden = quiet or sys.stderr is None or not sys.stderr.isatty()
    # On a terminal without a window, which reports 0 columns, tqdm would show nothing.
    width: dict[str, Any] = {"dynamic_ncols": True}
    if not hidden and not os.get_terminal_size(sys.stderr.fileno()).columns:
        width = {"ncols": 80, "nrows": 24}
    return tqdm(total=total, unit=unit, desc=desc, disable=hidden, delay=2, file=sys.stderr, **width, **kwargs)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that files are closed and temporary files are removed."""

    def raise_terminated(_signal: int, _frame: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # only the main thread can handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence_stdout() -> None:
    """Keep the interpreter from reporting a closed pipe when it exits."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or without a descriptor
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _print_error(name: str, message: str) -> None:
    log(f"{name.replace('_', '-')}: {message}")
