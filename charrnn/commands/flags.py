"""Kinds of values that flags take; a wrong one exits with 2 and says what would be right."""

from __future__ import annotations

import argparse
import codecs
import contextlib
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bytecodec.channels import parse_channel
from bytecodec.errors import InputError
from charrnn.data.recordings import SoundOptions

LONGEST_SHOWN = 40  # characters of a wrong value in a message


def whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A whole number in [least, most]."""

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
    """A finite number in [least, most], or in (least, most] if ``above``."""
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
    """A finite number of at least ``least``, or a word."""

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
        "".encode(name)  # fails for codecs of other things than text, such as base64
    except (LookupError, UnicodeError):
        raise ArgumentTypeError(
            f"{text!r} is not the name of a text encoding, such as utf-8, latin-1 or utf-16"
        ) from None
    return name


def numbers(least: float) -> Callable[[str], list[float]]:
    """Numbers of at least ``least``, with commas between them."""

    def parse(text: str) -> list[float]:
        return [number(least)(part) for part in text.split(",")]

    return parse


def _range(least: int, most: int) -> str:
    return f"it must be {least} or more" if most == 2**63 - 1 else f"it must be from {least} to {most}"


def _shown(text: str) -> str:
    """Return a value as messages show it, cut if it is long."""
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")


def path(text: str) -> str:
    """The name of a file or folder. An empty one, as a script's unset variable gives, is not taken for no flag."""
    if not text:
        raise ArgumentTypeError("it is empty: name a file or folder, or leave it out")
    return text


def add_channel(p: argparse._ActionsContainer, of: str) -> None:
    """Add --channel, which replaces the channel that the network was trained on."""
    p.add_argument(
        "--channel",
        type=parse_channel,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"channel {of}: left, right, a number from 1, or mix (default: as in training; a mono file has only one)",
    )


def options_of(network: Any, args: Namespace) -> SoundOptions:
    """Return how to read a recording for a network: as in training, apart from a --channel that is given."""
    options = SoundOptions.of_network(network.rate, getattr(network, "encoding", None), network.sound)
    return replace(options, channel=args.channel, mono_as_is=False) if "channel" in args else options


def given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """The names of the arguments that stand on the command line, as against those left at their defaults."""
    missing = object()
    blank = Namespace(**{action.dest: missing for action in parser._actions})
    return {
        name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not missing and value != []
    }


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the import of what an extra brings; an InputError that says how to get it where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "charrnn", "bytecodec"):
            raise
        raise InputError(
            f"{package} is not installed, which this takes: pip install 'charrnn-sound[{extra}]' brings it."
        ) from None
