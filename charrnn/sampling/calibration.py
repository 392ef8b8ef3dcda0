"""The temperature at which free running is most like the recording.

In free running a network is louder or quieter than its recording by some decibels, because the errors of its
distributions add up. A temperature of a few hundredths more or less corrects that, and costs almost no likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bytecodec.pcm import bytes_to_int16
from charrnn.engines import Engine
from charrnn.sampling.free_running import Measures, Reference
from charrnn.sampling.generate import generate

STREAMS = 16
MIN_SECONDS, MAX_SECONDS = 2.0, 4.0  # per stream
START_SECONDS = 1.0  # that are not measured, because sampling begins from silence
MAX_GENERATED_RATIO = 0.2  # of samples that are generated to those that were trained on
CHUNK = 256  # samples of a stream between two calls of ``advance``
STEP, TRIALS = 0.025, 4  # of the temperature
QUIET = -1.5  # dB, from which a level is not raised further, because noise fills the pauses


def stream_seconds(trained: int, rate: int) -> float:
    """Return the duration of each stream; 0 if a network was trained on fewer than `min_training_symbols` symbols."""
    most = MAX_GENERATED_RATIO * trained / (TRIALS * STREAMS * rate)
    return 0.0 if most < MIN_SECONDS else min(most, MAX_SECONDS)


def min_training_symbols(rate: int) -> int:
    """Return the number of symbols on which a network has to be trained to be calibrated."""
    return math.ceil(MIN_SECONDS * TRIALS * STREAMS * rate / MAX_GENERATED_RATIO)


def calibrate(
    engine: Engine,
    reference: Reference,
    rate: int,
    duration: float,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[float, Measures, Measures]:
    """Return the calibration of a network of linear sound, and what was measured without and with it.

    The temperature goes from 1 in steps, down for a sound that is too loud and up for one that is quieter than `QUIET`,
    and stops at the first that is no better: whose distance of the spectra, which includes the level, is no smaller.
    The level alone would be raised by noise. ``advance`` is called with numbers of samples that are done, of `TRIALS`
    times the duration in all.
    """

    def measure(temperature: float) -> Measures:
        engine.reset()
        pieces = []
        for piece in generate(engine, round(duration * rate), temperature, seed=0, chunk=CHUNK):
            pieces.append(piece)
            advance(piece.shape[1])
        sound = np.concatenate(pieces, axis=1)[:, round(START_SECONDS * rate) :]
        return reference.measure(bytes_to_int16(sound.astype(np.uint8).ravel()))

    best, temperature = measure(1.0), 1.0
    before, step = best, -STEP if best.level > 0 else STEP
    for trial in range(1, TRIALS):
        if best.level <= 0 if step < 0 else best.level >= QUIET:
            break
        found = measure(1.0 + trial * step)
        if found.spectrum_distance >= best.spectrum_distance:
            break
        best, temperature = found, 1.0 + trial * step
    return temperature, before, best
