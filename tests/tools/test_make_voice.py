"""The demo recording equals the output of its script, and has the properties of a voice."""

import importlib.util
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg, signal

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "data" / "voice.wav"


def _script():
    spec = importlib.util.spec_from_file_location("make_voice", ROOT / "tools" / "make_voice.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their module
    spec.loader.exec_module(module)
    return module


make_voice = _script()


@pytest.fixture(scope="module")
def performance():
    return make_voice.perform()


@pytest.fixture(scope="module")
def samples():
    """Return the committed recording as steps from silence."""
    with wave.open(str(RECORDING)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.uint8).astype(int) - 128


def test_the_script_makes_the_committed_bytes(performance, monkeypatch, tmp_path):
    monkeypatch.setattr(make_voice, "perform", lambda: performance)
    assert make_voice.make_voice(["-o", str(tmp_path / "voice.wav")]) == 0
    assert (tmp_path / "voice.wav").read_bytes() == RECORDING.read_bytes()


def test_no_sample_is_near_enough_to_a_rounding_border_to_depend_on_the_processor(performance):
    from_border = np.abs(performance - np.floor(performance) - 0.5)
    assert from_border.min() > 1e-6


def test_it_is_a_minute_of_8_bit_mono_at_11025_hz_with_a_peak_of_minus_3_db(samples):
    assert np.abs(samples).max() == 90
    with wave.open(str(RECORDING)) as file:
        assert (file.getsampwidth(), file.getnchannels(), file.getframerate()) == (1, 1, 11025)
        assert file.getnframes() == 60 * 11025


def test_its_pitch_is_that_of_a_woman(samples):
    pitches = [pitch for start in range(0, len(samples) - 512, 256) if (pitch := _pitch(samples[start : start + 512]))]
    assert len(pitches) * 256 > len(samples) / 3  # most of the sound is voiced
    assert 180 < np.median(pitches) < 210
    assert np.percentile(pitches, 5) > 130
    assert np.percentile(pitches, 95) < 280


def test_a_phrase_falls_at_its_end_and_a_question_rises():
    def last_and_first(rising):
        phrase = make_voice.speak_words(["'malo", "no'sal", "l@", "'malo"], np.random.PCG64(0), rising=rising)
        pitches = [_pitch(200 * phrase[i : i + 512]) for i in range(0, len(phrase) - 512, 128)]
        voiced = [pitch for pitch in pitches if pitch]
        return voiced[-2], voiced[1]

    last, first = last_and_first(rising=False)
    assert last < 0.8 * first
    last, first = last_and_first(rising=True)
    assert last > first


def test_a_sustained_vowel_has_the_formants_of_the_table():
    for vowel, sound in make_voice.VOWELS.items():
        middle = make_voice.speak([replace(sound, ms=500)], [0], np.random.PCG64(0))[1500:4500]
        # The harmonics are 190 Hz apart and shift the measured formants by up to a quarter of that.
        assert _formants(middle)[:3] == pytest.approx(sound.formants, abs=50), vowel


def _pitch(piece):
    """Return the pitch of 46 ms in Hz by autocorrelation, or None if it is not voiced."""
    piece = (piece - piece.mean()) * np.hanning(len(piece))
    if piece.std() < 2:
        return None
    autocorrelation = signal.correlate(piece, piece)[len(piece) - 1 :]
    window = np.hanning(len(piece))
    autocorrelation = autocorrelation / autocorrelation[0]
    autocorrelation[:150] /= (signal.correlate(window, window)[len(piece) - 1 :] / np.sum(window**2))[:150]
    lags = np.arange(36, 90)  # 306 to 123 Hz
    lag = lags[np.argmax(autocorrelation[lags])]
    return 11025 / lag if autocorrelation[lag] > 0.8 else None


def _formants(sound, order=10):
    """Return the frequencies in Hz of the narrow resonances, by linear prediction."""
    sound = signal.lfilter([1, -0.9], 1, sound) * np.hanning(len(sound))
    autocorrelation = signal.correlate(sound, sound)[len(sound) - 1 :]
    prediction = linalg.solve_toeplitz(autocorrelation[:order], autocorrelation[1 : order + 1])
    poles = np.roots([1, *-prediction])
    poles = poles[(poles.imag > 0) & (np.abs(poles) > np.exp(-np.pi * 500 / 11025))]
    frequencies = np.sort(np.angle(poles) * 11025 / (2 * np.pi))
    return frequencies[frequencies > 150]
