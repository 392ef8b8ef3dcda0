"""A measure of whether the seams between segments of a sound are audible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_integers, check_real, check_whole
from bytecodec.errors import InputError

SPECTRUM_WINDOW = 256  # samples on each side of a position whose spectra are compared: 23 ms at 11025 Hz
MAX_INSIDE = 4000  # positions inside segments that the seams are compared with


@dataclass(frozen=True)
class SeamMeasure:
    """Comparison of the seams of a sound with positions inside its segments.

    ``jump`` and ``spectrum`` are probabilities that a seam has a larger value than a position inside (the
    Mann-Whitney statistic divided by the number of pairs): 0.5 if they do not differ, 1 if every seam has a larger
    value. ``jump_p`` and ``spectrum_p`` are the p-values of these statistics.

    Attributes
    ----------
    jump, jump_p
        Difference in amplitude between the sample before and the sample after.
    spectrum, spectrum_p
        Difference in dB rms over the bins between the spectra of the windows before and after.
    """

    jump: float
    jump_p: float
    spectrum: float
    spectrum_p: float

    def audible(self, level: float = 0.01) -> bool:
        """Return whether seams differ from the inside at this level of significance, by either measure."""
        return min(self.jump_p, self.spectrum_p) < level / 2  # two tests


def measure_seams(
    samples: NDArray[Any], seams: Sequence[int], seed: int = 0, window: int = SPECTRUM_WINDOW
) -> SeamMeasure:
    """Compare the seams of a sound with the inside of its segments.

    Parameters
    ----------
    samples
        (n,) of any scale, such as the bytes of 8-bit sound.
    seams
        For each seam, the position of the first sample after it. Seams within a window of either end are skipped.
    seed
        Seed of the choice of at most 4,000 positions inside.
    window
        Samples on each side of a position whose spectra are compared. Positions closer to a seam than this do not count
        as inside, so it should be at most a quarter of the distance between seams.

    Raises
    ------
    InputError
        An argument has the wrong shape or type, or no seam or no position inside has a whole window on each side.
    """
    from scipy.stats import mannwhitneyu  # slow to import

    x = check_real("samples", samples, 1).astype(np.float64)
    seams = check_integers("seams", seams, 1).tolist()
    check_whole("seed", seed, 0, 2**64 - 1)
    check_whole("window", window, 1)
    measured = np.array([seam for seam in seams if window <= seam <= len(x) - window], dtype=np.int64)
    is_inside = np.zeros(len(x) + 1, dtype=np.bool_)
    is_inside[window : len(x) - window + 1] = True
    for seam in measured:
        is_inside[seam - window + 1 : seam + window] = False
    inside = np.flatnonzero(is_inside)
    if not len(measured) or not len(inside):
        raise InputError(f"no seam of {list(seams)} can be measured in {len(x)} samples with windows of {window}.")
    if len(inside) > MAX_INSIDE:
        inside = np.random.Generator(np.random.Philox(seed)).choice(inside, MAX_INSIDE, replace=False)
    figures = []
    for measure in (_jumps, _spectrum_changes):
        result = mannwhitneyu(measure(x, measured, window), measure(x, inside, window), alternative="greater")
        figures += [float(result.statistic) / (len(measured) * len(inside)), float(result.pvalue)]
    return SeamMeasure(*figures)


def _jumps(x: NDArray[np.float64], positions: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    return np.abs(x[positions] - x[positions - 1])


def _spectrum_changes(x: NDArray[np.float64], positions: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    offsets = np.arange(window)
    before, after = (_decibels(x[positions[:, None] + offsets - shift]) for shift in (window, 0))
    return np.asarray(np.sqrt(np.mean((after - before) ** 2, axis=1)))


def _decibels(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the magnitudes (m, bins) of windows (m, w) in dB; one quantisation step is added as a floor."""
    shaped = (windows - windows.mean(axis=1, keepdims=True)) * np.hanning(windows.shape[1])
    return np.asarray(20 * np.log10(np.abs(np.fft.rfft(shaped, axis=1)) + 1.0))
