"""From one sampling rate to another in blocks, with the same result as the whole at once."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

#: Filter: a Kaiser-windowed sinc of 64 zero crossings to each side, 90 dB down from the lower rate's Nyquist
#: frequency on, and flat to 0.91 of it (at 11025 Hz: 5512 Hz and 5020 Hz).
_CROSSINGS = 64
_STOP_DB = 90.0
#: The largest term of the ratio of rates. It bounds the filter, which has 128 taps for each unit of it.
#: Every ratio between usual rates is far below; others are met to one part in 96,000 (38 ms an hour) or better.
_LARGEST_TERM = 48_000
_PIECE = 1 << 16  # taps designed at a time, as there may be millions


class Resampler:
    """Resamples a signal that comes in blocks of any size.

    What comes out, laid end to end, is bit for bit what ``scipy.signal.resample_poly(whole, up, down,
    window=lowpass(max(up, down)))`` gives: ceil(n * up / down) samples in place of n, not shifted in time, with
    silence before and after.

    Parameters
    ----------
    source_rate, target_rate
        In Hz, positive.

    Attributes
    ----------
    up, down : int
        The ratio of the rates in lowest terms: target_rate / source_rate, or the nearest fraction to it
        without a term above 48,000.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.up, self.down = _ratio(source_rate, target_rate)
        taps = lowpass(max(self.up, self.down))
        half = len(taps) // 2
        lead = -half % self.down  # zeros that move the filter's centre to a multiple of down ...
        self._filter = np.concatenate([np.zeros(lead, np.float32), taps * np.float32(self.up)])
        self._next = (half + lead) // self.down  # ... so that this output of upfirdn is the first sample's own
        self._delay = self._next
        self._buffer = np.zeros(0, np.float32)
        self._start = 0  # of the buffer in the signal, a multiple of down: there input and output fall together
        self._received = 0

    def feed(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next block (n,); returns the samples (m,) that no later block can change."""
        self._buffer = np.concatenate([self._buffer, block])
        self._received += len(block)
        return self._emit(-(-self._received * self.up // self.down))

    def close(self) -> NDArray[np.float32]:
        """Return the last samples, for which silence follows the signal."""
        return self._emit(-(-self._received * self.up // self.down) + self._delay)

    def _emit(self, end: int) -> NDArray[np.float32]:
        """Return upfirdn's outputs from the next one to end, and drop the input that no later one needs."""
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
    """Design the filter that lets 1/factor of the band through, with a gain of one at 0 Hz.

    Window and width after J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window
    function", 1974.

    Returns
    -------
    float32 (2 * 64 * factor + 1,)
        A symmetric filter; the caller must not change it, because it is cached.
    """
    from scipy.special import i0

    beta = 0.1102 * (_STOP_DB - 8.7)
    transition = (_STOP_DB - 7.95) / (2.285 * np.pi * 2 * _CROSSINGS)  # of the lower Nyquist frequency
    cutoff = 1 - transition / 2  # the middle of the transition, which ends at that frequency
    half = _CROSSINGS * factor
    taps = np.empty(half + 1)
    for begin in range(0, half + 1, _PIECE):
        place = np.arange(begin, min(begin + _PIECE, half + 1))
        window = i0(beta * np.sqrt(1 - (place / half) ** 2)) / i0(beta)
        taps[place] = np.sinc(cutoff / factor * place) * window
    taps /= taps[0] + 2 * taps[1:].sum()
    right = taps.astype(np.float32)
    return np.concatenate([right[:0:-1], right])
