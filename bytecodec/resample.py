"""Conversion of the sampling rate in blocks, with the same result as for the whole signal at once."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# The filter is a Kaiser-windowed sinc of 64 zero crossings to each side. It is 90 dB down from the lower rate's
# Nyquist frequency on, and flat to 0.91 of it (at 11025 Hz: 5512 Hz and 5020 Hz).
_CROSSINGS = 64
_STOP_DB = 90.0
# The largest term of the ratio of rates limits the filter, which has 128 taps per unit of the term. Ratios of usual
# rates have far smaller terms; others are approximated to one part in 96,000 (38 ms per hour) or better.
_LARGEST_TERM = 48_000
_PIECE = 1 << 16  # taps computed at a time, because there may be millions


class Resampler:
    """Resampler of a signal in blocks of any size.

    The concatenated output is bit for bit that of ``scipy.signal.resample_poly(whole, up, down,
    window=lowpass(max(up, down)))``: ceil(n * up / down) samples for n, without a delay, with silence before and after
    the signal.

    Parameters
    ----------
    source_rate, target_rate
        Rates in Hz, positive.

    Attributes
    ----------
    up, down : int
        The ratio target_rate / source_rate in lowest terms, or the nearest fraction without a term above 48,000.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.up, self.down = _ratio(source_rate, target_rate)
        taps = lowpass(max(self.up, self.down))
        half = len(taps) // 2
        lead = -half % self.down  # zeros that move the centre of the filter to a multiple of down
        self._filter = np.concatenate([np.zeros(lead, np.float32), taps * np.float32(self.up)])
        self._next = (half + lead) // self.down  # index of the output of upfirdn that belongs to the first sample
        self._delay = self._next
        self._buffer = np.zeros(0, np.float32)
        self._start = 0  # index in the signal of the buffer, a multiple of down, where input and output coincide
        self._received = 0

    def feed(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the next block (n,), and return the samples (m,) that do not depend on later blocks."""
        self._buffer = np.concatenate([self._buffer, block])
        self._received += len(block)
        return self._emit(-(-self._received * self.up // self.down))

    def close(self) -> NDArray[np.float32]:
        """Return the last samples, as if silence followed the signal."""
        return self._emit(-(-self._received * self.up // self.down) + self._delay)

    def _emit(self, end: int) -> NDArray[np.float32]:
        """Return the outputs of upfirdn up to ``end``, and discard the input that later ones do not need."""
        from scipy.signal import upfirdn

        if end <= self._next:
            return np.zeros(0, np.float32)
        origin = self._start // self.down * self.up
        block = upfirdn(self._filter, self._buffer, self.up, self.down)[self._next - origin : end - origin]
        block = np.concatenate([block, np.zeros(end - self._next - len(block), np.float32)])
        self._next = end
        oldest = max(0, -((len(self._filter) - 1 - end * self.down) // self.up))
        start = max(self._start, oldest // self.down * self.down)
        self._buffer = self._buffer[start - self._start :]
        self._start = start
        return block


def _ratio(source_rate: int, target_rate: int) -> tuple[int, int]:
    if target_rate > source_rate:
        down, up = Fraction(source_rate, target_rate).limit_denominator(_LARGEST_TERM).as_integer_ratio()
    else:
        up, down = Fraction(target_rate, source_rate).limit_denominator(_LARGEST_TERM).as_integer_ratio()
    return up, down


@functools.lru_cache(maxsize=1)  # joined recordings usually have the same rate
def lowpass(factor: int) -> NDArray[np.float32]:
    """Design a low-pass filter for 1/factor of the band, with a gain of one at 0 Hz.

    Window and width after J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window
    function", 1974.

    Returns
    -------
    float32 (2 * 64 * factor + 1,)
        A symmetric filter, which is cached: do not change it.
    """
    from scipy.special import i0

    beta = 0.1102 * (_STOP_DB - 8.7)
    transition = (_STOP_DB - 7.95) / (2.285 * np.pi * 2 * _CROSSINGS)  # of the lower Nyquist frequency
    cutoff = 1 - transition / 2  # the middle of the transition, which ends at the Nyquist frequency
    half = _CROSSINGS * factor
    taps = np.empty(half + 1)
    for begin in range(0, half + 1, _PIECE):
        index = np.arange(begin, min(begin + _PIECE, half + 1))
        window = i0(beta * np.sqrt(1 - (index / half) ** 2)) / i0(beta)
        taps[index] = np.sinc(cutoff / factor * index) * window
    taps /= taps[0] + 2 * taps[1:].sum()
    right = taps.astype(np.float32)
    return np.concatenate([right[:0:-1], right])
