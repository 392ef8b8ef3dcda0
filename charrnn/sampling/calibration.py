"""The temperature at which free running is most like the recording.

A network that reads what it has generated is louder or quieter than its recording by some decibels, because errors of
its distributions add up. A temperature of a few hundredths more or less corrects that, and costs almost no likelihood.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bytecodec.pcm import bytes_to_int16
from charrnn.engines import Engine
from charrnn.sampling.free_running import Reference
from charrnn.sampling.generate import generate

STREAMS = 16
LEAST_SECONDS, MOST_SECONDS = 2.0, 4.0  # per stream
START_SECONDS = 1.0  # that are not measured, because sampling begins from silence
SHARE = 0.2  # of the symbols that were trained that are generated at most
STEP, TRIALS = 0.025, 4  # of the temperature
LEVEL = 2.0  # dB from the recording's that a sound should not exceed


def seconds(trained: int, rate: int) -> float:
    """Return the duration of each stream, 0 if a network was trained on too few symbols to be calibrated."""
    most = SHARE * trained / (TRIALS * STREAMS * rate)
    return 0.0 if most < LEAST_SECONDS else min(most, MOST_SECONDS)


def calibrate(
    engine: Engine,
    reference: Reference,
    rate: int,
    duration: float,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[float, float, float]:
    """Return the calibration of a network of linear sound, and the error of the level in dB without and with it.

    The temperature goes from 1 in steps, down for a sound that is too loud and up for one that is too quiet, until the
    sound is less like the recording: its level is more than `LEVEL` away, or the distance of the spectra is greater.
    ``advance`` is called with numbers of samples that are done, of `TRIALS` times the duration in all.
    """

    def measure(temperature: float) -> tuple[bool, float, float]:
        engine.reset()
        pieces = []
        for piece in generate(engine, round(duration * rate), temperature, seed=0):
            pieces.append(piece)
            advance(piece.shape[1])
        sound = np.concatenate(pieces, axis=1)[:, round(START_SECONDS * rate) :]
        found = reference.measure(bytes_to_int16(sound.astype(np.uint8).ravel()))
        return abs(found.level) > LEVEL, found.spectrum_distance, found.level

    best, temperature = measure(1.0), 1.0
    before, step = best[2], -STEP if best[2] > 0 else STEP
    for trial in range(1, TRIALS):
        found = measure(1.0 + trial * step)
        if found[:2] >= best[:2]:
            break
        best, temperature = found, 1.0 + trial * step
    return temperature, before, best[2]
