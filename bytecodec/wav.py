"""Any recording to mono samples of 8 or 16 bits at one rate, in blocks."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.containers import find_parts
from bytecodec.errors import InputError
from bytecodec.libsndfile import Decoder
from bytecodec.mulaw import encode_mulaw
from bytecodec.parts import Part, View, count_bytes, is_blank

#: The rates, in Hz, that are believed: what lies outside is a damaged header or a slip of the finger.
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000

Source: TypeAlias = str | os.PathLike[str] | BinaryIO
Samples: TypeAlias = NDArray[np.float32]

_BLOCK = 1 << 19  # values in a block, of all channels together, before or after resampling
_FULL_SCALE = 127 / 128  # the highest peak that is not cut off, where full scale is 1
_LOUDEST = 2.0**31  # of full scale: what a floating-point file says beyond this is damage
_MOST_MESSAGES = 10  # about one file
_ENCODER_FRAMES = 4608  # samples that an MP3 encoder adds, and its decoder takes away, at most
_NEARLY = 0.95  # of the announced frames: MP3 knows its length only nearly
_SILENCE = 1e-12  # a peak that no gain brings back
_QUIET_BITS = 6  # or fewer in use are worth a word
_DITHER_SEED = 0


def read_blocks(
    source: Source,
    rate: int = 11025,
    *,
    start: float = 0.0,
    duration: float | None = None,
    normalize: bool = False,
    gain_db: float = 0.0,
    dither: bool = False,
    mulaw: bool = False,
    bits: int = 8,
    tell: Callable[[str], object] | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> Iterator[NDArray[Any]]:
    """Read a recording as 8-bit mono samples at one rate.

    Channels are averaged, the rate is changed by `bytecodec.resample.Resampler`, and a sample x of 16 bits becomes
    floor(x / 256 + 1/2) + 128, at most 255: each byte stands for 256 neighbouring values, and silence is 128.
    A mono 8-bit file at the wanted rate comes out as it is, byte for byte. Not-a-number becomes silence,
    infinity full scale.

    Parameters
    ----------
    source
        A path, or a file open for reading bytes, at its beginning; any format that libsndfile reads. What is
        no regular file, such as a pipe, is first copied to a temporary file.
        Recordings that are joined end to end in it are read one after the other.
    rate
        Of the bytes, in Hz, 1,000 to 768,000.
    start, duration
        The part to take, in seconds of the recording; without duration, up to its end.
    normalize
        Bring the peak to full scale, which takes a pass more.
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
        Is called with each sentence that a person should read: cut short, clipped, quiet.
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
        rate out of range, or holds no samples in the part asked for; the sentence names it.
    OSError
        The source cannot be opened or read.
    """
    check_rate(rate)
    _check_part(start, duration)
    if not -200 <= gain_db <= 200:
        raise InputError(f"a gain of {gain_db:g} dB is out of range: take one from -200 to 200.")
    if mulaw and dither:
        raise InputError("dither is for linear samples: leave it out, or mulaw.")
    if bits not in (8, 16) or (bits == 16 and (mulaw or dither)):
        raise ValueError(f"bits is {bits!r}, and has to be 8, or 16 without mulaw and dither")
    part = (start, duration)
    return _read(source, rate, part, normalize, gain_db, dither, mulaw, bits, tell or _ignore, progress or _ignore)


def check_rate(rate: int, what: str = "a rate") -> None:
    """Raise InputError for a rate outside 1 to 768 kHz."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"{what} of {rate:,} Hz is out of range: 1,000 to 768,000 Hz are possible.")


def _check_part(start: float, duration: float | None) -> None:
    if not (0 <= start < math.inf):
        raise InputError(f"a start of {start:g} s is out of range: take one from 0 on.")
    if duration is not None and not (0 < duration < math.inf):
        raise InputError(f"a duration of {duration:g} s is out of range: take one above 0.")


def _ignore(*_: object) -> None:
    pass


def _read(
    source: Source,
    rate: int,
    part: tuple[float, float | None],
    normalize: bool,
    gain_db: float,
    dither: bool,
    mulaw: bool,
    bits: int,
    tell: Callable[[str], object],
    progress: Callable[[int, int | None], object],
) -> Iterator[NDArray[Any]]:
    with _regular_file(source) as (file, name):
        scale, done = 10 ** (gain_db / 20), 0
        if normalize:
            first = _Pass(file, name, part, lambda n, of: progress(n, of and 2 * of))
            peak = max(float(np.abs(block).max()) for block in first.blocks(rate))
            scale, done = scale * (_FULL_SCALE / peak if peak > _SILENCE else 1), first.frames_read
        recording = _Pass(file, name, part, lambda n, of: progress(done + n, of and done + of))
        exact = recording.first.is_8_bit_mono and recording.first.rate == rate and scale == 1
        quantise = _Quantiser16(scale) if bits == 16 else _Quantiser(scale, dither and not exact, mulaw)
        for block in recording.blocks(rate):
            yield quantise(block)
        for sentence in (*recording.messages, quantise.clipped_or_quiet()):
            if sentence:
                tell(f"{name} {sentence}")


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
            file = _copied(file, name, stack.enter_context(tempfile.TemporaryFile()))
        yield file, name


def _copied(file: BinaryIO, name: str, copy: BinaryIO) -> BinaryIO:
    try:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"{name} does not fit into {tempfile.gettempdir()}, where it is copied to first: "
            "free some space there, or set TMPDIR to another folder."
        ) from None
    return copy


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # as an io.BytesIO says that it has no descriptor
        return False


class _Pass:
    """One pass over the part of a file that is wanted, through all recordings that are joined in it.

    Attributes
    ----------
    first
        The first recording.
    frames_read
        Frames of all recordings so far.
    messages
        What a person should read about the file, once the pass is over.
    """

    def __init__(
        self, file: BinaryIO, name: str, part: tuple[float, float | None], progress: Callable[[int, int | None], object]
    ) -> None:
        self.name = name
        self.frames_read = 0
        self.messages: list[str] = []
        self._unreported = 0
        self._seconds = 0.0
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._part = part
        self._progress = progress
        self._extents = find_parts(file, self._size)
        self.first = self._opened(next(self._extents, Part(0, 0, 0)), part)

    def blocks(self, rate: int) -> Iterator[Samples]:
        """Yield float32 (n,) at a rate in Hz, with full scale 1."""
        recording: _Recording | None = self.first
        count, any_taken, is_over = 0, False, False
        while recording is not None:
            yield from _resampled(recording, rate)
            count += recording.frames_read > 0
            any_taken = any_taken or recording.any_taken
            self.frames_read += recording.frames_read
            self._seconds += recording.frames_read / recording.rate
            self._report([f"(part {count}) {m}" if count > 1 else m for m in recording.messages()])
            is_over = recording.is_over
            recording = None if is_over else self._following()
        if self.frames_read == 0:
            raise InputError(f"{self.name} holds no sound: no whole sample is found in it.")
        if not any_taken:
            raise InputError(
                f"{self.name} is {self._seconds:.2f} s long, and was to be taken from {self._part[0]:.2f} s on."
            )
        if self._unreported:
            self.messages.append(f"has {self._unreported:,} more such faults.")
        if count > 1 and not is_over:
            self.messages.append(f"consists of {count:,} parts joined end to end: all {self._seconds:.2f} s are read.")

    def _following(self) -> _Recording | None:
        """Open the next recording in the file; None: there is none, or it is not wanted."""
        start, duration = self._part
        begin = max(start, self._seconds)
        rest = None if duration is None else start + duration - begin
        if rest is not None and rest <= 0:
            return None
        for extent in self._extents:
            try:
                return self._opened(extent, (begin - self._seconds, rest))
            except InputError:
                count = count_bytes(extent.end - extent.begin)
                message = f"goes on with {count} from byte {extent.begin:,} on that are no recording that can be read"
                self._report([f"{message}: they are left out. ffmpeg may turn the whole into a WAV file."])
        return None

    def _report(self, messages: list[str]) -> None:
        room = max(0, _MOST_MESSAGES - len(self.messages))
        self.messages += messages[:room]
        self._unreported += len(messages[room:])

    def _opened(self, extent: Part, part: tuple[float, float | None]) -> _Recording:
        is_whole = (extent.begin, extent.end, extent.header) == (0, self._size, b"")
        before, is_only = self.frames_read, extent.next == self._size and not self.frames_read

        def progress(frames: int, goal: int | None) -> None:
            self._progress(before + frames, goal if is_only else None)

        return _Recording(self._file, self.name, part, progress, self._seconds, extent, is_whole)


class _Recording:
    """One recording of a file under way through libsndfile, up to the end of what is wanted of it."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        part: tuple[float, float | None],
        progress: Callable[[int, int | None], object],
        seconds_before: float,
        extent: Part,
        is_whole: bool,
    ) -> None:
        self.name = name
        self._file = file
        self._view = None if is_whole else View(file, extent)
        self._decoder = Decoder(lambda: _open_sound(self._view or file, name), self._is_spent)
        self.rate: int = self._decoder.rate
        self.channels: int = self._decoder.channels
        check_rate(self.rate, f"{name}: a rate")
        self.is_8_bit_mono = self._decoder.subtype in ("PCM_U8", "PCM_S8") and self.channels == 1
        self.any_taken = False
        self._seconds_before = seconds_before
        self._extent = extent
        self._first = round(part[0] * self.rate)
        self._end = None if part[1] is None else self._first + max(1, round(part[1] * self.rate))
        self._progress = progress

    @property
    def frames_read(self) -> int:
        """Frames so far, with those before what is wanted."""
        return self._decoder.frames_read

    @property
    def is_over(self) -> bool:
        """Whether all that was wanted has been read."""
        return self._end is not None and self.frames_read >= self._end

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield float32 (n,) with full scale 1, of size frames at most.

        What comes before the part is read too: it takes little time, and not every codec seeks to the exact frame.
        """
        goal = min((n for n in (self._end, self._decoder.frames) if n is not None), default=None)
        buffer = np.empty((size, self.channels), np.float32)
        while not self.is_over:
            wanted = size if self._end is None else min(size, self._end - self.frames_read)
            unwanted = max(0, self._first - self.frames_read)
            block = _mono(self._read_into(buffer[:wanted]))
            if not len(block):
                break
            self._progress(self.frames_read, goal)
            if unwanted < len(block):
                self.any_taken = True
                yield block[unwanted:]

    def _read_into(self, buffer: Samples) -> Samples:
        from soundfile import LibsndfileError

        try:
            frames = self._decoder.read_into(buffer)
        except LibsndfileError as error:
            seconds = math.floor(100 * (self._seconds_before + self.frames_read / self.rate)) / 100
            raise InputError(
                f"{self.name} is damaged beyond {seconds:.2f} s ({_reason(error)}). "
                "A duration up to there takes what is whole."
            ) from None
        if self._view and self._view.error:
            raise self._view.error
        if self._decoder.subtype in ("FLOAT", "DOUBLE"):
            np.nan_to_num(frames, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
            np.clip(frames, -_LOUDEST, _LOUDEST, out=frames)
        return frames

    def _is_spent(self) -> bool:
        """Return whether nothing but zeros, if that, follows what libsndfile has read."""
        return is_blank(self._file, self._offset(), self._extent.end)

    def _offset(self) -> int:
        """Return the offset in the file up to which libsndfile has read."""
        return self._view.offset if self._view else os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def messages(self) -> list[str]:
        """Return what to report of a recording that was read to its end; what is there is taken, as SoX does."""
        if self.is_over:
            return []
        seconds = self.frames_read / self.rate
        announced = self._decoder.frames
        if self._extent.frames is not None:  # MPEG audio, of which a few frames at both ends are no sound
            announced = max(0, self._extent.frames - _ENCODER_FRAMES)
        found = [message.format(seconds=seconds) for message in self._extent.messages]
        if any("cut short" in message for message in found):
            return found
        if self._decoder.cut_short and announced is None:
            found.append(f"is cut short: it ends after {seconds:.2f} s amid a frame; what is there is taken.")
        container = self._decoder.container
        if announced is not None and self.frames_read < announced * (1 if container in ("FLAC", "OGG") else _NEARLY):
            what = (
                "is damaged" if container in ("OGG", "MP3") else "is cut short"
            )  # these two have an end that is found
            found.append(
                f"{what}: {announced / self.rate:.2f} s were announced; the {seconds:.2f} s that are there are taken."
            )
        rest = self._extent.end - self._offset()
        if container == "FLAC" and rest > 0:
            found.append(f"has {count_bytes(rest)} or more after its sound: they are left out.")
        return found


def _open_sound(file: BinaryIO | View, name: str) -> Any:
    """Open a regular file, or a part of one, with libsndfile, from its beginning."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """Reads on without the seek that soundfile adds to each read: FLAC of unknown length cannot do it."""

        def seekable(self) -> bool:
            return False

    source: View | int
    if isinstance(file, View):
        source = file
        source.seek(0)
    else:
        source = file.fileno()  # of a name, soundfile would judge by the ending
        os.lseek(source, 0, os.SEEK_SET)
        if os.fstat(source).st_size == 0:
            raise InputError(f"{name} is empty: it has 0 bytes.")
    try:
        return Forward(source, closefd=False)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{name} is no recording that can be read ({_reason(error)}). "
            "ffmpeg may turn it into a WAV file; bin2utf8 takes the bytes of any file."
        ) from None


def _reason(error: Any) -> str:
    return f"libsndfile: {error.error_string.removeprefix('Error : ').rstrip('.')}"


def _mono(frames: Samples) -> Samples:
    """Average the channels: (n, channels) to (n,)."""
    total: Samples = sum(frames.T, np.zeros(len(frames), np.float32))  # one by one: no block then rounds differently
    return total / np.float32(frames.shape[1])


def _resampled(recording: _Recording, rate: int) -> Iterator[Samples]:
    size = max(1, _BLOCK // max(recording.channels, -(-rate // recording.rate)))
    if rate == recording.rate:
        yield from recording.blocks(size)
        return
    from bytecodec.resample import Resampler

    resampler = Resampler(recording.rate, rate)
    for block in recording.blocks(size):
        yield from filter(len, [resampler.feed(block)])
    yield from filter(len, [resampler.close()])


class _Quantiser:
    """Rounds samples of full scale 1 to bytes, and remembers how they filled their range."""

    def __init__(self, scale: float, dither: bool, mulaw: bool) -> None:
        self._scale = scale
        self._mulaw = mulaw
        self._noise = np.random.default_rng(_DITHER_SEED) if dither else None
        self._clipped = self._peak = 0

    def __call__(self, block: Samples) -> NDArray[np.uint8]:
        if self._mulaw:
            return encode_mulaw(np.clip(np.floor(block * (self._scale * 32768) + 0.5), -32768, 32767).astype(np.int16))
        values = block * np.float32(self._scale * 128) + np.float32(128.5)
        if self._noise is not None:
            values += self._noise.random((len(values), 2), np.float32).sum(axis=1) - 1
        low, high = values.min(), values.max()
        if low < 0 or high >= 257:  # from 256 on it is 255 too, but 32767 of 16 bits ends there and is not cut off
            self._clipped += int(np.count_nonzero((values < 0) | (values >= 257)))
        self._peak = max(self._peak, int(min(high, 255)) - 128, 128 - int(max(low, 0)))
        return values.clip(0, 255).astype(np.uint8)

    def clipped_or_quiet(self) -> str:
        bits = min(8, (2 * self._peak).bit_length())
        if self._clipped:
            return f"is too loud for full scale: samples clipped: {self._clipped:,}; --normalize keeps them whole."
        if self._mulaw or bits > _QUIET_BITS:
            return ""
        if bits == 0:
            return "is silent: every sample is 128."
        return f"is quiet: its peak uses {bits} of the 8 bits; --normalize brings it to full scale."


class _Quantiser16:
    """Rounds samples of full scale 1 to int16, and remembers how they filled their range."""

    def __init__(self, scale: float) -> None:
        self._scale = np.float32(scale * 32768)
        self._clipped = self._peak = 0

    def __call__(self, block: Samples) -> NDArray[np.int16]:
        values = np.floor(block * self._scale + np.float32(0.5))
        self._clipped += int(np.count_nonzero((values < -32768) | (values > 32768)))  # 32768: full scale
        values = values.clip(-32768, 32767)
        self._peak = max(self._peak, int(np.abs(values).max()))
        rounded: NDArray[np.int16] = values.astype(np.int16)
        return rounded

    def clipped_or_quiet(self) -> str:
        if self._clipped:
            return f"is too loud for full scale: samples clipped: {self._clipped:,}; --normalize keeps them whole."
        return "" if self._peak else "is silent: every sample is 0."
