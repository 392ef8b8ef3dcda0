"""Sample formats: 8-bit and 16-bit linear PCM, G.711 mu-law, rounding to them, and messages about the level."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 127 / 128  # the highest peak that is not clipped
SILENCE = 1e-12  # largest deviation from the mean of a silent recording

# ITU-T G.711 (11/1988), table 2, at 16 bits instead of its 14: all values are multiplied by four.
_BIAS = 33 << 2
_CLIP = 8158 << 2 | 3  # the highest magnitude whose sum with the bias stays in the eighth segment

_QUIET_BITS = 6  # of 8; a recording that uses at most this many is reported as quiet
_MULAW_BITS = 13  # resolution of mu-law near silence, where its step is 8 steps of 16 bits
_OFFSET = 1 / 32  # of full scale: the smallest DC offset that is reported
_OFFSET_SECONDS = 0.1  # a shorter recording may have a mean without a DC offset
_DITHER_SEED = 0
_CLEAR_RATIO = 1.4  # of roughnesses, from which mu-law and linear samples are told apart
_COMMANDS = "of wav2utf8 or charrnn-train"  # which have the options that messages advise


def encode_mulaw(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Encode 16-bit linear samples of any shape as mu-law bytes; silence is 255."""
    values: NDArray[np.uint8] = _mulaw_of_sample()[np.asarray(samples, np.int16).view(np.uint16)]
    return values


def decode_mulaw(values: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Decode mu-law bytes of any shape to 16-bit linear samples, -32124 to 32124."""
    samples: NDArray[np.int16] = _sample_of_mulaw()[values]
    return samples


def bytes_to_int16(values: NDArray[np.uint8], mulaw: bool = False) -> NDArray[np.int16]:
    """Convert linear or mu-law bytes of any shape to 16-bit samples."""
    return decode_mulaw(values) if mulaw else (values.astype(np.int16) - np.int16(128)) * np.int16(256)


def floats_to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round samples with full scale 1 to floor(32768 x + 1/2), and clip them to the range of int16."""
    return _clip(_scale_to_16_bits(samples))


def looks_like_mulaw(values: NDArray[np.uint8]) -> bool | None:
    """Return whether bytes (n,) of sound are mu-law rather than linear; None if that is not clear.

    Sound is smooth, and rougher if its bytes are decoded in the wrong way.
    """
    linear, mulaw = (_roughness(bytes_to_int16(values, decoded)) for decoded in (False, True))
    return None if max(linear, mulaw) <= _CLEAR_RATIO * min(linear, mulaw) else mulaw < linear


def _roughness(samples: NDArray[np.int16]) -> float:
    """Return the power of the differences of neighbouring samples (n,), relative to their variance; 0 if that is 0."""
    x = samples.astype(np.float64)
    variance = float(x.var()) if len(x) > 1 else 0.0
    return float(np.square(np.diff(x)).mean()) / variance if variance else 0.0


class Levels:
    """The mean and the range of samples, and the number of samples that were clipped.

    Samples at ``rate`` Hz are rounded to ``bits``, or to mu-law. ``normalized`` and ``without_dc`` are flags that were
    given, which messages do not recommend again.
    """

    def __init__(self, rate: int, bits: int, mulaw: bool, normalized: bool, without_dc: bool) -> None:
        self._rate, self._bits, self._mulaw = rate, bits, mulaw
        self._normalized, self._without_dc = normalized, without_dc
        self._count = self._clipped = 0
        self._total, self._low, self._high = 0.0, np.inf, -np.inf

    def add(self, samples: NDArray[np.float32], clipped: int) -> None:
        """Count the next samples (n,), n >= 1, and the clipped ones among them."""
        self._count += len(samples)
        self._clipped += clipped
        self._total += float(samples.sum(dtype=np.float64))
        self._low, self._high = min(self._low, float(samples.min())), max(self._high, float(samples.max()))

    def messages(self) -> Iterator[str]:
        """Yield messages about the level, to follow the recording's name."""
        offset = self._offset()
        deviation = max(self._high - offset, offset - self._low)
        if self._clipped:
            remedy = "a lower --gain" if self._normalized else "--normalize"
            yield f"is too loud for full scale: samples clipped: {self._clipped:,}; {remedy} {_COMMANDS} prevents that."
        if deviation <= SILENCE:
            yield self._silent(offset)
            return
        if abs(offset) >= _OFFSET and not self._without_dc:
            yield f"has a DC offset of {100 * offset:+.1f} % of full scale: --remove-dc {_COMMANDS} subtracts it."
        if not self._clipped and (quiet := self._quiet(deviation)):
            yield f"{quiet}." if self._normalized else f"{quiet}; --normalize {_COMMANDS} amplifies it."

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
                f"which --remove-dc {_COMMANDS} subtracts."
            )
        if offset:
            return "is silent: all its samples have the same value."
        return f"is silent: every sample is {255 if self._mulaw else 0 if self._bits == 16 else 128}."


class Quantiser:
    """Quantiser of samples with full scale 1, after multiplication by ``scale``.

    It returns floor(128 x + 1/2) + 128 as uint8, floor(32768 x + 1/2) as int16, or the mu-law bytes of the latter.
    """

    def __init__(self, scale: float, bits: int, mulaw: bool, dither: bool, levels: Levels) -> None:
        self._scale = np.float32(scale)
        self._bits, self._mulaw = bits, mulaw
        self._noise = np.random.default_rng(_DITHER_SEED) if dither else None
        self._levels = levels

    def __call__(self, block: NDArray[np.float32]) -> NDArray[Any]:
        """Round the next samples (n,), n >= 1."""
        block = block * self._scale
        if self._mulaw or self._bits == 16:
            rounded = _scale_to_16_bits(block)
            # Full scale, 32768, does not count as clipped.
            self._levels.add(block, _count_outside(rounded, -32768, 32769))
            return encode_mulaw(_clip(rounded)) if self._mulaw else _clip(rounded)
        values = block * np.float32(128) + np.float32(128.5)
        if self._noise is not None:
            values += self._noise.random((len(values), 2), np.float32).sum(axis=1) - 1
        # 256 becomes 255, too, but 32767 of 16 bits is rounded to it and does not count as clipped.
        self._levels.add(block, _count_outside(values, 0, 257))
        return values.clip(0, 255).astype(np.uint8)


def _scale_to_16_bits(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = np.floor(samples * np.float32(32768) + np.float32(0.5))
    return rounded


def _clip(rounded: NDArray[np.float32]) -> NDArray[np.int16]:
    samples: NDArray[np.int16] = rounded.clip(-32768, 32767).astype("<i2")
    return samples


def _count_outside(values: NDArray[np.float32], low: int, end: int) -> int:
    """Count the values that are not in [low, end)."""
    if values.min() >= low and values.max() < end:
        return 0
    return int(np.count_nonzero((values < low) | (values >= end)))


@functools.cache
def _mulaw_of_sample() -> NDArray[np.uint8]:
    """Return the byte for each 16-bit sample, in the order of its unsigned value: (65536,)."""
    sample = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum(np.abs(sample), _CLIP) + _BIAS
    segment = np.frexp(magnitude)[1] - 8  # the position of the highest bit; with the bias it is at least the eighth
    step = magnitude >> (segment + 3) & 15
    sign = np.where(sample < 0, 0x80, 0)
    table: NDArray[np.uint8] = (0xFF ^ (sign | segment << 4 | step)).astype(np.uint8)  # the standard inverts all bits
    return table


@functools.cache
def _sample_of_mulaw() -> NDArray[np.int16]:
    value = 0xFF ^ np.arange(256)
    segment, step = value >> 4 & 7, value & 15
    magnitude = ((step << 3) + _BIAS << segment) - _BIAS
    return np.where(value & 0x80, -magnitude, magnitude).astype(np.int16)
