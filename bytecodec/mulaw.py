"""G.711 mu-law: 16-bit linear samples to 8 bits with steps that grow with the level, and back."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

# ITU-T G.711 (11/1988), table 2, at 16 bits instead of its 14: everything times four.
_BIAS = 33 << 2
_CLIP = 8158 << 2 | 3  # the last level before the bias would carry it past the eighth segment


def encode_mulaw(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Encode 16-bit linear samples of any shape as mu-law bytes; silence is 255."""
    values: NDArray[np.uint8] = _encode_table()[np.asarray(samples, np.int16).view(np.uint16)]
    return values


def decode_mulaw(values: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Decode mu-law bytes of any shape to 16-bit linear samples, -32124 to 32124."""
    samples: NDArray[np.int16] = _decode_table()[values]
    return samples


@functools.cache
def _encode_table() -> NDArray[np.uint8]:
    """The byte for each 16-bit sample, in the order of its unsigned value: (65536,)."""
    sample = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum(np.abs(sample), _CLIP) + _BIAS
    segment = np.frexp(magnitude)[1] - 8  # the place of the highest bit, which the bias makes the eighth or above
    step = magnitude >> (segment + 3) & 15
    sign = np.where(sample < 0, 0x80, 0)
    table: NDArray[np.uint8] = (0xFF ^ (sign | segment << 4 | step)).astype(np.uint8)  # the standard inverts all bits
    return table


@functools.cache
def _decode_table() -> NDArray[np.int16]:
    value = 0xFF ^ np.arange(256)
    segment, step = value >> 4 & 7, value & 15
    magnitude = ((step << 3) + _BIAS << segment) - _BIAS
    return np.where(value & 0x80, -magnitude, magnitude).astype(np.int16)
