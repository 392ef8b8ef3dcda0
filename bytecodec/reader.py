"""Recordings of any format as mono samples of 8 or 16 bits at one rate, in blocks."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_number, check_rate, check_whole
from bytecodec.errors import InputError
from bytecodec.files import copy_input, is_regular
from bytecodec.pcm import FULL_SCALE, SILENCE, Levels, Quantiser

if TYPE_CHECKING:  # imported when a recording is read: other commands start faster without it
    from bytecodec.recording import Progress, RecordingPass

Source: TypeAlias = str | os.PathLike[str] | BinaryIO

_LOUD_GAIN = 40.0  # in dB; a recording that --normalize amplifies by more is mostly noise


def read_blocks(
    source: Source,
    rate: int = 11025,
    *,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
    mono_as_is: bool = False,
    remove_dc: bool = False,
    normalize: bool = False,
    set_gain_db: float | None = None,
    gain_db: float = 0.0,
    dither: bool = False,
    mulaw: bool = False,
    bits: int = 8,
    on_message: Callable[[str], object] | None = None,
    on_progress: Progress | None = None,
) -> Iterator[NDArray[Any]]:
    """Read a recording as mono samples at one rate.

    A 16-bit sample x becomes the byte floor(x / 256 + 1/2) + 128, at most 255, so that silence is 128. A mono 8-bit
    file at the requested rate is returned unchanged. Not-a-number becomes silence, and infinity full scale.

    Parameters
    ----------
    source
        A path, or a file open for reading bytes, at its beginning, in any format that libsndfile reads. A pipe is
        first copied to a temporary file.
    rate
        Rate of the samples in Hz, 1,000 to 768,000; see `bytecodec.resample.Resampler`.
    start, duration
        The part to read, in seconds of the recording; without duration, up to its end.
    channel
        The channel to read, counted from 1; None for the mean of all.
    mono_as_is
        Read a recording that has only one channel, whatever ``channel`` is.
    remove_dc
        Subtract the mean of the part that is read, which requires another pass.
    normalize
        Amplify so that the peak reaches full scale, which requires another pass, after ``remove_dc``.
    set_gain_db
        With normalize, the gain in dB of the set that the recording belongs to, instead of its own.
    gain_db
        Gain in dB, -200 to 200; with normalize, relative to full scale.
    dither
        Add triangular noise of two steps peak to peak before rounding, the same in each call. A mono 8-bit file at the
        requested rate is neither rounded nor dithered.
    mulaw
        Return the bytes of G.711 mu-law instead of linear ones.
    bits
        8, or 16 for int16 samples floor(32768 x + 1/2).
    on_message
        Called with each message for the user, such as that the recording is cut short, clipped or quiet.
    on_progress
        Called after each block with the number of frames read so far and the total number, or None if it is unknown.

    Yields
    ------
    uint8 (n,), or int16 (n,)
        The next samples, at least one in all.

    Raises
    ------
    InputError
        Before reading: a parameter is out of its range. While reading: the source is not a recording, is damaged, has a
        rate out of range, does not have the channel, or has no samples in the part.
    OSError
        The source cannot be opened or read.
    """
    gain = (normalize, set_gain_db if normalize else None, gain_db)
    options = _Options(rate, start, duration, channel, mono_as_is, remove_dc, *gain, dither, mulaw, bits)
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise InputError(f"source is a {type(source).__name__}; it must be a path or a file open for reading.")
    return _quantise(source, options, on_message or _ignore, on_progress or _ignore)


def measure_peak(
    source: Source,
    rate: int = 11025,
    *,
    channel: int | None = None,
    remove_dc: bool = False,
    on_progress: Progress | None = None,
) -> float:
    """Return the highest magnitude that `read_blocks` would round without a gain, where full scale is 1.

    Raises InputError and OSError as `read_blocks` does.
    """
    options = _Options(rate, channel=channel, remove_dc=remove_dc)
    with _regular_file(source) as (file, name):
        passes = _Passes(file, name, options, 1 + remove_dc, on_progress or _ignore)
        return passes.peak(passes.mean() if remove_dc else 0.0)


def normalizing_gain(peak: float) -> float:
    """Return the factor that amplifies a peak to full scale; 1 for silence."""
    return FULL_SCALE / peak if peak > SILENCE else 1.0


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class _Options:
    """The parameters of `read_blocks` for the conversion of samples to bytes."""

    rate: int
    start: float = 0.0
    duration: float | None = None
    channel: int | None = None
    mono_as_is: bool = False
    remove_dc: bool = False
    normalize: bool = False
    set_gain_db: float | None = None
    gain_db: float = 0.0
    dither: bool = False
    mulaw: bool = False
    bits: int = 8

    def __post_init__(self) -> None:
        check_rate(self.rate)
        check_number("start", self.start, 0)
        if self.duration is not None:
            check_number("duration", self.duration, 0, above=True)
        if self.channel is not None:
            check_whole("channel", self.channel, 1)
        check_number("gain_db", self.gain_db, -200, 200)
        if self.mulaw and self.dither:
            raise InputError("dither is for linear samples: omit it or mulaw.")
        if self.bits not in (8, 16) or (self.bits == 16 and (self.mulaw or self.dither)):
            raise InputError(f"bits is {self.bits!r}; it must be 8, or 16 without mulaw and dither.")


def _quantise(
    source: Source, options: _Options, on_message: Callable[[str], object], on_progress: Progress
) -> Iterator[NDArray[Any]]:
    with _regular_file(source) as (file, name):
        measures_peak = options.normalize and options.set_gain_db is None
        passes = _Passes(file, name, options, 1 + options.remove_dc + measures_peak, on_progress)
        mean = passes.mean() if options.remove_dc else 0.0
        gain = normalizing_gain(passes.peak(mean)) if measures_peak else 10 ** ((options.set_gain_db or 0) / 20)
        scale = gain * 10 ** (options.gain_db / 20)
        recording = passes.next()
        exact = recording.first.is_8_bit and recording.first.rate == options.rate and scale == 1 and mean == 0
        levels = Levels(options.rate, options.bits, options.mulaw, options.normalize, options.remove_dc)
        quantise = Quantiser(scale, options.bits, options.mulaw, options.dither and not exact, levels)
        for block in recording.blocks(options.rate, mean):
            yield quantise(block)
        messages = list(recording.messages)
        if not recording.cancelled:  # the level of a mix whose channels cancelled is not that of the recording
            messages += levels.messages()
            if 20 * math.log10(gain) > _LOUD_GAIN:
                messages.append(f"is amplified by {20 * math.log10(gain):.0f} dB to full scale, and so is its noise.")
        for message in messages:
            on_message(f"{name} {message}")


class _Passes:
    """The passes over a recording, with their common progress."""

    def __init__(self, file: BinaryIO, name: str, options: _Options, count: int, on_progress: Progress) -> None:
        self._file, self._name, self._options = file, name, options
        self._left, self._done, self._on_progress = count, 0, on_progress
        self._last: RecordingPass | None = None

    def mean(self) -> float:
        """Read the recording once, and return the mean of its samples before the rate is changed."""
        return self.next().mean()

    def peak(self, mean: float) -> float:
        """Read it once, and return the highest magnitude of its samples minus ``mean`` after the rate is changed."""
        return max(float(np.abs(block).max()) for block in self.next().blocks(self._options.rate, mean))

    def next(self) -> RecordingPass:
        """Return the next pass, which reads the recording from its beginning."""
        from bytecodec.recording import RecordingPass, Selection

        self._done += self._last.frames_read if self._last else 0
        done, left, options = self._done, self._left, self._options
        self._left -= 1

        def on_progress(frames: int, total: int | None) -> None:
            self._on_progress(done + frames, total and done + left * total)

        selection = Selection(options.start, options.duration, options.channel, options.mono_as_is)
        self._last = RecordingPass(self._file, self._name, selection, on_progress)
        return self._last


@contextlib.contextmanager
def _regular_file(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """Return an open regular file, which is a copy if the source is a pipe, and its name in messages."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO
        if isinstance(source, str | os.PathLike):
            file, name = stack.enter_context(open(source, "rb")), os.fspath(source)
        else:
            file, name = source, str(getattr(source, "name", "the recording"))
            name = "standard input" if name == "<stdin>" else name
        if not is_regular(file):
            file = copy_input(file, name, stack.enter_context(tempfile.TemporaryFile()))
        yield file, name
