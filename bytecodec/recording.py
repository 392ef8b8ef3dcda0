"""One pass over a file: the recordings that are joined in it, as mono blocks of floating-point samples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_rate
from bytecodec.channels import Mixer
from bytecodec.containers.libsndfile import PartFile, SoundReader, open_sound, reason
from bytecodec.containers.part import Part, count_bytes, is_blank
from bytecodec.containers.repair import find_parts
from bytecodec.errors import InputError, NoChannelError
from bytecodec.formats import require_recording, unreadable_message

Samples: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int | None], object]

_BLOCK = 1 << 19  # values in a block, of all channels together, before or after resampling
_LOUDEST = 2.0**31  # relative to full scale; larger floating-point samples indicate damage
_MAX_MESSAGES = 10  # about one file
_ENCODER_FRAMES = 4608  # largest number of samples that an MP3 encoder adds and its decoder removes
_NEARLY = 0.95  # share of the announced frames; MP3 files announce only an approximate length


@dataclass(frozen=True)
class Selection:
    """The part and the channel of a file that are read; see `bytecodec.read_blocks`."""

    start: float = 0.0
    duration: float | None = None
    channel: int | None = None
    mono_as_is: bool = False


class RecordingPass:
    """One pass over the selected part of a file, through all recordings that are joined in it."""

    def __init__(
        self, file: BinaryIO, name: str, selection: Selection | None = None, on_progress: Progress = lambda *_: None
    ) -> None:
        self._size = os.fstat(file.fileno()).st_size
        if not self._size:
            raise InputError(f"{name} is empty: it has 0 bytes.")
        require_recording(file, name)
        self.name = name
        self.frames_read = 0  # of all recordings so far
        self.messages: list[str] = []  # to follow the file's name; complete after the pass
        self.cancelled = False  # whether channels cancelled each other in the mix, which is also a message
        self._unreported = 0
        self._seconds = 0.0
        self._file = file
        self._selection = selection or Selection()
        self._on_progress = on_progress
        self._parts = find_parts(file, self._size)
        first = next(self._parts)
        # Whether the file is one recording whose header, as far as it can be checked, is intact.
        self.is_simple = self._is_whole(first) and not first.messages
        self.first = self._open(first, self._selection)

    def blocks(self, rate: int, mean: float = 0.0) -> Iterator[Samples]:
        """Yield float32 (n,) with full scale 1 at a rate in Hz, minus ``mean``."""
        for recording in self._recordings():
            yield from _resample(recording, rate, mean)

    def mean(self) -> float:
        """Read all samples, and return their mean before the rate is changed."""
        total = seconds = 0.0
        for recording in self._recordings():
            for block in recording.blocks(max(1, _BLOCK // recording.channels)):
                total += float(block.sum(dtype=np.float64)) / recording.rate
                seconds += len(block) / recording.rate
        return total / seconds

    def _recordings(self) -> Iterator[_Recording]:
        """Yield each recording, to be read to its end before the next one."""
        recording: _Recording | None = self.first
        count, any_selected, is_over = 0, False, False
        while recording is not None:
            yield recording
            count += recording.frames_read > 0
            any_selected = any_selected or recording.any_selected
            self._add(recording, count)
            is_over = recording.is_over
            recording = None if is_over else self._next_recording()
        if self.frames_read == 0:
            raise InputError(f"{self.name} contains no sound: no whole sample is found in it.")
        if not any_selected:
            raise InputError(
                f"{self.name} is {self._seconds:.2f} s long: nothing can be read from {self._selection.start:.2f} s on."
            )
        if self._unreported:
            self.messages.append(f"has {self._unreported:,} more faults of this kind.")
        if count > 1 and not is_over:
            self.messages.append(f"consists of {count:,} parts joined end to end: all {self._seconds:.2f} s are read.")

    def _add(self, recording: _Recording, count: int) -> None:
        """Add the length and the messages of a recording that has been read."""
        self.frames_read += recording.frames_read
        self._seconds += recording.frames_read / recording.rate
        messages = recording.messages()
        if cancellation := recording.mixer.cancellation_message():
            self.cancelled = True
            messages.append(cancellation)
        self._report([f"(part {count}) {message}" if count > 1 else message for message in messages])

    def _next_recording(self) -> _Recording | None:
        """Open the next recording in the file, or return None if there is none in the selected part."""
        start, duration = self._selection.start, self._selection.duration
        begin = max(start, self._seconds)
        rest = None if duration is None else start + duration - begin
        if rest is not None and rest <= 0:
            return None
        for part in self._parts:
            try:
                return self._open(part, replace(self._selection, start=begin - self._seconds, duration=rest))
            except NoChannelError as error:  # the part can be read: skipping it would lose good sound
                raise InputError(f"{error} This is the recording joined to it at {self._seconds:.2f} s.") from None
            except InputError:
                count = count_bytes(part.end - part.begin)
                message = f"continues from byte {part.begin:,} with {count} that are not a readable recording"
                self._report([f"{message}: they are skipped. ffmpeg may convert the whole file to WAV."])
        return None

    def _report(self, messages: list[str]) -> None:
        room = max(0, _MAX_MESSAGES - len(self.messages))
        self.messages += messages[:room]
        self._unreported += len(messages[room:])

    def _is_whole(self, part: Part) -> bool:
        """Return whether a part is the whole, unchanged file."""
        return (part.begin, part.end, part.header) == (0, self._size, b"")

    def _open(self, part: Part, selection: Selection) -> _Recording:
        before, is_only = self.frames_read, part.next == self._size and not self.frames_read

        def on_progress(frames: int, total: int | None) -> None:
            self._on_progress(before + frames, total if is_only else None)

        part_file = None if self._is_whole(part) else PartFile(self._file, part)
        return _Recording(self._file, self.name, part, part_file, selection, self._seconds, on_progress)


class _Recording:
    """Reader of one recording of a file, up to the end of the selected part."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        part: Part,
        part_file: PartFile | None,
        selection: Selection,
        seconds_before: float,
        on_progress: Progress,
    ) -> None:
        from soundfile import LibsndfileError

        self.name = name
        self._file, self._part, self._part_file = file, part, part_file
        try:
            self._reader = SoundReader(lambda: open_sound(part_file or file), self._is_spent)
        except LibsndfileError as error:
            if part_file and part_file.error:
                raise part_file.error from None
            raise InputError(f"{name} {unreadable_message(reason(error))}") from None
        self.rate: int = self._reader.rate
        self.channels: int = self._reader.channels
        check_rate(self.rate, f"{name}: a rate")
        channel = None if selection.mono_as_is and self.channels == 1 else selection.channel
        self.mixer = Mixer(self.channels, self.rate, channel, name)
        is_mono = self.channels == 1 or channel is not None
        # A mean of several channels may lie between two bytes.
        self.is_8_bit = self._reader.subtype in ("PCM_U8", "PCM_S8") and is_mono
        self.any_selected = False
        self._seconds_before = seconds_before  # duration of the recordings before this one
        self._on_progress = on_progress
        self._first = round(selection.start * self.rate)
        duration = selection.duration
        self._end = None if duration is None else self._first + max(1, round(duration * self.rate))

    @property
    def frames_read(self) -> int:
        """Number of frames read so far, including those before the selected part."""
        return self._reader.frames_read

    @property
    def is_over(self) -> bool:
        """Whether the selected part has been read."""
        return self._end is not None and self.frames_read >= self._end

    def blocks(self, size: int) -> Iterator[Samples]:
        """Yield float32 (n,) with full scale 1, at most ``size`` frames at a time.

        Frames before the selected part are read and discarded, because not every codec seeks to the exact frame.
        """
        total = min((n for n in (self._end, self._reader.frames) if n is not None), default=None)
        buffer = np.empty((size, self.channels), np.float32)
        while not self.is_over:
            requested = size if self._end is None else min(size, self._end - self.frames_read)
            to_skip = max(0, self._first - self.frames_read)
            frames = self._read_into(buffer[:requested])
            if not len(frames):
                break
            self._on_progress(self.frames_read, total)
            if to_skip < len(frames):
                self.any_selected = True
                yield self.mixer(frames[to_skip:])

    def _read_into(self, buffer: Samples) -> Samples:
        from soundfile import LibsndfileError

        try:
            frames = self._reader.read_into(buffer)
        except LibsndfileError as error:
            seconds = math.floor(100 * (self._seconds_before + self.frames_read / self.rate)) / 100
            raise InputError(
                f"{self.name} is damaged beyond {seconds:.2f} s (libsndfile: {reason(error)}). "
                f"`wav2utf8 --duration {seconds:.2f}` converts the part before it."
            ) from None
        if self._part_file and self._part_file.error:
            raise self._part_file.error
        if self._reader.subtype in ("FLOAT", "DOUBLE"):
            np.nan_to_num(frames, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
            np.clip(frames, -_LOUDEST, _LOUDEST, out=frames)
        return frames

    def _is_spent(self) -> bool:
        """Return whether only zeros or nothing follow what libsndfile has read."""
        return is_blank(self._file, self._offset(), self._part.end)

    def _offset(self) -> int:
        """Return the offset in the file up to which libsndfile has read."""
        return self._part_file.offset if self._part_file else os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def messages(self) -> list[str]:
        """Return messages about a recording that was read to its end; as in SoX, damage does not reject its samples."""
        if self.is_over:
            return []
        seconds = self.frames_read / self.rate
        announced = self._reader.frames
        if self._part.frames is not None:  # MPEG audio has a few frames without sound at both ends
            announced = max(0, self._part.frames - _ENCODER_FRAMES)
        messages = [message.format(seconds=seconds) for message in self._part.messages]
        if self._part.cut_short:
            return messages
        if self._reader.cut_short and announced is None:
            messages.append(f"is cut short: it ends after {seconds:.2f} s within a frame; the sound before it is read.")
        container = self._reader.container
        if announced is not None and self.frames_read < announced * (1 if container in ("FLAC", "OGG") else _NEARLY):
            # A missing end of Ogg and MP3 has been reported with the part: frames that are missing here are damaged.
            what = "is damaged" if container in ("OGG", "MP3") else "is cut short"
            messages.append(
                f"{what}: {announced / self.rate:.2f} s were announced; the {seconds:.2f} s in the file are read."
            )
        rest = self._part.end - self._offset()
        if container == "FLAC" and rest > 0:
            messages.append(f"has {count_bytes(rest)} or more after its sound: they are skipped.")
        return messages


def _resample(recording: _Recording, rate: int, mean: float) -> Iterator[Samples]:
    """Yield the samples minus ``mean`` at another rate."""
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
