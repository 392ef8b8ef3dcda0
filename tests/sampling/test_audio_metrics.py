"""Levels and their drifts, spectra and their peaks, silence and clipping of sound."""

import numpy as np
import pytest
from scipy.signal import firwin, lfilter, welch

from charrnn.sampling.audio_metrics import (
    clipped_share,
    level,
    level_drift,
    long_term_spectrum,
    peakiness,
    silent_share,
    spectrum_distance,
)

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


def test_the_long_term_spectrum_is_that_of_welch():
    for samples in (NOISE, NOISE[:1024], NOISE[:5000] + 3):
        _, power = welch(samples, RATE, nperseg=1024)
        np.testing.assert_allclose(long_term_spectrum(samples, RATE), power, rtol=1e-9)


@pytest.mark.parametrize("frequency", [62.5, 1000, 3500])
def test_the_peakiness_of_a_whistle_in_noise_is_its_height(frequency):
    tone = np.sin(2 * np.pi * frequency * np.arange(len(NOISE)) / RATE)
    # A Hann window of 1,024 samples passes 1.5 of the 512 bins of noise. The tone has half the power of its amplitude.
    for decibels in (-10, 0, 10):
        height = decibels + 10 * np.log10(512 / 1.5 / 2)
        x = NOISE + 0.1 * 10 ** (decibels / 20) * tone
        assert peakiness(long_term_spectrum(x, RATE), RATE) == pytest.approx(height, abs=0.6)


@pytest.mark.parametrize("pass_zero", [True, False])
def test_the_edge_of_a_filter_is_not_a_peak(pass_zero):
    dull = lfilter(firwin(501, 1500, fs=RATE, pass_zero=pass_zero), 1, NOISE)
    assert peakiness(long_term_spectrum(dull, RATE), RATE) < 1


def test_silence_has_no_peaks():
    assert peakiness(long_term_spectrum(np.zeros(5000), RATE), RATE) == 0


def test_pauses_are_silent():
    x = NOISE.copy()
    x[: 3 * RATE] *= 0.09  # 20.9 dB below
    x[3 * RATE : 6 * RATE] *= 0.11  # 19.2 dB below
    assert silent_share(x, RATE, level(NOISE)) == pytest.approx(0.1)


def test_samples_at_the_limits_or_beyond_are_clipped():
    assert clipped_share(np.array([-129, -128, -127, 0, 126, 127, 128, 0]), -128, 127) == 0.5
