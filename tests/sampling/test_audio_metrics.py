"""Distances of spectra and drifts of levels of sound."""

import numpy as np
import pytest

from charrnn.sampling.audio_metrics import level, level_drift, spectrum_distance

RATE = 8000
NOISE = np.random.default_rng(0).normal(0, 0.1, 30 * RATE)
MORE = np.random.default_rng(1).normal(0, 0.1, 30 * RATE)


def test_the_level_of_a_full_scale_sine_is_minus_3_db():
    assert level(np.sin(np.arange(RATE))) == pytest.approx(-3.01, abs=0.05)


def test_two_noises_of_one_kind_have_a_small_distance():
    assert spectrum_distance(NOISE, MORE, RATE) < 0.5


def test_half_the_amplitude_is_6_db_away():
    assert spectrum_distance(NOISE, NOISE / 2, RATE) == pytest.approx(6.02, abs=0.01)


def test_a_dull_sound_is_far_from_a_bright_one():
    assert spectrum_distance(NOISE, np.convolve(NOISE, np.ones(8) / 8, "same"), RATE) > 6


def test_bins_60_db_below_the_highest_do_not_count():
    tone = np.sin(2 * np.pi * 1000 * np.arange(30 * RATE) / RATE)
    assert spectrum_distance(tone, tone + NOISE * 1e-7, RATE) == pytest.approx(0, abs=0.01)


def test_drift_is_the_slope_of_the_level():
    minutes = np.arange(len(NOISE)) / RATE / 60
    for slope in (-12.0, 0.0, 6.0):
        assert level_drift(NOISE * 10 ** (slope * minutes / 20), RATE) == pytest.approx(slope, abs=0.5)


def test_silent_pauses_have_little_influence_on_the_drift():
    x = NOISE.copy()
    x[5 * RATE : 6 * RATE] = x[24 * RATE : 25 * RATE] = 0
    assert abs(level_drift(x, RATE)) < 2


def test_a_sound_of_less_than_two_seconds_has_no_slope():
    with pytest.raises(ValueError, match="two seconds"):
        level_drift(NOISE[: 2 * RATE - 1], RATE)
