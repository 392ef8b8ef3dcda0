"""How recordings become the symbols or samples of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from numpy.typing import NDArray

import bytecodec
from bytecodec.console import progress, say
from bytecodec.wav import measure_peak, normalizing_gain
from charrnn.inputs import Input, Unreadable

NORMALIZE_OVER = ("files", "set")
MOST_GAIN = 200.0  # dB, of `bytecodec.read_blocks`


@dataclass(frozen=True)
class SoundOptions:
    """How recordings become bytes or samples; the fields mean what the flags of charrnn-train mean.

    Attributes
    ----------
    channel
        Counted from 1, or None for the mean of all.
    set_gain_db
        The gain that ``normalize_over="set"`` gives to each recording, once it has been measured.
    mono_as_is
        Whether a recording of one channel is taken whatever ``channel`` says.
    """

    rate: int = 11025
    normalize: bool = False
    gain_db: float = 0.0
    mulaw: bool = False
    channel: int | None = None
    remove_dc: bool = False
    normalize_over: str = "files"
    set_gain_db: float | None = None
    mono_as_is: bool = False

    @property
    def encoding(self) -> str:
        """The name of what a byte means."""
        return "mulaw" if self.mulaw else "linear"

    def to_json(self) -> dict[str, Any]:
        """Return what config.json and checkpoints keep beside the rate and the encoding."""
        return {name: value for name, value in asdict(self).items() if name not in ("rate", "mulaw", "mono_as_is")}

    @classmethod
    def of_network(cls, rate: int | None, encoding: str | None, kept: dict[str, Any] | None) -> SoundOptions:
        """Return how to read another recording for a network, from what is kept of the ones that it was trained on.

        A recording of one channel is taken as it is. A ValueError where ``kept`` is not of the form of `to_json`.
        """
        kept = check_sound(kept) or {}
        return cls(rate=rate or cls.rate, mulaw=encoding == "mulaw", mono_as_is=True, **kept)


def check_sound(kept: Any) -> dict[str, Any] | None:
    """Return what `SoundOptions.to_json` wrote, or a part of it; a ValueError where it is something else."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_GAIN

    valid: dict[str, Callable[[Any], bool]] = {
        "channel": lambda value: value is None or (type(value) is int and value >= 1),
        "remove_dc": lambda value: isinstance(value, bool),
        "normalize": lambda value: isinstance(value, bool),
        "normalize_over": lambda value: value in NORMALIZE_OVER,
        "gain_db": is_number,
        "set_gain_db": lambda value: value is None or is_number(value),
    }
    if kept is None:
        return None
    if not isinstance(kept, dict) or not kept.keys() <= valid.keys():
        raise ValueError(f"sound is {kept!r}")
    for name, value in kept.items():
        if not valid[name](value):
            raise ValueError(f"{name} of sound is {value!r}")
    return kept


def read_sound(file: Input, options: SoundOptions, bits: int, quiet: bool) -> Iterator[NDArray[Any]]:
    """Yield the bytes, or samples of 16 bits, of a recording, with a progress bar."""
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
            tell=lambda sentence: say(sentence, quiet),
            progress=lambda done, of: _show(bar, done, of),
        )


def with_gain_of_set(
    options: SoundOptions, files: list[Input], unreadable: Unreadable, quiet: bool
) -> tuple[SoundOptions, list[Input]]:
    """Measure, where it has to be, the gain that normalizes the recordings among the files together.

    Returns the options with it, and the files without those that turned out to be unreadable.
    """
    if not options.normalize or options.normalize_over != "set" or options.set_gain_db is not None:
        return options, files
    peak, kept = 0.0, []
    for file in files:
        if not file.is_sound:
            kept.append(file)
            continue
        with (
            unreadable.noting(file.name),
            progress(file.size, "B", quiet, unit_scale=True, desc=f"peak of {file.name}") as bar,
            file.open() as source,
        ):
            peak_of_one = measure_peak(
                source,
                options.rate,
                channel=options.channel,
                remove_dc=options.remove_dc,
                progress=lambda done, of, bar=bar: _show(bar, done, of),  # type: ignore[misc]
            )
            peak = max(peak, peak_of_one)
            kept.append(file)
    return replace(options, set_gain_db=min(20 * math.log10(normalizing_gain(peak)), MOST_GAIN)), kept


def _show(bar: Any, done: int, of: int | None) -> None:
    """Move a bar of a file's bytes to where ``done`` of the frames lie, if it is known how many there are."""
    bar.update(bar.total * done / of - bar.n if of else 0)
