"""How like a recording a generated sound is over minutes: its long-term spectrum, and whether its level drifts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_real, check_whole
from bytecodec.errors import InputError

WINDOW = 1024  # samples of a spectrum
LOWEST, HIGHEST = 50.0, 0.45  # Hz, and of the rate: the band that is compared
DYNAMICS = 60.0  # dB below a spectrum's highest bin, under which all counts as this low
BLOCK_SECONDS = 1.0  # of which a level is taken
SILENCE = 1e-9


def level(x: NDArray[Any]) -> float:
    """The level of samples (n,) of full scale 1, in dB of full scale."""
    return float(20 * np.log10(np.std(x) + SILENCE))


def spectrum_distance(x: NDArray[Any], y: NDArray[Any], rate: int) -> float:
    """The rms difference of two sounds' long-term average spectra over the bins, in dB; levels count too.

    Parameters
    ----------
    x, y
        (n,) and (m,), full scale 1, each of 1,024 samples or more.
    rate
        Of both, in Hz. Bins from 50 Hz to 0.45 of it are compared, and those 60 dB under the highest of either count
        as 60 dB under it.

    Raises
    ------
    InputError
        A sound is shorter, contains values that are not finite, or the rate is invalid.
    """
    check_whole("rate", rate, 1)
    for name, samples in (("x", x), ("y", y)):
        if len(check_real(name, samples, 1)) < WINDOW:
            raise InputError(f"{name} has {len(samples)} samples, and {WINDOW:,} or more are needed.")
    from scipy.signal import welch  # takes long to import

    bands = []
    for samples in (x, y):
        at, power = welch(samples, rate, nperseg=WINDOW)
        inside = power[(at >= LOWEST) & (at <= HIGHEST * rate)]
        bands.append(10 * np.log10(inside + SILENCE**2))
    floor = max(band.max() for band in bands) - DYNAMICS
    a, b = (np.maximum(band, floor) for band in bands)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def level_drift(x: NDArray[Any], rate: int) -> float:
    """How the level of samples (n,) moves, in dB a minute: the slope of a line through the levels of its seconds.

    A second of silence counts as 60 dB under the loudest one, so that pauses do not decide.

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
        raise InputError(f"{len(x)} samples are less than the two seconds that a slope needs.")
    levels = np.array([level(block) for block in blocks])
    levels = np.maximum(levels, levels.max() - DYNAMICS)
    return float(np.polyfit(np.arange(len(levels)) * BLOCK_SECONDS / 60, levels, 1)[0])
