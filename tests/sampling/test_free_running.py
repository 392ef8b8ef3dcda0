"""Measures of generated sound, compared with a recording and with the recording's own stretches."""

import numpy as np
import pytest

from bytecodec.pcm import bytes_to_int16
from charrnn.sampling.audio_metrics import level
from charrnn.sampling.free_running import Reference

RATE, LENGTH = 1000, 2000


def noise(stretches, amplitude=1.0, seed=0):
    """Return stretches of noise with an rms of 1,000 times the amplitude, (n,) int16."""
    x = np.random.default_rng(seed).normal(0, 1000, stretches * LENGTH)
    return np.rint(amplitude * x).astype(np.int16)


def test_level_and_spectrum_are_those_of_all_stretches_together():
    reference = Reference(np.concatenate([noise(1), noise(1, 2.0)]), RATE, LENGTH)
    assert reference.stretches == 2
    assert reference.ranges["level"] == pytest.approx((-10 * np.log10(2.5), 10 * np.log10(4 / 2.5)), abs=0.01)
    assert reference.ranges["spectrum_distance"] == pytest.approx(
        (10 * np.log10(4 / 2.5), 10 * np.log10(2.5)), abs=0.01
    )
    found = reference.measure(noise(1, np.sqrt(2.5)))
    assert (found.level, found.spectrum_distance) == pytest.approx((0, 0), abs=0.02)


def test_a_sound_is_silent_relative_to_the_recording():
    reference = Reference(noise(3), RATE, LENGTH)
    assert reference.ranges["silent"] == (0, 0)
    assert reference.measure(noise(1, 0.05)).silent == 1
    assert Reference(noise(3, 0.05), RATE, LENGTH).measure(noise(1, 0.05)).silent == 0


def test_bytes_are_measured_as_the_samples_that_they_stand_for():
    data = np.random.default_rng(0).integers(0, 256, 2 * LENGTH, dtype=np.uint8)
    for is_mulaw in (False, True):
        samples = bytes_to_int16(data, is_mulaw)
        from_bytes, from_samples = Reference(data, RATE, LENGTH, is_mulaw), Reference(samples, RATE, LENGTH)
        del from_bytes.ranges["clipped"], from_samples.ranges["clipped"]
        assert from_bytes.ranges == from_samples.ranges


@pytest.mark.parametrize(
    ("kind", "is_mulaw", "lowest", "highest"),
    [(np.uint8, False, -32768, 32512), (np.uint8, True, -32124, 32124), (np.int16, False, -32768, 32767)],
)
def test_samples_at_the_limits_of_the_format_are_clipped(kind, is_mulaw, lowest, highest):
    reference = Reference(np.ones(LENGTH, kind), RATE, LENGTH, is_mulaw)
    sound = noise(1)
    assert reference.measure(sound).clipped == 0
    sound[:2] = lowest, highest
    assert reference.measure(sound).clipped == 2 / LENGTH


def test_at_most_60_stretches_are_read_spread_evenly():
    recording = noise(119).reshape(119, LENGTH)
    recording[1::2] = 0
    reference = Reference(recording.ravel(), RATE, LENGTH)
    assert reference.stretches == 60
    assert reference.ranges["level"][0] > -1
    assert reference.measure(recording[0]).level == pytest.approx(0, abs=1)


def test_a_recording_that_is_shorter_than_a_sound_has_no_ranges():
    recording = noise(1)[:-1]
    reference = Reference(recording, RATE, LENGTH)
    assert (reference.stretches, reference.ranges) == (0, None)
    sound = noise(1, seed=1)
    assert reference.measure(sound).level == pytest.approx(level(sound) - level(recording), abs=1e-5)
