"""Measures of generated sound over minutes: distance of its spectrum from a recording's, and drift of its level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_real, check_whole
from bytecodec.errors import InputError

WINDOW = 1024  # samples of a spectrum
LOWEST, HIGHEST = 50.0, 0.45  # limits of the band: in Hz, and relative to the rate
DYNAMICS = 60.0  # dB below the highest bin or level, to which lower ones are raised
BLOCK_SECONDS = 1.0  # in which a level is measured
SILENCE = 1e-9


def level(x: NDArray[Any]) -> float:
    """Return the level of samples (n,) of full scale 1 in dB relative to full scale."""
    return float(20 * np.log10(np.std(x) + SILENCE))


def spectrum_distance(x: NDArray[Any], y: NDArray[Any], rate: int) -> float:
    """Return the rms difference over the bins, in dB, of the long-term average spectra of two sounds.

    A difference in level counts, too. Bins from 50 Hz to 0.45 times the rate are compared. Bins more than 60 dB below
    the highest one of either sound count as 60 dB below it.

    Parameters
    ----------
    x, y
        (n,) and (m,), full scale 1, each of 1,024 samples or more.
    rate
        Sampling rate of both in Hz.

    Raises
    ------
    InputError
        A sound is shorter, contains values that are not finite, or the rate is invalid.
    """
    check_whole("rate", rate, 1)
    for name, samples in (("x", x), ("y", y)):
        if len(check_real(name, samples, 1)) < WINDOW:
            raise InputError(f"{name} has {len(samples)} samples, and at least {WINDOW:,} are needed.")
    from scipy.signal import welch  # slow to import

    bands = []
    for samples in (x, y):
        frequency, power = welch(samples, rate, nperseg=WINDOW)
        inside = power[(frequency >= LOWEST) & (frequency <= HIGHEST * rate)]
        bands.append(10 * np.log10(inside + SILENCE**2))
    floor = max(band.max() for band in bands) - DYNAMICS
    a, b = (np.maximum(band, floor) for band in bands)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def level_drift(x: NDArray[Any], rate: int) -> float:
    """Return the drift of the level of samples (n,) in dB per minute: the slope of a line through levels of seconds.

    Seconds more than 60 dB below the loudest one count as 60 dB below it, so that pauses have little influence.

    Raises
    ------
    InputError
        The samples are shorter than two seconds or not finite numbers (n,), or the rate is invalid.
    """
    check_whole("rate", rate, 1)
    x = check_real("x", x, 1)
    size = round(BLOCK_SECONDS * rate)
    blocks = np.asarray(x)[: len(x) // size * size].reshape(-1, size)
    if len(blocks) < 2:
        raise InputError(f"{len(x)} samples are shorter than the two seconds that a slope needs.")
    levels = np.array([level(block) for block in blocks])
    levels = np.maximum(levels, levels.max() - DYNAMICS)
    return float(np.polyfit(np.arange(len(levels)) * BLOCK_SECONDS / 60, levels, 1)[0])
