"""Value types of flags, and flags that several commands share."""

from __future__ import annotations

import codecs
import contextlib
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bytecodec.arguments import HIGHEST_RATE, LOWEST_RATE
from bytecodec.channels import parse_channel
from bytecodec.console import number, option, whole
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.data.recordings import SoundOptions

RATE = whole(LOWEST_RATE, HIGHEST_RATE)
CHANNEL = "left, right, a number from 1, or mix (the mean)"
RUN = "folder of a run, its name under ./runs, or the name of a bundled voice"
CHECKPOINTS = "checkpoints to include: iterations, first, best or newest (default: all)"
SKIP_UNREADABLE = "skip files that cannot be read, and list them"


def numbers(minimum: float) -> Callable[[str], list[float]]:
    """Return a parser of lists of numbers of at least ``minimum``, separated by commas."""
    return lambda text: [number(minimum)(part) for part in text.split(",")]


def encoding(text: str) -> str:
    """Return Python's name of a text encoding."""
    try:
        codecs.getincrementaldecoder(text)().decode(b"", True)
        name = codecs.lookup(text).name
        "".encode(name)  # fails for codecs that are not of text, such as base64
    except (LookupError, UnicodeError):
        raise ArgumentTypeError(f"{text!r} is not a text encoding, such as utf-8, latin-1 or utf-16") from None
    return name


def path(text: str) -> str:
    """Return the name of a file, folder or voice. Reject an empty name, which results from an unset shell variable."""
    if not text:
        raise ArgumentTypeError("it is empty: name a file or folder, or omit it")
    return text


def flag_of(name: str) -> str:
    """Return the flag of an argument's name."""
    return "--" + name.replace("_", "-")


def explicit_flags(parser: ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """Return the names of the arguments that are on the command line, not left at their defaults."""
    missing = object()
    blank = Namespace(**{action.dest: missing for action in parser._actions})
    return {
        name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not missing and value != []
    }


def options_of(network: Any, args: Namespace) -> SoundOptions:
    """Return how to read a recording for a network: as in training, except for a given --channel."""
    options = SoundOptions.of_network(network.rate, getattr(network, "encoding", None), network.sound)
    return replace(options, channel=args.channel, mono_as_is=False) if "channel" in args else options


def threads_of(args: Namespace) -> int:
    """Return the given or the default number of threads; 0 means one per core."""
    threads: int | None = args.threads
    return runtime.default_threads() if threads is None else threads


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Convert the import error of an extra's package to an InputError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "charrnn", "bytecodec"):
            raise
        raise InputError(f"{package} is not installed: install it with pip install 'charrnn-sound[{extra}]'.") from None


def add_checkpoint(group: _ActionsContainer) -> None:
    """Add --checkpoint, which chooses a checkpoint of a run."""
    option(group, "--checkpoint WHICH", str, "checkpoint of a run: newest, best or an iteration", "newest")


def add_channel(group: _ActionsContainer, of: str) -> None:
    """Add --channel, which overrides the channel of training; the argument is absent unless it is given."""
    text = f"channel of {of}: {CHANNEL} (default: as in training; a mono file is read as it is)"
    option(group, "--channel N", parse_channel, text, SUPPRESS)


def add_encoding(group: _ActionsContainer, of: str) -> None:
    """Add --encoding of texts."""
    option(group, "--encoding NAME", encoding, f"encoding of {of} without a byte order mark", "utf-8")


ENGINE_THREADS = "as many as are the fastest, up to 8, in the cpu engine, and one per core in others"


def add_threads(
    group: _ActionsContainer, of: str = "", zero: str = "one per core", default: str = "CHARRNN_THREADS, or 0"
) -> None:
    """Add --threads; ``zero`` describes 0, and ``default`` what is used if it is not given, which leaves None."""
    text = f"CPU threads{of}; 0 for {zero} (default: {default})"
    option(group, "--threads N", whole(0, runtime.MAX_THREADS), text)
