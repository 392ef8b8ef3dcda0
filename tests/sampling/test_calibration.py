"""The temperature at which free running has the recording's level."""

import numpy as np
import pytest

from charrnn.engines import Engine
from charrnn.sampling import calibration
from charrnn.sampling.calibration import calibrate, stream_seconds
from charrnn.sampling.free_running import Reference

RATE = 1000
RECORDING = np.random.default_rng(0).normal(128, 20, 60 * RATE).clip(0, 255).astype(np.uint8)


@Engine.register
class Noise:
    """An engine whose level in dB rises with the temperature, and is ``error`` above the recording's at 1.

    It makes white noise like the recording, or noise without high frequencies at temperatures above ``dull``.
    """

    streams, vocab_size = 2, 256

    def __init__(self, error, slope=60.0, dull=np.inf):
        self.temperatures, self._error, self._slope, self._dull = [], error, slope, dull

    def reset(self):
        self._random = np.random.default_rng(1)

    def run(self, u, temperature):
        if not self.temperatures or self.temperatures[-1] != temperature:
            self.temperatures.append(temperature)
        level = self._error + self._slope * (temperature - 1)
        noise = self._random.normal(0, 20 * 10 ** (level / 20), u.T.shape)
        if temperature > self._dull:
            noise = (noise + np.roll(noise, 1, axis=1)) / np.sqrt(2)
        return (noise + 128).clip(0, 255).astype(np.int64)


def calibrated(engine):
    return calibrate(engine, Reference(RECORDING, RATE, 4 * RATE), RATE, 4.0)


@pytest.mark.parametrize(("error", "steps"), [(-3.2, 2), (-2.2, 1), (-1.2, 0), (0.1, 0), (1.4, -1), (8.0, -3), (-9, 3)])
def test_the_temperature_goes_to_the_level_of_the_recording(error, steps):
    engine = Noise(error)
    temperature, before, after = calibrated(engine)
    assert temperature == 1 + steps * calibration.STEP
    assert before.level == pytest.approx(error, abs=0.3)
    assert after.level == pytest.approx(error + 60 * (temperature - 1), abs=0.3)
    assert len(engine.temperatures) <= calibration.TRIALS


def test_the_level_is_not_raised_if_the_spectrum_gets_worse_by_more():
    assert calibrated(Noise(-6.0, slope=20.0, dull=1.0))[0] == 1
    assert calibrated(Noise(-6.0, slope=20.0))[0] == pytest.approx(1 + 3 * calibration.STEP)


def test_the_temperature_is_not_lowered_further_once_the_level_is_below_that_of_the_recording():
    engine = Noise(0.5, slope=120.0, dull=0.99)
    assert calibrated(engine)[0] == 1 - calibration.STEP
    assert engine.temperatures == [1, 1 - calibration.STEP]


def test_a_network_that_gets_louder_when_it_is_colder_is_left_as_it_is():
    assert calibrated(Noise(4.0, slope=-60.0))[0] == 1


def test_a_short_training_is_not_calibrated():
    least = calibration.min_training_symbols(11025)
    assert stream_seconds(least - 1, 11025) == 0 < stream_seconds(least, 11025)
    assert stream_seconds(100_000, 11025) == 0
    assert stream_seconds(10_000_000, 11025) == pytest.approx(2.83, abs=0.01)
    assert stream_seconds(10**9, 11025) == calibration.MAX_SECONDS
