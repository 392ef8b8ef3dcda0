"""Types of the values of flags, and flags that several commands have."""

from __future__ import annotations

import argparse
import codecs
import contextlib
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bytecodec.arguments import HIGHEST_RATE, LOWEST_RATE
from bytecodec.channels import parse_channel
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.data.recordings import SoundOptions

MAX_SHOWN = 40  # characters of a wrong value in a message
MAX_WHOLE = 2**63 - 1


def whole(least: int, most: int = MAX_WHOLE) -> Callable[[str], int]:
    """Return a parser of whole numbers in [least, most]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{_shown(text)} is not a whole number: {_range(least, most)}") from None
        if value < least:
            raise ArgumentTypeError(f"{value} is too small: {_range(least, most)}")
        if value > most:
            raise ArgumentTypeError(f"{value} is too large: it must be from {least} to {most}")
        return value

    return parse


def number(least: float, most: float = float("inf"), above: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers in [least, most], or in (least, most] if ``above``."""
    limits = f"{'more than' if above else 'at least'} {least:g} and finite"
    if most != float("inf"):
        limits += f", and at most {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{_shown(text)} is not a number: it must be {limits}") from None
        if not (least < value if above else least <= value) or value > most or abs(value) == float("inf"):
            raise ArgumentTypeError(f"{text} is not {limits}")
        return value

    return parse


def number_or(word: str, least: float) -> Callable[[str], float | str]:
    """Return a parser of finite numbers of at least ``least``, or a word."""

    def parse(text: str) -> float | str:
        if text == word:
            return text
        try:
            return number(least)(text)
        except ArgumentTypeError as error:
            raise ArgumentTypeError(f"{error}, or {word!r}") from None

    return parse


def encoding(text: str) -> str:
    """Return Python's name of a text encoding."""
    try:
        codecs.getincrementaldecoder(text)().decode(b"", True)
        name = codecs.lookup(text).name
        "".encode(name)  # fails for codecs that are not of text, such as base64
    except (LookupError, UnicodeError):
        raise ArgumentTypeError(
            f"{text!r} is not the name of a text encoding, such as utf-8, latin-1 or utf-16"
        ) from None
    return name


def numbers(least: float) -> Callable[[str], list[float]]:
    """Return a parser of lists of numbers of at least ``least``, separated by commas."""

    def parse(text: str) -> list[float]:
        return [number(least)(part) for part in text.split(",")]

    return parse


def _range(least: int, most: int) -> str:
    return f"it must be {least} or more" if most == MAX_WHOLE else f"it must be from {least} to {most}"


def _shown(text: str) -> str:
    """Return a value as messages show it, cut if it is long."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def path(text: str) -> str:
    """Return the name of a file or folder, and reject an empty one, which a script's unset variable gives."""
    if not text:
        raise ArgumentTypeError("it is empty: name a file or folder, or leave it out")
    return text


def options_of(network: Any, args: Namespace) -> SoundOptions:
    """Return how to read a recording for a network: as in training, except for a given --channel."""
    options = SoundOptions.of_network(network.rate, getattr(network, "encoding", None), network.sound)
    return replace(options, channel=args.channel, mono_as_is=False) if "channel" in args else options


def given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """Return the names of the arguments that are on the command line, not left at their defaults."""
    missing = object()
    blank = Namespace(**{action.dest: missing for action in parser._actions})
    return {
        name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not missing and value != []
    }


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import of an extra's package into an InputError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "charrnn", "bytecodec"):
            raise
        raise InputError(f"{package} is not installed: install it with pip install 'charrnn-sound[{extra}]'.") from None


# Flags of several commands. The help texts of those without a ``help`` argument are the same in all of them.


def add_checkpoint(p: argparse._ActionsContainer) -> None:
    """Add --checkpoint, which chooses a checkpoint of a run."""
    p.add_argument(
        "--checkpoint", default="newest", metavar="WHICH", help="checkpoint of a run: newest, best or an iteration"
    )


def add_rate(p: argparse._ActionsContainer, help: str) -> None:
    """Add --rate, a sampling rate in Hz."""
    p.add_argument("--rate", type=whole(LOWEST_RATE, HIGHEST_RATE), default=11025, metavar="HZ", help=help)


def add_channel(p: argparse._ActionsContainer, of: str) -> None:
    """Add --channel, which replaces the channel that the network was trained on; absent unless it is given."""
    p.add_argument(
        "--channel",
        type=parse_channel,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"channel {of}: left, right, a number from 1, or mix (default: as in training; a mono file has only one)",
    )


def add_encoding(p: argparse._ActionsContainer, help: str = "encoding of texts without a byte order mark") -> None:
    """Add --encoding of texts."""
    p.add_argument("--encoding", type=encoding, default="utf-8", metavar="NAME", help=help)


def add_table(p: argparse._ActionsContainer, help: str, metavar: str = "TABLE") -> None:
    """Add --table of texts that BinToUTF8 wrote."""
    p.add_argument("--table", type=path, metavar=metavar, help=help)


def add_skip_unreadable(p: argparse._ActionsContainer) -> None:
    """Add --skip-unreadable."""
    p.add_argument("--skip-unreadable", action="store_true", help="skip files that cannot be read, and list them")


def add_device(p: argparse._ActionsContainer, help: str) -> None:
    """Add --device to compute on."""
    p.add_argument("--device", choices=runtime.DEVICES, default="auto", help=help)


def add_precision(
    p: argparse._ActionsContainer, help: str, default: str = "auto", choices: Sequence[str] = runtime.PRECISIONS
) -> None:
    """Add --precision of the computation."""
    p.add_argument("--precision", choices=choices, default=default, help=help)


def add_threads(p: argparse._ActionsContainer, of: str = "", default: str = "CHARRNN_THREADS, or 0") -> None:
    """Add --threads; ``default`` describes what is used if it is not given, which leaves None."""
    p.add_argument(
        "--threads",
        type=whole(0, runtime.MAX_THREADS),
        default=None,
        metavar="N",
        help=f"number of CPU threads{of}; 0 for one per core (default: {default})",
    )
