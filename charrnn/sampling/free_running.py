"""Free running: what a network generates by itself, compared with the recording that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_array, check_integers, check_rate, check_whole
from bytecodec.errors import InputError
from bytecodec.pcm import bytes_to_int16
from charrnn.sampling.audio_metrics import (
    WINDOW,
    clipped_share,
    distance_of_spectra,
    in_decibels,
    level,
    level_drift,
    long_term_spectrum,
    peakiness,
    silent_share,
)
from charrnn.sampling.task import SamplingTask

MAX_STRETCHES = 60  # of a recording that are read, so that time does not depend on its length
FULL_SCALE = np.float32(32768)  # of 16-bit samples


@dataclass(frozen=True)
class Measures:
    """Measures of a sound, compared with a recording.

    Attributes
    ----------
    level
        Level relative to the recording's in dB.
    drift
        Drift of the level in dB per minute.
    spectrum_distance
        Distance of the long-term spectrum from the recording's in dB, which includes the difference in level.
    peakiness
        Height in dB of the highest narrow peak of the long-term spectrum.
    silent
        Share, 0 to 1, of blocks of 0.1 s that are more than 20 dB below the recording's level.
    clipped
        Share, 0 to 1, of samples that have the lowest or the highest value of the format.
    """

    level: float
    drift: float
    spectrum_distance: float
    peakiness: float
    silent: float
    clipped: float


class Reference:
    """A recording with which generated sounds are compared, and the same measures of stretches of it.

    A stretch is as long as a generated sound. At most 60 stretches are read, which do not overlap and are spread evenly
    over the recording; level and spectrum are those of all of them together. A recording that is shorter than a stretch
    is read whole, and has no ranges.

    Parameters
    ----------
    recording
        (n,) 8-bit linear or mu-law samples as uint8, or 16-bit samples as int16, n >= 1,024. One stretch at a time is
        copied into memory.
    rate
        Sampling rate in Hz, 1,000 to 768,000.
    length
        Number of samples in a generated sound, two seconds or more.
    is_mulaw
        Whether uint8 samples are mu-law.

    Attributes
    ----------
    stretches : int
        Number of stretches.
    ranges : dict or None
        Least and greatest value among the stretches for each of the `Measures`; None without a stretch.

    Raises
    ------
    InputError
        The recording has fewer samples or another type, or another argument is out of range.
    """

    def __init__(self, recording: NDArray[Any], rate: int, length: int, is_mulaw: bool = False) -> None:
        check_rate(rate)
        check_whole("length", length, 2 * rate)
        recording = check_array("recording", recording, 1)
        if recording.dtype not in (np.uint8, np.int16):
            raise InputError(f"recording is an array of {recording.dtype}; it must be uint8 or int16.")
        if (count := len(recording)) < WINDOW:
            raise InputError(f"the recording has {count:,} samples, and a comparison needs at least {WINDOW:,}.")
        self._recording, self._rate, self._is_mulaw = recording, rate, is_mulaw
        self.stretches = min(MAX_STRETCHES, count // length)
        self._size = min(length, count)
        self._starts = np.linspace(0, count - self._size, max(1, self.stretches)).round().astype(int).tolist()
        limits = np.iinfo(recording.dtype)
        values = self._as_int16(np.arange(limits.min, limits.max + 1).astype(recording.dtype))
        self._lowest, self._highest = int(values.min()), int(values.max())
        self._level, self._spectrum = self._level_and_spectrum()

    def measure(self, sound: NDArray[np.int16]) -> Measures:
        """Return the measures of a sound (n,) at the reference's rate; raise InputError if it is below two seconds."""
        check_integers("sound", sound, 1)
        x = sound / FULL_SCALE
        spectrum = long_term_spectrum(x, self._rate)
        return Measures(
            level(x) - self._level,
            level_drift(x, self._rate),
            distance_of_spectra(spectrum, self._spectrum, self._rate),
            peakiness(spectrum, self._rate),
            silent_share(x, self._rate, self._level),
            clipped_share(sound, self._lowest, self._highest),
        )

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]] | None:
        """Least and greatest value of each measure; see the class."""
        if not self.stretches:
            return None
        found = [asdict(self.measure(stretch)) for stretch in self._read()]
        return {name: (min(one[name] for one in found), max(one[name] for one in found)) for name in found[0]}

    def _level_and_spectrum(self) -> tuple[float, NDArray[np.float64]]:
        """Return the level in dB relative to full scale, and the long-term spectrum, of all stretches together."""
        means, variances, spectra = [], [], []
        for stretch in self._read():
            x = stretch / FULL_SCALE
            means.append(np.mean(x))
            variances.append(np.var(x))
            spectra.append(long_term_spectrum(x, self._rate))
        amplitude = np.sqrt(np.mean(variances) + np.var(means))
        return float(in_decibels(amplitude)), np.asarray(np.mean(spectra, axis=0))

    def _read(self) -> Iterator[NDArray[np.int16]]:
        for start in self._starts:
            yield self._as_int16(self._recording[start : start + self._size])

    def _as_int16(self, samples: NDArray[Any]) -> NDArray[np.int16]:
        return samples if samples.dtype == np.int16 else bytes_to_int16(samples, self._is_mulaw)


def sample(
    task: SamplingTask, seed: int, length: int, on_progress: Callable[[int], object] = lambda _: None
) -> NDArray[np.int16]:
    """Return 16-bit samples (length,) of the first stream of a network of sound, at temperature 1.

    They are what ``charrnn-sample --seed SEED`` writes. ``on_progress`` is called with the number of samples in each
    piece.
    """
    task.restart(1.0, seed)
    pieces = []
    for _, (piece, *_) in task.pieces(1, length):
        pieces.append(task.as_int16(piece))
        on_progress(len(piece))
    return np.concatenate(pieces)
