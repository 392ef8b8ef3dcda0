"""Measures of sound over seconds and minutes: level and drift, long-term spectrum, peaks, silence and clipping."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bytecodec.arguments import check_number, check_rate, check_real, check_whole
from bytecodec.errors import InputError

WINDOW = 1024  # samples of a spectrum
BINS = WINDOW // 2 + 1
WINDOWS_AT_ONCE = 1024  # windows that are transformed together, which limits the memory
LOWEST, HIGHEST = 50.0, 0.45  # limits of the band: in Hz, and relative to the rate
DYNAMIC_RANGE = 60.0  # dB below the highest bin or level, to which lower ones are raised
NEIGHBOURS = 20  # bins on each side with which a peak is compared
BLOCK_SECONDS = 1.0  # in which the level is measured for its drift
SILENT_SECONDS = 0.1  # in which the level is measured for silence; most pauses of speech are longer
SILENT = 20.0  # dB below the reference level at which a block is silent
SILENCE = 1e-9


def level(x: NDArray[Any]) -> float:
    """Return the level of samples (n,) of full scale 1 in dB relative to full scale."""
    return float(in_decibels(np.std(x)))


def in_decibels(amplitude: Any) -> NDArray[np.float64]:
    """Convert rms amplitudes of full scale 1 to dB relative to full scale; silence is at -180 dB."""
    return np.asarray(20 * np.log10(amplitude + SILENCE), dtype=np.float64)


def long_term_spectrum(x: NDArray[Any], rate: int) -> NDArray[np.float64]:
    """Return the long-term average spectrum of a sound: its power density (513,) at multiples of rate / 1,024 Hz.

    It is the mean of the periodograms of all windows of 1,024 samples (Welch 1967). Hann windows overlap by
    half, and the mean of each is subtracted.

    Parameters
    ----------
    x
        (n,) of any scale, 1,024 samples or more.
    rate
        Sampling rate in Hz, 1,000 to 768,000.

    Raises
    ------
    InputError
        The sound is shorter, contains values that are not finite, or the rate is invalid.
    """
    check_rate(rate)
    return _spectrum("x", x, rate)


def spectrum_distance(x: NDArray[Any], y: NDArray[Any], rate: int) -> float:
    """Return the rms difference over the bins, in dB, of the long-term average spectra of two sounds.

    A difference in level counts, too. Bins from 50 Hz to 0.45 times the rate are compared. Bins more than 60 dB below
    the highest one of either sound count as 60 dB below it.

    Parameters
    ----------
    x, y
        (n,) and (m,), full scale 1, each of 1,024 samples or more.
    rate
        Sampling rate of both in Hz, 1,000 to 768,000.

    Raises
    ------
    InputError
        A sound is shorter, contains values that are not finite, or the rate is invalid.
    """
    check_rate(rate)
    return distance_of_spectra(_spectrum("x", x, rate), _spectrum("y", y, rate), rate)


def distance_of_spectra(a: NDArray[Any], b: NDArray[Any], rate: int) -> float:
    """Return the `spectrum_distance` of two sounds of full scale 1, given their long-term spectra (513,).

    Raises
    ------
    InputError
        A spectrum has another length or values that are not finite and at least 0, or the rate is invalid.
    """
    check_rate(rate)
    bands = [_decibels(_check_spectrum(name, power))[_band(rate)] for name, power in (("a", a), ("b", b))]
    floor = max(band.max() for band in bands) - DYNAMIC_RANGE
    difference = np.subtract(*(np.maximum(band, floor) for band in bands))
    return float(np.sqrt(np.mean(difference**2)))


def peakiness(spectrum: NDArray[Any], rate: int) -> float:
    """Return the height in dB of the highest narrow peak in the long-term spectrum (513,) of a sound of full scale 1.

    The height of a bin is its excess over the median of the 20 bins below it or of the 20 bins above it, whichever is
    higher. A whistle is therefore a peak, but the slope at the edge of a filter is not. Bins from 50 Hz to 0.45 times
    the rate are considered; those more than 60 dB below the highest one count as 60 dB below it. A pure tone has a
    peakiness of 60 dB, and a minute of white noise one below 1 dB.

    Raises
    ------
    InputError
        The spectrum has another length or values that are not finite and at least 0, or the rate is invalid.
    """
    check_rate(rate)
    bins = _decibels(_check_spectrum("spectrum", spectrum))
    inside = np.flatnonzero(_band(rate))
    bins = np.maximum(bins, bins[inside].max() - DYNAMIC_RANGE)

    def height(k: int) -> float:
        sides = bins[max(0, k - NEIGHBOURS) : k], bins[k + 1 : k + 1 + NEIGHBOURS]
        return float(bins[k] - max(map(np.median, sides)))

    return max(0.0, *map(height, inside.tolist()))


def level_drift(x: NDArray[Any], rate: int) -> float:
    """Return the drift of the level of samples (n,) in dB per minute.

    It is the slope of a line fitted to the levels of seconds. Seconds more than 60 dB below the loudest one count as 60
    dB below it, so that pauses have little influence.

    Raises
    ------
    InputError
        The samples are shorter than two seconds or not finite numbers (n,), or the rate is invalid.
    """
    check_whole("rate", rate, 1)
    x = check_real("x", x, 1)
    levels = _levels(x, round(BLOCK_SECONDS * rate))
    if len(levels) < 2:
        raise InputError(f"{len(x)} samples are shorter than the two seconds that a slope needs.")
    levels = np.maximum(levels, levels.max() - DYNAMIC_RANGE)
    return float(np.polyfit(np.arange(len(levels)) * BLOCK_SECONDS / 60, levels, 1)[0])


def silent_share(x: NDArray[Any], rate: int, reference: float) -> float:
    """Return the share, 0 to 1, of a sound that is silent: more than 20 dB below a reference level.

    Parameters
    ----------
    x
        (n,) of full scale 1. Its blocks of 0.1 s, which is shorter than most pauses of speech, are silent or not.
    rate
        Sampling rate in Hz, 1,000 to 768,000.
    reference
        `level` of a recording that the sound should resemble.

    Raises
    ------
    InputError
        The sound is shorter than 0.1 s or contains values that are not finite, or another argument is invalid.
    """
    check_rate(rate)
    x = check_real("x", x, 1)
    threshold = check_number("reference", reference, -np.inf, above=True) - SILENT
    levels = _levels(x, round(SILENT_SECONDS * rate))
    if not len(levels):
        raise InputError(f"x has {len(x)} samples, and at least {SILENT_SECONDS:g} s are needed.")
    return float(np.mean(levels < threshold))


def clipped_share(x: NDArray[Any], lowest: float, highest: float) -> float:
    """Return the share, 0 to 1, of samples (n,), n >= 1, at or beyond the lowest or highest value of their format.

    Raises
    ------
    InputError
        There are no samples, or values that are not finite numbers, or ``lowest`` is not less than ``highest``.
    """
    x = check_real("x", x, 1)
    lowest = check_number("lowest", lowest, -np.inf, above=True)
    highest = check_number("highest", highest, lowest, above=True)
    if not len(x):
        raise InputError("x has no samples.")
    return float(np.mean((x <= lowest) | (x >= highest)))


def _spectrum(name: str, x: Any, rate: int) -> NDArray[np.float64]:
    samples = check_real(name, x, 1)
    if len(samples) < WINDOW:
        raise InputError(f"{name} has {len(samples)} samples, and at least {WINDOW:,} are needed.")
    window = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2  # Hann's, periodic
    windows = sliding_window_view(samples, WINDOW)[:: WINDOW // 2]
    power = np.zeros(BINS)
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        some = windows[first : first + WINDOWS_AT_ONCE].astype(np.float64)
        some -= some.mean(axis=1, keepdims=True)
        power += np.square(np.abs(np.fft.rfft(some * window, axis=1))).sum(axis=0)
    power[1:-1] *= 2  # the negative frequencies
    return power / (len(windows) * rate * float(np.sum(window**2)))


def _check_spectrum(name: str, value: Any) -> NDArray[Any]:
    power = check_real(name, value, 1)
    if len(power) != BINS or (power < 0).any():
        raise InputError(f"{name} is not a long-term spectrum: it must have {BINS} values of at least 0.")
    return power


def _decibels(power: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(power + SILENCE**2))


def _band(rate: int) -> NDArray[np.bool_]:
    """Return which bins (513,) of a spectrum are in the band that is compared."""
    frequency = np.arange(BINS) * rate / WINDOW
    return np.asarray((frequency >= LOWEST) & (frequency <= HIGHEST * rate))


def _levels(x: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Return the levels of whole blocks of samples."""
    blocks = np.asarray(x)[: len(x) // size * size].reshape(-1, size)
    return in_decibels(blocks.std(axis=1))
