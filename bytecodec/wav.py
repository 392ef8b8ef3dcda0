"""Any recording to mono samples of 8 or 16 bits at one rate, in blocks."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_number, check_whole
from bytecodec.channels import Mixer
from bytecodec.console import copy_input
from bytecodec.errors import InputError
from bytecodec.formats import require_recording
from bytecodec.quantize import FULL_SCALE, SILENCE, Levels, Quantiser, Quantiser16

#: The rates, in Hz, that are believed: what lies outside is a damaged header or a slip of the finger.
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000

Source: TypeAlias = str | os.PathLike[str] | BinaryIO
Samples: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int | None], object]

_BLOCK = 1 << 19  # values in a block, of all channels together, before or after resampling
_LOUDEST = 2.0**31  # of full scale: what a floating-point file says beyond this is damage
_CUT = r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)"  # in libsndfile's log of WAV, AIFF, AU
_UNKNOWN_BYTES = 0x7F000000  # what is written to a pipe announces this or more, for want of the true length
_LOUD_GAIN = 40.0  # dB: a recording that --normalize amplifies by more is mostly noise


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
    tell: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Iterator[NDArray[Any]]:
    """Read a recording as 8-bit mono samples at one rate.

    Channels are averaged, or one is taken, the rate is changed by `bytecodec.resample.Resampler`, and a sample x of
    16 bits becomes floor(x / 256 + 1/2) + 128, at most 255: each byte stands for 256 neighbouring values, and silence
    is 128. A mono 8-bit file at the wanted rate comes out as it is, byte for byte. Not-a-number becomes silence,
    infinity full scale.

    Parameters
    ----------
    source
        A path, or a file open for reading bytes, at its beginning; any format that libsndfile reads. What is
        no regular file, such as a pipe, is first copied to a temporary file.
    rate
        Of the bytes, in Hz, 1,000 to 768,000.
    start, duration
        The part to take, in seconds of the recording; without duration, up to its end.
    channel
        The one to take, counted from 1; None for the mean of all.
    mono_as_is
        Take a recording of one channel whatever ``channel`` says.
    remove_dc
        Subtract the mean of the part that is taken, which takes a pass more.
    normalize
        Bring the peak, without that mean, to full scale, which takes a pass more.
    set_gain_db
        With normalize, the gain of a set of recordings that this one belongs to, in place of its own.
    gain_db
        Amplify by so much; with normalize, from full scale. -200 to 200.
    dither
        Add triangular noise of two steps peak to peak before rounding, always the same. A mono 8-bit file at the
        wanted rate has nothing to be rounded, and gets none.
    mulaw
        Give the bytes of G.711 mu-law in place of linear ones.
    bits
        8, or 16 for int16 samples floor(32768 x + 1/2): a mono 16-bit file at the wanted rate comes out as it is.
    tell
        Is called with each sentence that a person should read: cut short, clipped, quiet, channels that cancel.
    progress
        Is called after each block with the frames read so far and, if known, the frames there are to read.

    Yields
    ------
    uint8 (n,), or int16 (n,)
        The next samples, at least one in all.

    Raises
    ------
    InputError
        At once: a parameter is out of its range. While reading: the source is no recording, is damaged, has a
        rate out of range, has no such channel, or holds no samples in the part asked for; the sentence names it.
    OSError
        The source cannot be opened or read.
    """
    check_rate(rate)
    _check_part(start, duration)
    if channel is not None:
        check_whole("channel", channel, 1)
    check_number("gain_db", gain_db, -200, 200)
    if mulaw and dither:
        raise InputError("dither is for linear samples: leave it out, or mulaw.")
    if bits not in (8, 16) or (bits == 16 and (mulaw or dither)):
        raise InputError(f"bits is {bits!r}, and has to be 8, or 16 without mulaw and dither.")
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise InputError(f"source is a {type(source).__name__}, and has to be a path or a file open for reading.")
    part = (start, duration)
    gain = (normalize, set_gain_db if normalize else None, gain_db)
    options = _Options(rate, part, channel, mono_as_is, remove_dc, *gain, dither, mulaw, bits)
    return _read(source, options, tell or _ignore, progress or _ignore)


def measure_peak(
    source: Source,
    rate: int = 11025,
    *,
    channel: int | None = None,
    remove_dc: bool = False,
    progress: Progress | None = None,
) -> float:
    """Return the highest magnitude that `read_blocks` would round without a gain, where full scale is 1.

    Raises InputError and OSError as `read_blocks` does.
    """
    options = _Options(rate, channel=channel, remove_dc=remove_dc)
    with _regular_file(source) as (file, name):
        passes = _Passes(file, name, options, 1 + remove_dc, progress or _ignore)
        return passes.peak(passes.mean() if remove_dc else 0.0)


def normalizing_gain(peak: float) -> float:
    """Return the factor that brings a peak to full scale; 1 for silence."""
    return FULL_SCALE / peak if peak > SILENCE else 1.0


def check_rate(rate: int, what: str = "a rate") -> None:
    """Raise InputError for a rate that is no whole number, or outside 1 to 768 kHz."""
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise InputError(f"{what} of {rate!r} Hz is no whole number.")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"{what} of {rate:,} Hz is out of range: 1,000 to 768,000 Hz are possible.")


def _check_part(start: float, duration: float | None) -> None:
    check_number("start", start, 0)
    if duration is not None:
        check_number("duration", duration, 0, above=True)


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class _Options:
    """The parameters of `read_blocks` that say how samples become bytes."""

    rate: int
    part: tuple[float, float | None] = (0.0, None)
    channel: int | None = None
    mono_as_is: bool = False
    remove_dc: bool = False
    normalize: bool = False
    set_gain_db: float | None = None
    gain_db: float = 0.0
    dither: bool = False
    mulaw: bool = False
    bits: int = 8


def _read(
    source: Source, options: _Options, tell: Callable[[str], object], progress: Progress
) -> Iterator[NDArray[Any]]:
    with _regular_file(source) as (file, name):
        measures_peak = options.normalize and options.set_gain_db is None
        passes = _Passes(file, name, options, 1 + options.remove_dc + measures_peak, progress)
        mean = passes.mean() if options.remove_dc else 0.0
        gain = normalizing_gain(passes.peak(mean)) if measures_peak else 10 ** ((options.set_gain_db or 0) / 20)
        scale = gain * 10 ** (options.gain_db / 20)
        recording = passes.next()
        exact = recording.is_8_bit and recording.rate == options.rate and scale == 1 and mean == 0
        levels = Levels(options.rate, options.bits, options.mulaw, options.normalize, options.remove_dc)
        quantise: Callable[[Samples], NDArray[Any]]
        if options.bits == 16:
            quantise = Quantiser16(scale, levels)
        else:
            quantise = Quantiser(scale, options.dither and not exact, options.mulaw, levels)
        for block in _resampled(recording, options.rate, mean):
            yield quantise(block)
        cancelled = recording.mixer.cancelled()
        sentences = [recording.ended_early(), cancelled]
        if not cancelled:  # or the level is that of what they left of each other
            sentences += levels.sentences()
            if 20 * math.log10(gain) > _LOUD_GAIN:
                sentences.append(f"is amplified by {20 * math.log10(gain):.0f} dB to full scale, its noise as well.")
        for sentence in filter(None, sentences):
            tell(f"{name} {sentence}")


class _Passes:
    """The passes over a recording, one after the other, with the progress of all of them together."""

    def __init__(self, file: BinaryIO, name: str, options: _Options, count: int, progress: Progress) -> None:
        self._file, self._name, self._options = file, name, options
        self._left, self._done, self._progress = count, 0, progress
        self._last: _Recording | None = None

    def mean(self) -> float:
        """Read it once for the mean of its samples, before the rate is changed."""
        total, count = 0.0, 0
        for block in self._blocks(self.next()):
            total, count = total + float(block.sum(dtype=np.float64)), count + len(block)
        return total / count

    def peak(self, mean: float) -> float:
        """Read it once for the highest magnitude of its samples less ``mean``, after the rate is changed."""
        blocks = _resampled(self.next(), self._options.rate, mean)
        return max(float(np.abs(block).max()) for block in blocks)

    def next(self) -> _Recording:
        """Return the recording, to be read once from its beginning."""
        self._done += self._last.frames_read if self._last else 0
        done, left = self._done, self._left
        self._left -= 1
        options = self._options
        self._last = _Recording(
            self._file,
            self._name,
            options.part,
            lambda n, of: self._progress(done + n, of and done + left * of),
            options.channel,
            options.mono_as_is,
        )
        return self._last

    @staticmethod
    def _blocks(recording: _Recording) -> Iterator[Samples]:
        return recording.blocks(max(1, _BLOCK // recording.channels))


@contextlib.contextmanager
def _regular_file(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """Open the source where it is a path, and copy what libsndfile cannot seek in; also gives it a name."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO
        if isinstance(source, str | os.PathLike):
            file, name = stack.enter_context(open(source, "rb")), os.fspath(source)
        else:
            file, name = source, str(getattr(source, "name", "the recording"))
            name = "standard input" if name == "<stdin>" else name
        if not _is_regular(file):
            file = copy_input(file, name, stack.enter_context(tempfile.TemporaryFile()))
        yield file, name


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # as an io.BytesIO says that it has no descriptor
        return False


class _Recording:
    """A recording under way through libsndfile: one pass over the part that is wanted, as mono blocks."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        part: tuple[float, float | None],
        progress: Progress,
        channel: int | None,
        mono_as_is: bool,
    ) -> None:
        self.name = name
        self._sound = _open_sound(file, name)
        self.rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        check_rate(self.rate, f"{name}: a rate")
        channel = None if mono_as_is and self.channels == 1 else channel
        self.mixer = Mixer(self.channels, self.rate, channel, name)
        one = self.channels == 1 or channel is not None
        self.is_8_bit = self._sound.subtype in ("PCM_U8", "PCM_S8") and one  # the mean of several lies between bytes
        self.frames_read = 0
        self._frames: int | None = self._sound.frames if self._sound.frames < 2**62 else None  # 2 ** 63 - 1: unknown
        self._first = round(part[0] * self.rate)
        self._end = None if part[1] is None else self._first + max(1, round(part[1] * self.rate))
        self._progress = progress

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield float32 (n,) with full scale 1, of size frames at most.

        What comes before the part is read too: it takes little time, and not every codec seeks to the exact frame.
        """
        goal = min((n for n in (self._end, self._frames) if n is not None), default=None)
        buffer = np.empty((size, self.channels), np.float32)
        while self._end is None or self.frames_read < self._end:
            wanted = size if self._end is None else min(size, self._end - self.frames_read)
            frames = self._read_into(buffer[:wanted])
            if not len(frames):
                break
            unwanted = max(0, self._first - self.frames_read)
            self.frames_read += len(frames)
            self._progress(self.frames_read, goal)
            if unwanted < len(frames):
                yield self.mixer(frames[unwanted:])
        if self.frames_read == 0:
            raise InputError(f"{self.name} holds no sound: no whole sample is found in it.")
        if self.frames_read <= self._first:
            length = self.frames_read / self.rate
            raise InputError(
                f"{self.name} is {length:.2f} s long, and was to be taken from {self._first / self.rate:.2f} s on."
            )

    def _read_into(self, buffer: Samples) -> Samples:
        from soundfile import LibsndfileError

        try:
            frames: Samples = self._sound.read(out=buffer)
        except LibsndfileError as error:
            raise InputError(
                f"{self.name} is damaged beyond {self.frames_read / self.rate:.2f} s ({_reason(error)}). "
                "A duration up to there takes what is whole."
            ) from None
        if self._sound.subtype in ("FLOAT", "DOUBLE"):
            np.nan_to_num(frames, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
            np.clip(frames, -_LOUDEST, _LOUDEST, out=frames)
        return frames

    def ended_early(self) -> str:
        """What to say where less came than was announced; it is taken all the same, as sox and ffmpeg do."""
        said = re.search(_CUT, self._sound.extra_info, re.MULTILINE)
        if self._end is not None or self._frames is None:
            return ""
        if said and int(said[2]) < int(said[1]) < _UNKNOWN_BYTES:
            promised, there = int(said[1]), int(said[2])
            return f"is cut short: its header promises {promised:,} bytes of sound; the {there:,} there are taken."
        if self.frames_read > 0.95 * self._frames:  # MP3 knows its length only nearly
            return ""
        announced, read = self._frames / self.rate, self.frames_read / self.rate
        return f"is cut short: {announced:.2f} s were announced; the {read:.2f} s that are there are taken."


def _open_sound(file: BinaryIO, name: str) -> Any:
    """Open a regular file with libsndfile, from its beginning."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """Reads on without the seek that soundfile adds to each read: FLAC of unknown length cannot do it."""

        def seekable(self) -> bool:
            return False

    if os.fstat(file.fileno()).st_size == 0:
        raise InputError(f"{name} is empty: it has 0 bytes.")
    require_recording(file, name)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return Forward(file.fileno(), closefd=False)  # by its number: of a name, soundfile would judge by the ending


def _reason(error: Any) -> str:
    return f"libsndfile: {error.error_string.removeprefix('Error : ').rstrip('.')}"


def _resampled(recording: _Recording, rate: int, mean: float) -> Iterator[Samples]:
    """Yield the samples less ``mean`` at another rate."""
    size = max(1, _BLOCK // max(recording.channels, -(-rate // recording.rate)))
    blocks = recording.blocks(size)
    if mean:
        blocks = (block - np.float32(mean) for block in blocks)
    if rate == recording.rate:
        yield from blocks
        return
    from bytecodec.resample import Resampler

    resampler = Resampler(recording.rate, rate)
    for block in blocks:
        yield from filter(len, [resampler.feed(block)])
    yield from filter(len, [resampler.close()])
