"""Control of the level of sound in free running, by the temperature.

A network that reads what it has generated gets louder if its distributions are a few per cent wider than the
recording's. Usually, a slightly lower temperature makes it quieter. So each stream has a proportional controller: the
temperature is lower in proportion to the excess of the stream's level over the recording's. It is not raised if the
stream is quiet, because that adds noise, above all to pauses.

No temperature ends a whistle that the network has learnt to continue. So a stream that is much louder than the loudest
moment of the recording fades out and restarts from silence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.models.config import LEVEL_BLOCK, LEVEL_STATE, SILENCE_ID

TIME_CONSTANT = 0.3  # seconds of the exponential mean of the power
GAIN = 0.03  # of the temperature per dB
MAX_REDUCTION = 0.2  # of the temperature
STEPS = 1024  # to which factors are rounded, so that they do not depend on a library's logarithm
MIN_LEVEL = 0.5  # steps
RECORDING_BLOCKS = 1 << 12  # that are measured at most, so that time does not depend on a recording's length
RECORDING_BLOCK = 1 << 12  # samples, at 11,025 Hz about as long as the time constant
TOO_LOUD = 2.0  # power of a stream that fades out, relative to the loudest block of the recording


def recording_levels(ids: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Return the levels of a recording (n,) and of its loudest block for `LevelControl`, at least `MIN_LEVEL`.

    They are those of the whole recording, or of 16 million samples in blocks that are spread evenly over it.
    """
    starts = range(0, len(ids), max(RECORDING_BLOCK, len(ids) // RECORDING_BLOCKS))
    blocks = (ids[start : start + RECORDING_BLOCK].astype(np.int64) - SILENCE_ID for start in starts)
    squares, counts = np.array([(int(np.square(block).sum()), len(block)) for block in blocks]).T
    loudest = (squares / np.maximum(counts, min(RECORDING_BLOCK, len(ids)))).max()  # the last block can be short
    level = max(math.sqrt(squares.sum() / counts.sum()), MIN_LEVEL)
    return level, max(math.sqrt(loudest), level)


class LevelControl:
    """Factors of the temperatures of N streams, which keep them from getting louder than a recording.

    Parameters
    ----------
    streams
        N.
    level
        Root mean square of the recording's samples, which are from -128 to 127; `MIN_LEVEL` or more.
    loudest
        That of the recording's loudest block; None if it is unknown, with which streams do not fade out.
    rate
        Sampling rate in Hz.

    Attributes
    ----------
    state : (N, 3) float32
        Difference of the mean power from the recording's, divided by it; sum of squares of the block's samples so far;
        and their number. Zeros at the start: a stream begins with the factor 1.
    power, limit, share : float
        Power of the recording; difference from it above which a stream fades out; share of a block in the mean.
    """

    def __init__(self, streams: int, level: float, loudest: float | None, rate: int) -> None:
        self.state = np.zeros((streams, LEVEL_STATE), dtype=np.float32)
        self.power = level**2
        self.limit = math.inf if loudest is None else TOO_LOUD * loudest**2 / self.power - 1
        self.share = 1 - math.exp(-LEVEL_BLOCK / (TIME_CONSTANT * rate))

    def factors(self) -> NDArray[np.float64]:
        """Return the factors (N,) of the temperatures of the next `remaining` samples."""
        excess = self.state[:, 0].astype(np.float64).clip(min=0)
        reduction = (GAIN * 10 * np.log10(1 + excess)).clip(max=MAX_REDUCTION)
        return np.asarray(1 - np.rint(reduction * STEPS) / STEPS)

    def remaining(self) -> int:
        """Return the number of samples until a factor changes, 1 to `LEVEL_BLOCK`."""
        return LEVEL_BLOCK - int(self.state[:, 2].max())

    def fading(self) -> NDArray[np.bool_]:
        """Return which streams (N,) fade out in the current block, after which they restart from silence."""
        return np.asarray(self.state[:, 0] > self.limit)

    def fade(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the next ids (N, T), of which there are at most `remaining`, after the fade of the block."""
        after = self.state[:, 2:] + np.arange(1, ids.shape[1] + 1)
        gain = np.where(self.fading()[:, None], 1 - after / LEVEL_BLOCK, 1)
        return np.asarray(SILENCE_ID + np.rint((ids - SILENCE_ID) * gain), dtype=np.int64)

    def update(self, ids: NDArray[np.integer[Any]]) -> None:
        """Take account of the next ids (N, T), of which there are at most `remaining`."""
        self.state[:, 1] += np.square(ids - SILENCE_ID).sum(axis=1)  # whole numbers below 2**24, exact in float32
        self.state[:, 2] += ids.shape[1]
        full = self.state[:, 2] == LEVEL_BLOCK
        ratio = self.state[full, 1].astype(np.float64) / (LEVEL_BLOCK * self.power) - 1
        self.state[full, 0] += self.share * (ratio - self.state[full, 0])
        self.state[full, 1:] = 0
