"""Resampler: the same result as scipy on the whole signal, for any blocks, and the quality of its filter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from bytecodec.resample import Resampler, lowpass


def in_blocks(signal, source, target, sizes=()):
    resampler, parts, at = Resampler(source, target), [], 0
    for size in [*sizes, len(signal)]:
        parts.append(resampler.feed(signal[at : at + size]))
        at += size
    return np.concatenate([*parts, resampler.close()])


def noise(n):
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


def tone(hz, rate, n):
    return np.sin(2 * np.pi * hz * np.arange(n) / rate).astype(np.float32)


def level_db(signal):
    return float(20 * np.log10(np.sqrt(2 * np.mean(np.square(signal, dtype=float))) + 1e-12))


@settings(max_examples=60)
@given(
    n=st.integers(0, 3000),
    rates=st.sampled_from([(44100, 11025), (48000, 11025), (11025, 22050), (8000, 11025), (3, 7), (7, 3)]),
    sizes=st.lists(st.integers(0, 700), max_size=8),
)
def test_blocks_of_any_size_give_bit_for_bit_the_result_of_scipy(n, rates, sizes):
    signal = noise(n)
    resampler = Resampler(*rates)
    result = in_blocks(signal, *rates, sizes)
    assert len(result) == -(-n * resampler.up // resampler.down)
    if n:
        window = lowpass(max(resampler.up, resampler.down))
        assert np.array_equal(result, resample_poly(signal, resampler.up, resampler.down, window=window))


def test_a_ratio_of_large_numbers_is_exact_and_has_no_seams():
    resampler = Resampler(44101, 11025)
    assert (resampler.up, resampler.down) == (11025, 44101)
    whole = resample_poly(noise(9000), 11025, 44101, window=lowpass(44101))
    assert np.array_equal(in_blocks(noise(9000), 44101, 11025, [1, 4000, 37]), whole)


@pytest.mark.parametrize(("source", "target"), [(767_999, 11_025), (767_999, 768_000), (1000, 767_999)])
def test_ratios_of_very_large_numbers_are_limited_and_nearly_exact(source, target):
    resampler = Resampler(source, target)
    assert max(resampler.up, resampler.down) <= 48_000
    assert resampler.up / resampler.down == pytest.approx(target / source, rel=1 / 96_000)


@pytest.mark.parametrize(("source", "hz"), [(44100, 50), (48000, 4900), (22050, 3000)])
def test_the_passband_keeps_its_level(source, hz):
    result = in_blocks(tone(hz, source, 2 * source), source, 11025)
    assert abs(level_db(result[5000 : 5000 + 11025])) < 0.01  # whole periods


@pytest.mark.parametrize(("source", "hz"), [(44100, 5600), (48000, 7000), (48000, 21000)])
def test_tones_above_the_new_nyquist_frequency_are_85_db_down(source, hz):
    result = in_blocks(tone(hz, source, source), source, 11025)
    assert level_db(result[2000:-2000]) < -85


def test_raising_the_rate_makes_no_images():
    result = in_blocks(tone(1000, 8000, 8000), 8000, 48000)[12000:36000]
    assert level_db(result - tone(1000, 48000, 36000)[12000:]) < -75


@pytest.mark.parametrize("source", [44100, 8000])
def test_the_signal_is_not_delayed(source):
    signal = np.zeros(source, np.float32)
    signal[source // 2] = 1
    assert int(np.argmax(in_blocks(signal, source, 11025, [777]))) in (5512, 5513)


def test_a_constant_keeps_its_value():
    result = in_blocks(np.ones(48000, np.float32), 48000, 11025)
    np.testing.assert_allclose(result[1000:-1000], 1, atol=1e-4)
