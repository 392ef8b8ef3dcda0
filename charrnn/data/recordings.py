"""Conversion of recordings to the symbols or samples of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

import bytecodec
from bytecodec.console import log, progress
from bytecodec.reader import measure_peak, normalizing_gain
from charrnn.data.inputs import Input, Unreadable

NORMALIZE_OVER = ("files", "set")
MAX_GAIN = 200.0  # in dB, the limit of `bytecodec.read_blocks`


@dataclass(frozen=True)
class SoundOptions:
    """Options for the conversion of recordings; the fields have the meaning of charrnn-train's flags."""

    rate: int = 11025
    normalize: bool = False
    gain_db: float = 0.0
    mulaw: bool = False
    channel: int | None = None  # counted from 1; None for the mean of all
    remove_dc: bool = False
    normalize_over: str = "files"
    set_gain_db: float | None = None  # of each recording with normalize_over="set"; None until it has been measured
    mono_as_is: bool = False  # whether to read a recording that has only one channel, whatever ``channel`` is

    @property
    def encoding(self) -> str:
        return "mulaw" if self.mulaw else "linear"

    def to_json(self) -> dict[str, Any]:
        """Return the options to store in config.json and checkpoints, without the rate and the encoding."""
        return {name: value for name, value in asdict(self).items() if name not in ("rate", "mulaw", "mono_as_is")}

    @classmethod
    def of_network(cls, rate: int | None, encoding: str | None, stored: dict[str, Any] | None) -> SoundOptions:
        """Return how to read another recording for a network, from the options that its checkpoint stores.

        A recording of one channel is read whatever the channel.
        """
        return cls(rate=rate or cls.rate, mulaw=encoding == "mulaw", mono_as_is=True, **(stored or {}))


def read_sound(file: Input, options: SoundOptions, bits: int, quiet: bool) -> Iterator[NDArray[Any]]:
    """Yield the bytes or 16-bit samples of a recording, with a progress bar."""
    with progress(file.size, "B", quiet, unit_scale=True, desc=file.name) as bar, file.open() as source:
        yield from bytecodec.read_blocks(
            source,
            options.rate,
            channel=options.channel,
            mono_as_is=options.mono_as_is,
            remove_dc=options.remove_dc,
            normalize=options.normalize,
            set_gain_db=options.set_gain_db,
            gain_db=options.gain_db,
            mulaw=options.mulaw,
            bits=bits,
            on_message=lambda message: log(message, quiet),
            on_progress=partial(_show, bar),
        )


def with_gain_of_set(
    options: SoundOptions, files: list[Input], unreadable: Unreadable
) -> tuple[SoundOptions, list[Input]]:
    """Measure, if necessary, the gain that normalizes the recordings among the files as a set.

    Return the options with this gain, and the readable files.
    """
    if not options.normalize or options.normalize_over != "set" or options.set_gain_db is not None:
        return options, files
    peak, kept = 0.0, []
    for file in files:
        if not file.is_sound:
            kept.append(file)
            continue
        with (
            unreadable.handle_errors(file.name),
            progress(file.size, "B", unreadable.quiet, unit_scale=True, desc=f"peak of {file.name}") as bar,
            file.open() as source,
        ):
            show = partial(_show, bar)
            peak_of_one = measure_peak(
                source, options.rate, channel=options.channel, remove_dc=options.remove_dc, on_progress=show
            )
            peak = max(peak, peak_of_one)
            kept.append(file)
    return replace(options, set_gain_db=min(20 * math.log10(normalizing_gain(peak)), MAX_GAIN)), kept


def _show(bar: Any, done: int, of: int | None) -> None:
    """Move a progress bar of bytes to the position of frame ``done``, if the number of frames is known."""
    bar.update(bar.total * done / of - bar.n if of else 0)
