"""Envelope and spectrogram of recordings, in one column per pixel, and the cue points of WAV files."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bytecodec.containers.headers import riff_chunks
from bytecodec.containers.libsndfile import silent_stderr
from bytecodec.containers.part import read_at
from bytecodec.errors import InputError
from bytecodec.recording import RecordingPass
from charrnn.viz.curves import OnMessage, OnProgress, ignore

Floats = NDArray[np.float32]

WINDOW = 0.046  # seconds per spectrum: 512 samples at 11025 Hz
MAX_CUES = 1 << 20  # bytes of cue points that are read
MAX_SPECTRA = 4  # averaged in one column
DISPLAY_RANGE = 70.0  # dB below the loudest value


@dataclass(frozen=True)
class SoundPicture:
    """Envelope and spectrogram of a recording.

    Attributes
    ----------
    low, high
        (columns,) least and greatest sample in each column, full scale 1.
    decibels
        (bins, columns) power relative to a sine at full scale, from 0 Hz to half the rate.
    rate, frames
        Sampling rate in Hz, and number of samples.
    marks
        Cue points in seconds, at which segments begin.
    """

    low: Floats
    high: Floats
    decibels: Floats
    rate: int
    frames: int
    marks: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


def read_sound(path: Path, on_message: OnMessage = ignore) -> tuple[Floats, int]:
    """Return a whole recording, mono (n,) with full scale 1, and the rate in Hz of its first part.

    ``on_message`` is called with messages for the user, such as that the recording is cut short. Raise InputError if
    the file is not a recording, contains no sound, or is damaged in the middle.
    """
    with path.open("rb") as file:
        reading = RecordingPass(file, str(path))
        samples = np.concatenate(list(reading.blocks(reading.first.rate)))
    for message in reading.messages:
        on_message(f"{path} {message}")
    return samples, reading.first.rate


def picture_of_file(
    path: Path, columns: int, on_progress: OnProgress = ignore, on_message: OnMessage = ignore
) -> SoundPicture:
    """Return the envelope and the spectrogram of a recording.

    There are at most ``columns`` columns, and at most one per sample. Only a recording that has several parts or is
    damaged is read into memory as a whole. ``on_progress`` is called with the number of columns since the last call.
    See `read_sound` for messages and errors.
    """
    import soundfile

    with path.open("rb") as file:
        if RecordingPass(file, str(path)).is_simple:
            with contextlib.suppress(soundfile.LibsndfileError), silent_stderr():
                return _picture_by_seeking(path, file, columns, on_progress)
    samples, rate = read_sound(path, on_message)
    return replace(picture_of_samples(samples, rate, columns, on_progress), marks=cue_points(path, rate))


def _picture_by_seeking(path: Path, file: BinaryIO, columns: int, on_progress: OnProgress) -> SoundPicture:
    """Return the picture of a recording that has one part, by seeking."""
    import soundfile

    file.seek(0)
    # Given a name, soundfile would select the format by its suffix.
    with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
        if not sound.frames:
            raise InputError(f"{path} contains no sound: no whole sample is found in it.")

        def read(start: int, count: int) -> Floats:
            sound.seek(start)
            frames = sound.read(count, dtype="float32", always_2d=True)
            return np.asarray(np.nan_to_num(frames.mean(axis=1)), np.float32)

        picture = _picture(read, sound.frames, sound.samplerate, columns, on_progress)
    return replace(picture, marks=cue_points(path, picture.rate))


def picture_of_samples(samples: Floats, rate: int, columns: int, on_progress: OnProgress = ignore) -> SoundPicture:
    """Return the envelope and the spectrogram of samples (n,), n >= 1."""
    return _picture(lambda start, count: samples[start : start + count], len(samples), rate, columns, on_progress)


def _picture(
    read: Callable[[int, int], Floats], frames: int, rate: int, columns: int, on_progress: OnProgress
) -> SoundPicture:
    """Return the picture of a recording of which ``read(start, count)`` returns a part."""
    count, window = min(columns, frames), window_length(rate)
    low, high = np.zeros((2, count), np.float32)
    levels = np.empty((window // 2 + 1, count), np.float32)
    edges = np.linspace(0, frames, count + 1).astype(np.int64).tolist()
    for column, (start, stop) in enumerate(pairwise(edges)):
        begin = max(0, (start + stop - window) // 2 if stop - start < window else start)
        block = read(begin, max(window, stop - start))
        inside = block[start - begin : stop - begin]
        if len(inside):
            low[column], high[column] = inside.min(), inside.max()
        block = np.pad(block, (0, max(0, window - len(block))))
        starts = np.linspace(0, len(block) - window, min(MAX_SPECTRA, -(-len(block) // window))).astype(np.int64)
        levels[:, column] = decibels(spectra(block[starts[:, None] + np.arange(window)]).mean(axis=0))
        if column % 256 == 255:
            on_progress(256)
    return SoundPicture(low, high, levels, rate, frames)


def window_length(rate: int) -> int:
    """Return the number of samples per spectrum: the power of two nearest to `WINDOW` seconds."""
    return int(2 ** max(4, round(np.log2(WINDOW * rate))))


def spectra(windows: Floats) -> Floats:
    """Return the power spectra (m, w / 2 + 1) of windows (m, w); a sine at full scale has 1 at its peak."""
    shape = np.hanning(windows.shape[1]).astype(np.float32)
    return np.asarray(np.abs(np.fft.rfft(windows * shape, axis=1)) ** 2 / (shape.sum() / 2) ** 2, np.float32)


def decibels(power: Floats) -> Floats:
    """Return power in dB, -120 at least."""
    return np.asarray(10 * np.log10(power + 1e-12), np.float32)


def brightness(levels: Floats, quiet: float, loud: float) -> Floats:
    """Scale levels in dB linearly to [0, 1]: 0 at ``quiet`` or below, 1 at ``loud`` or above."""
    return np.asarray(np.clip((levels - quiet) / (loud - quiet), 0, 1), np.float32)


def cue_points(path: Path, rate: int) -> tuple[float, ...]:
    """Return the cue points of a WAV file in seconds, which charrnn-sample writes at segments; () for other files."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return ()
        for name, length, end in riff_chunks(file, 12, path.stat().st_size):
            if name == b"cue ":
                data = read_at(file, end - length, min(length, MAX_CUES))
                points = (struct.unpack_from("<I", data, at + 20)[0] for at in range(4, len(data) - 23, 24))
                return tuple(sorted(point / rate for point in points))
    return ()
