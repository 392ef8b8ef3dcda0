"""Rounding of samples to 8 or 16 bits, and messages on their level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bytecodec.mulaw import encode_mulaw

FULL_SCALE = 127 / 128  # the highest peak that is not clipped
SILENCE = 1e-12  # largest deviation from the mean of a silent recording

_QUIET_BITS = 6  # of 8; a recording that uses at most this many is reported as quiet
_MULAW_BITS = 13  # bits of linear samples whose step is the smallest of G.711, which is 8 steps of 16 bits
_OFFSET = 1 / 32  # of full scale: the smallest DC offset that is reported
_OFFSET_SECONDS = 0.1  # a shorter recording may have a mean without a DC offset
_DITHER_SEED = 0


class Levels:
    """The mean and the range of samples, and how many of them were clipped.

    Parameters
    ----------
    rate
        Sampling rate in Hz.
    bits, mulaw
        Format to which samples are rounded: 8 or 16 bits, or G.711 mu-law.
    normalized, without_dc
        Whether the gain brought the peak to full scale, and whether the mean was subtracted. Messages do not advise
        what has been done.
    """

    def __init__(self, rate: int, bits: int, mulaw: bool, normalized: bool, without_dc: bool) -> None:
        self._rate, self._bits, self._mulaw = rate, bits, mulaw
        self._normalized, self._without_dc = normalized, without_dc
        self._count = self._clipped = 0
        self._total, self._low, self._high = 0.0, np.inf, -np.inf

    def add(self, samples: NDArray[np.float32], clipped: int) -> None:
        """Count the next samples (n,), at least one, of which some were clipped."""
        self._count += len(samples)
        self._clipped += clipped
        self._total += float(samples.sum(dtype=np.float64))
        self._low, self._high = min(self._low, float(samples.min())), max(self._high, float(samples.max()))

    def sentences(self) -> Iterator[str]:
        """Yield messages on the recording, to follow its name."""
        offset = self._offset()
        deviation = max(self._high - offset, offset - self._low)
        if self._clipped:
            remedy = "a lower --gain" if self._normalized else "--normalize"
            yield f"is too loud for full scale: samples clipped: {self._clipped:,}; {remedy} prevents that."
        if deviation <= SILENCE:
            yield self._silent(offset)
            return
        if abs(offset) >= _OFFSET and not self._without_dc:
            yield f"has a DC offset of {100 * offset:+.1f} % of full scale: --remove-dc subtracts it."
        if not self._clipped and (how := self._quiet(deviation)):
            yield f"{how}." if self._normalized else f"{how}; --normalize brings it to full scale."

    def _quiet(self, deviation: float) -> str:
        bits = _MULAW_BITS if self._mulaw else self._bits
        used = min(bits, (2 * round(deviation * 2 ** (bits - 1))).bit_length())
        if not used:
            scale = "mu-law" if self._mulaw else f"{bits} bits"
            return f"is too quiet for {scale}: its peak of {20 * np.log10(deviation):.0f} dB is less than half a step"
        if bits == 8 and used <= _QUIET_BITS and not self._normalized:
            return f"is quiet: its peak uses {used} of the 8 bits"
        return ""

    def _offset(self) -> float:
        """Return the mean if the recording is long enough for it to be a DC offset, else 0."""
        if self._count < _OFFSET_SECONDS * self._rate:
            return 0.0
        constant = self._high - self._low <= 2 * SILENCE  # the mean from a sum would be less exact
        return self._low if constant else self._total / self._count

    def _silent(self, offset: float) -> str:
        if abs(offset) >= _OFFSET:
            return (
                f"is silent: all its samples have the same value, a DC offset of {100 * offset:+.1f} % of full scale, "
                "which --remove-dc subtracts."
            )
        if offset:
            return "is silent: all its samples have the same value."
        return f"is silent: every sample is {255 if self._mulaw else 0 if self._bits == 16 else 128}."


class Quantiser:
    """Quantiser of samples to bytes: floor(128 x + 1/2) + 128, or G.711 mu-law of floor(32768 x + 1/2)."""

    def __init__(self, scale: float, dither: bool, mulaw: bool, levels: Levels) -> None:
        self._scale = scale
        self._mulaw = mulaw
        self._noise = np.random.default_rng(_DITHER_SEED) if dither else None
        self._levels = levels

    def __call__(self, block: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round the next samples (n,), at least one."""
        block = block * np.float32(self._scale)
        if self._mulaw:
            rounded = np.floor(block * np.float32(32768) + np.float32(0.5))
            self._levels.add(block, _outside(rounded, -32768, 32769))
            return encode_mulaw(rounded.clip(-32768, 32767).astype(np.int16))
        values = block * np.float32(128) + np.float32(128.5)
        if self._noise is not None:
            values += self._noise.random((len(values), 2), np.float32).sum(axis=1) - 1
        # From 256 on a value is 255 too, but 32767 of 16 bits ends there and does not count as clipped.
        self._levels.add(block, _outside(values, 0, 257))
        return values.clip(0, 255).astype(np.uint8)


class Quantiser16:
    """Quantiser of samples to int16: floor(32768 x + 1/2)."""

    def __init__(self, scale: float, levels: Levels) -> None:
        self._scale = np.float32(scale)
        self._levels = levels

    def __call__(self, block: NDArray[np.float32]) -> NDArray[np.int16]:
        """Round the next samples (n,), at least one."""
        block = block * self._scale
        values = np.floor(block * np.float32(32768) + np.float32(0.5))
        self._levels.add(block, _outside(values, -32768, 32769))  # full scale, 32768, does not count as clipped
        rounded: NDArray[np.int16] = values.clip(-32768, 32767).astype(np.int16)
        return rounded


def _outside(values: NDArray[np.float32], low: int, end: int) -> int:
    """Count the values that are not in [low, end)."""
    if values.min() >= low and values.max() < end:
        return 0
    return int(np.count_nonzero((values < low) | (values >= end)))
