"""Recordings as pictures: envelope and spectrogram in as many columns as there are pixels, and the marks in a WAV."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bytecodec.containers.libsndfile import silent_stderr
from bytecodec.errors import InputError
from bytecodec.recording import Pass

Floats = NDArray[np.float32]

WINDOW = 0.046  # seconds that a spectrum looks at: 512 samples at 11025 Hz
LOOKS = 4  # spectra that are averaged, at most, in one column
RANGE = 70.0  # dB below the loudest that are shown


@dataclass(frozen=True)
class SoundPicture:
    """A recording in columns.

    Attributes
    ----------
    low, high
        (columns,) the least and greatest sample in each, full scale 1.
    decibels
        (bins, columns) power spectra over full scale, from 0 Hz to half the rate.
    rate, frames
        In Hz; and how many there are.
    marks
        Seconds at which segments begin, where the WAV has cue points.
    """

    low: Floats
    high: Floats
    decibels: Floats
    rate: int
    frames: int
    marks: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """The length."""
        return self.frames / self.rate


def read_sound(path: Path, tell: Callable[[str], object] = lambda _: None) -> tuple[Floats, int]:
    """Return a whole recording, mono (n,) with full scale 1, and the rate in Hz of its first part.

    ``tell`` is called with messages for the user, such as that the recording is cut short. Raise InputError if the file
    is not a recording or is damaged in the middle.
    """
    with path.open("rb") as file:
        reading = Pass(file, str(path))
        samples = np.concatenate(list(reading.blocks(reading.first.rate)))
    for message in reading.messages:
        tell(f"{path} {message}")
    return samples, reading.first.rate


def picture_of(
    path: Path,
    columns: int,
    done: Callable[[int], object] = lambda _: None,
    tell: Callable[[str], object] = lambda _: None,
) -> SoundPicture:
    """Return the envelope and the spectrogram of a recording.

    Only a recording that has several parts or is damaged is read into memory as a whole.

    Parameters
    ----------
    columns
        How many, at most: a sound has no more than it has samples.
    done
        Called with the number of columns since the last call.
    tell
        Called with messages for the user, such as that the recording is cut short.

    Raises
    ------
    InputError
        The file is not a recording, holds no sound, or is damaged in the middle.
    """
    import soundfile

    with path.open("rb") as file:
        if Pass(file, str(path)).is_simple:
            with contextlib.suppress(soundfile.LibsndfileError), silent_stderr():
                return _seeking(path, file, columns, done)
    samples, rate = read_sound(path, tell)
    parts = _columns(lambda start, count: samples[start : start + count], len(samples), rate, columns, done)
    return SoundPicture(*parts, rate, len(samples), cue_points(path, rate))


def _seeking(path: Path, file: BinaryIO, columns: int, done: Callable[[int], object]) -> SoundPicture:
    """Return the picture of a recording that has one part, by seeking."""
    import soundfile

    file.seek(0)
    with soundfile.SoundFile(
        file.fileno(), closefd=False
    ) as sound:  # with a name, soundfile would choose the format by its ending
        if not sound.frames:
            raise InputError(f"{path} holds no sound: no whole sample is found in it.")

        def read(start: int, count: int) -> Floats:
            sound.seek(start)
            return _mono(sound.read(count, dtype="float32", always_2d=True))

        parts = _columns(read, sound.frames, sound.samplerate, columns, done)
        return SoundPicture(*parts, sound.samplerate, sound.frames, cue_points(path, sound.samplerate))


def picture(samples: Floats, rate: int, columns: int) -> SoundPicture:
    """The same of samples (n,) that are there, n >= 1."""
    parts = _columns(lambda start, count: samples[start : start + count], len(samples), rate, columns, lambda _: None)
    return SoundPicture(*parts, rate, len(samples))


def window_length(rate: int) -> int:
    """Samples that a spectrum looks at: a power of two, nearly `WINDOW` seconds."""
    return int(2 ** max(4, round(np.log2(WINDOW * rate))))


def spectra(windows: Floats) -> Floats:
    """Powers (m, w / 2 + 1) of windows (m, w), of which a sine at full scale has 1 at its peak."""
    shape = np.hanning(windows.shape[1]).astype(np.float32)
    return np.asarray(np.abs(np.fft.rfft(windows * shape, axis=1)) ** 2 / (shape.sum() / 2) ** 2, np.float32)


def cue_points(path: Path, rate: int) -> tuple[float, ...]:
    """Seconds of the cue points of a WAV, which charrnn-sample puts where a segment begins; () of anything else."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return ()
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name != b"cue ":
                file.seek(size + size % 2, 1)
                continue
            data = file.read(min(size, 1 << 20))
            points = (struct.unpack_from("<I", data, at + 20)[0] for at in range(4, len(data) - 23, 24))
            return tuple(sorted(point / rate for point in points))
    return ()


def _columns(
    read: Callable[[int, int], Floats], frames: int, rate: int, columns: int, done: Callable[[int], object]
) -> tuple[Floats, Floats, Floats]:
    count, window = min(columns, frames), window_length(rate)
    low, high = np.zeros((2, count), np.float32)
    decibels = np.empty((window // 2 + 1, count), np.float32)
    edges = np.linspace(0, frames, count + 1).astype(np.int64)
    for column, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        begin = max(0, (start + stop - window) // 2 if stop - start < window else start)
        block = read(begin, max(window, stop - start))
        inside = block[start - begin : stop - begin]
        if len(inside):
            low[column], high[column] = inside.min(), inside.max()
        block = np.pad(block, (0, max(0, window - len(block))))
        looks = np.linspace(0, len(block) - window, min(LOOKS, -(-len(block) // window))).astype(np.int64)
        power = spectra(block[looks[:, None] + np.arange(window)]).mean(axis=0)
        decibels[:, column] = 10 * np.log10(power + 1e-12)
        if column % 256 == 255:
            done(256)
    return low, high, decibels


def _mono(frames: Floats) -> Floats:
    return np.asarray(np.nan_to_num(frames.mean(axis=1)), np.float32)
