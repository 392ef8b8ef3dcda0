"""Samples as numbers: what a network reads, the noise in training, and the distribution around predictions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from charrnn.data import predictor
from charrnn.data.predictor import PREDICTORS, history
from charrnn.models import samples
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig, sample_inputs, state_shapes
from charrnn.models.samples import LogisticOutput, Prediction, SampleReader

CONFIG = ModelConfig(256, 5, 6, 2, context=3, prediction="lpc")
HISTORY = history(PREDICTORS["lpc"])


def voice(n, t, seed=0, level=20):
    """Return ids (n, t) of noise with a level."""
    noise = np.random.default_rng(seed).normal(128, level, (n, t)).clip(0, 255)
    return torch.from_numpy(noise.astype(np.int64))


def test_a_step_reads_the_samples_before_and_the_predictions_of_the_next_one():
    reader, ids = SampleReader(CONFIG), voice(2, 30)
    numbers, prediction, _ = reader.read(ids, reader.initial_state(torch.zeros(1), 2))
    assert numbers.shape == (2, 30, sample_inputs(CONFIG)) == (2, 30, 11)
    x = (ids - 128).numpy().astype(np.int8)
    values, scales = predictor.predict(
        np.pad(x, ((0, 0), (HISTORY, 0))), np.zeros(2, dtype=np.int64), PREDICTORS["lpc"]
    )
    found = numbers[:, 20].numpy()
    deviation = np.sqrt(scales[:, 21, :1] ** 2 + 0.25)
    np.testing.assert_allclose(found[:, :3] * 16, x[:, 17:20])
    np.testing.assert_allclose(found[:, 3:5] * 16, values[:, 21], rtol=1e-6)
    np.testing.assert_allclose(found[:, 5:7], (values[:, 21] - x[:, 20:21]) / (4 * deviation), rtol=1e-5)
    np.testing.assert_allclose(found[:, 7:9], np.clip((x[:, 20:21] - values[:, 20]) / deviation, -4, 4), rtol=1e-5)
    np.testing.assert_allclose(found[:, 9:], np.log(scales[:, 21] + 0.1), rtol=1e-5)
    np.testing.assert_array_equal(prediction.values[:, 20].numpy(), values[:, 21])


@pytest.mark.parametrize("changes", [{}, {"context": 0}, {"prediction": "none"}, {"cell": "lstmor"}, {"cell": "gru"}])
def test_single_steps_and_pieces_equal_a_sequence(changes):
    model = build(replace(CONFIG, **changes), 0).eval()
    x, state = voice(3, 40), model.initial_state(3)
    assert {name: tuple(t.shape) for name, t in zip(state_shapes(model.config, 3), sum(state, ()), strict=True)} == (
        state_shapes(model.config, 3)
    )
    whole, end = model(x, state)
    first, middle = model(x[:, :23], state)
    second, after = model(x[:, 23:], middle)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=1e-5)
    for t in range(40):
        logits, state = model.step(x[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-4, rtol=1e-4)
    for found in (after, state):
        torch.testing.assert_close(sum(found, ()), sum(end, ()), atol=1e-5, rtol=1e-5)


def test_noise_is_relative_to_the_level_and_leaves_silence_alone(monkeypatch):
    reader = SampleReader(replace(CONFIG, noise=0.1))
    loud, quiet = voice(1, HISTORY + 4000), torch.full((1, 4000), 128)
    state = ((loud[:, :HISTORY] - 128).float(), torch.zeros(1, 1), torch.zeros(1, 3))
    monkeypatch.setattr(samples, "TONE_SHARE", 0)
    noise = (reader.disturb(loud[:, HISTORY:], state)[0] - loud[:, HISTORY:]).float()
    assert noise.std() == pytest.approx(2, abs=0.15)
    assert abs(noise.mean()) < 0.15
    assert torch.equal(reader.disturb(quiet, reader.initial_state(torch.zeros(1), 1))[0], quiet)


def test_a_tone_goes_on_in_the_next_batch(monkeypatch):
    reader = SampleReader(replace(CONFIG, noise=1e-9))
    loud = voice(1, HISTORY + 4000)
    tone = torch.tensor([[0.3, 0.5, 1.0]])
    before = ((loud[:, :HISTORY] - 128).float(), torch.zeros(1, 1), tone)
    monkeypatch.setattr(samples, "TONE_SAMPLES", math.inf)  # none begins
    added = []
    for start in range(HISTORY, HISTORY + 4000, 50):
        ids = loud[:, start : start + 50]
        disturbed, after = reader.disturb(ids, before)
        added.append((disturbed - ids)[0])
        before = (torch.cat([before[0], (ids - 128).float()], dim=1)[:, 50:], *after[1:])
    expected = 10 * np.sin(1 + 0.3 * np.arange(1, 4001))  # half the level of 20
    np.testing.assert_allclose(torch.cat(added), expected, atol=2.5)


def test_tones_begin_in_some_rows():
    reader = SampleReader(replace(CONFIG, noise=0.1))
    torch.manual_seed(0)
    _, (*_, tones) = reader.disturb(voice(2000, 50), reader.initial_state(torch.zeros(1), 2000))
    began = float((tones[:, 0] > 0).double().mean())
    assert began == pytest.approx(50 / samples.TONE_SAMPLES, abs=0.02)
    assert float((tones[:, 1] > 0).double().mean()) == pytest.approx(began * samples.TONE_SHARE, abs=0.01)
    assert tones[:, 1].max() <= 0.5


def test_a_network_has_noise_in_training_only():
    model = build(replace(CONFIG, noise=0.5), 0)
    x, state = voice(2, 100), model.initial_state(2)
    torch.manual_seed(0)
    assert not torch.equal(model(x, state)[0], model(x, state)[0])
    assert model.draws_numbers
    model.eval()
    torch.testing.assert_close(model(x, state)[0], model(x, state)[0], rtol=0, atol=0)


def test_the_output_is_a_logistic_distribution_around_the_prediction():
    output, logits = LogisticOutput(6, 2), torch.zeros(1, 1, 256)
    prediction = Prediction(torch.tensor([[[3.0, 7.0]]]), torch.tensor([[[4.0]]]))
    for correction, mean, scale in (
        ([0, 0, 0], 3, 2),
        ([1, 0, 0], 5, 2),
        ([0, 2, 0], 3, 2 * np.e),
        ([0, 0, 1], 4.2, 2),
    ):
        found = output(logits, torch.tensor([[correction]], dtype=torch.float32), prediction)[0, 0].numpy()
        expected = logistic.logpdf(np.arange(-128, 128), mean, scale)
        np.testing.assert_allclose(found - found.max(), expected - expected.max(), atol=1e-3)


def test_streams_begin_after_the_samples_that_they_are_given():
    model = build(CONFIG, 0).eval()
    before, x = voice(2, HISTORY), voice(2, 20, seed=1)
    state = model.state_after(before)
    torch.testing.assert_close(state[-1][0], (before - 128).float())
    assert not any(tensor.any() for layer in state[:-1] for tensor in layer)
    assert not torch.allclose(model(x, state)[0], model(x, model.initial_state(2))[0], atol=0.1)


def test_a_network_of_other_symbols_cannot_read_samples():
    for fields in ({"context": 3}, {"prediction": "lpc"}):
        with pytest.raises(ValueError, match="256"):
            ModelConfig(7, **fields)
