"""Backward-adaptive linear prediction: what it predicts, and that it depends on past samples only."""

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz

from charrnn.data.predictor import PERIOD, PREDICTORS, LinearPredictor, history, schur, solve
from charrnn.data.predictor import predict as predict_with

LONG = PREDICTORS["lpc-long"]
HISTORY = history(LONG)
RATE = 11025
TONE = np.rint(60 * np.sin(2 * np.pi * 440 * np.arange(4 * HISTORY) / RATE)).astype(np.int8)
NOISE = np.random.default_rng(0).integers(-128, 128, 4 * HISTORY, dtype=np.int8)
NO_PHASE = np.zeros(1, dtype=np.int64)


def predict(samples, phase, predictors=LONG):
    return predict_with(samples, phase, predictors)


def test_silence_is_followed_by_silence():
    values = predict(np.zeros((1, HISTORY + 5), dtype=np.int8), NO_PHASE)
    assert values.shape == (1, 6, len(LONG))
    assert not values.any()


def test_a_tone_is_predicted_almost_within_its_rounding_and_noise_is_not():
    tone, noise = (predict(samples[None], NO_PHASE) for samples in (TONE, NOISE))
    assert (TONE[HISTORY:, None] - tone[0, :-1]).std() < 0.5
    assert (NOISE[HISTORY:, None] - noise[0, :-1]).std() > 70


def test_predictions_do_not_depend_on_later_samples():
    values = predict(NOISE[None], NO_PHASE)
    other = NOISE.copy()
    other[HISTORY + 100 :] = 7
    other_values = predict(other[None], NO_PHASE)
    np.testing.assert_array_equal(values[:, :101], other_values[:, :101])
    assert (values[:, 101:110] != other_values[:, 101:110]).any()


@pytest.mark.parametrize("size", [1, 7, PERIOD, 50])
def test_pieces_with_their_phase_are_predicted_as_the_whole(size):
    samples = NOISE[: HISTORY + 200]
    whole = predict(samples[None], NO_PHASE)
    for start in range(0, 201 - size, size):
        piece = predict(samples[None, start : HISTORY + start + size], np.array([start % PERIOD]))
        np.testing.assert_array_equal(piece[0, :-1], whole[0, start : start + size])


def test_rows_have_phases_of_their_own():
    rows = np.stack([NOISE[k : k + HISTORY + 60] for k in range(20)])
    phases = np.arange(20) % PERIOD
    values = predict(rows, phases)
    for k in range(20):
        np.testing.assert_array_equal(values[k], predict(rows[k : k + 1], phases[k : k + 1])[0])


@pytest.mark.parametrize("samples", [TONE, NOISE, np.full_like(TONE, 127), np.zeros_like(TONE)])
def test_coefficients_solve_the_normal_equations_and_give_a_stable_synthesis_filter(samples):
    for predictor in LONG:
        x = samples[: predictor.length] * predictor.window.astype(np.float64)
        r = np.array([x[k:] @ x[: len(x) - k] for k in range(predictor.order + 1)])
        r[0] = r[0] * (1 + predictor.white_noise) + predictor.noise_floor * predictor.power
        a = schur(r)
        np.testing.assert_allclose(a, solve_toeplitz(r[:-1], r[1:]), atol=1e-6 * max(1, abs(a).max()))
        assert abs(np.roots([1, *-a])).max() < 1


def test_white_noise_makes_a_prediction_less_sharp():
    plain, noisy = (solve(LinearPredictor(16, 512, 0.995, 16, white_noise=w), TONE[:512]) for w in (1e-5, 0.1))
    assert np.sum(noisy**2) < np.sum(plain**2) / 2


def test_windows_are_whole_numbers_that_end_with_a_rise():
    for predictor in LONG:
        window = predictor.window
        assert (window == np.rint(window)).all()
        assert window[-1] < 20
        assert 0.8 * predictor.peak < window.max() <= predictor.peak
        assert len(window) - 60 < window.argmax() < len(window) - 20
