"""Samples as numbers: what a network reads, the noise in training, and the distribution around predictions."""

import itertools
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
from charrnn.models.config import ModelConfig, hidden_sizes, sample_inputs
from charrnn.models.samples import LogisticOutput, SampleReader

CONFIG = ModelConfig(256, 5, 6, 2, context=3, prediction="lpc")
HISTORY = history(PREDICTORS["lpc"])


def voice(n, t, seed=0, level=20):
    """Return ids (n, t) of noise with a level."""
    noise = np.random.default_rng(seed).normal(128, level, (n, t)).clip(0, 255)
    return torch.from_numpy(noise.astype(np.int64))


def test_a_step_reads_the_samples_before_and_the_predictions_of_the_next_one():
    reader, ids = SampleReader(CONFIG), voice(2, 30)
    numbers, predictions, _ = reader.read(ids, reader.initial_state(torch.zeros(1), 2))
    assert numbers.shape == (2, 30, sample_inputs(CONFIG)) == (2, 30, 9)
    x = (ids - 128).numpy().astype(np.int8)
    values = predictor.predict(np.pad(x, ((0, 0), (HISTORY, 0))), np.zeros(2, dtype=np.int64), PREDICTORS["lpc"])
    found = numbers[:, 20].numpy()
    np.testing.assert_allclose(found[:, :3] * 16, x[:, 17:20])
    np.testing.assert_allclose(found[:, 3:5] * 16, values[:, 21], rtol=1e-6)
    np.testing.assert_allclose(found[:, 5:7], np.clip((values[:, 21] - x[:, 20:21]) / 6, -4, 4), rtol=1e-5)
    np.testing.assert_allclose(found[:, 7:], np.clip((x[:, 20:21] - values[:, 20]) / 1.5, -4, 4), rtol=1e-5)
    np.testing.assert_array_equal(predictions[:, 20].numpy(), values[:, 21])


@pytest.mark.parametrize("changes", [{}, {"context": 0}, {"prediction": "none"}, {"cell": "lstmor"}, {"cell": "gru"}])
def test_single_steps_and_pieces_equal_a_sequence(changes):
    model = build(replace(CONFIG, **changes), 0).eval()
    x, state = voice(3, 40), model.initial_state(3)
    assert tuple(tuple(t.shape[1] for t in layer) for layer in state) == hidden_sizes(model.config)
    whole, end = model(x, state)
    first, middle = model(x[:, :23], state)
    second, after = model(x[:, 23:], middle)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=1e-5)
    for t in range(40):
        logits, state = model.step(x[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-4, rtol=1e-4)
    for found in (after, state):
        torch.testing.assert_close(sum(found, ()), sum(end, ()), atol=1e-5, rtol=1e-5)


def state_of(ids, disturbance=(0, 0, 0, 0)):
    """Return the state after ids (N, HISTORY), without own sound."""
    n = len(ids)
    disturbances = torch.tensor([disturbance] * n, dtype=torch.float32)
    return (ids - 128).float(), torch.zeros(n, 1), disturbances, torch.zeros(n, 3 + samples.OWN_SAMPLES)


@pytest.mark.parametrize("share", [0, 1])
def test_disturbances_are_relative_to_the_level_and_leave_silence_alone(monkeypatch, share):
    monkeypatch.setattr(samples, "TONE_SHARE", share)
    monkeypatch.setattr(samples, "AMPLITUDE_RANGE", 1)
    monkeypatch.setattr(samples, "DISTURBANCE_LENGTHS", (1e9, 1e9))
    reader, loud, quiet = SampleReader(replace(CONFIG, noise=0.5)), voice(50, HISTORY + 101), torch.full((50, 101), 128)
    monkeypatch.setattr(samples, "DISTURBANCE_EVERY", 1)
    disturbed, where, _ = reader.disturb(loud[:, HISTORY:], state_of(loud[:, :HISTORY]))
    assert where.all()
    added = (disturbed - loud[:, HISTORY:]).float()
    assert added.std() == pytest.approx(10 / 2 ** (share / 2), abs=0.5)  # a level of 20
    assert abs(added.mean()) < 0.5
    silence = reader.initial_state(torch.zeros(1), 50, training=True)
    same, where, _ = reader.disturb(quiet, silence)
    assert torch.equal(same, quiet)
    assert not where.any()


def test_a_dc_offset_does_not_make_disturbances_larger():
    reader, ids = SampleReader(replace(CONFIG, noise=0.5)), voice(50, HISTORY + 101)
    found = []
    for offset in (0, 10):
        torch.manual_seed(0)
        state = state_of(ids[:, :HISTORY] + offset)
        found.append(reader.disturb(ids[:, HISTORY:] + offset, state)[0] - offset)
    torch.testing.assert_close(*found, atol=1, rtol=0)


def test_a_disturbance_goes_on_in_the_next_batch_until_its_end(monkeypatch):
    monkeypatch.setattr(samples, "DISTURBANCE_EVERY", math.inf)  # none begins
    reader, ids = SampleReader(replace(CONFIG, noise=0.5)), voice(1, HISTORY + 401)
    state, added, where = state_of(ids[:, :HISTORY], (0.3, 1.0, 10.0, 230.0)), [], []
    for start in range(HISTORY, HISTORY + 400, 50):
        disturbed, is_disturbed, after = reader.disturb(ids[:, start : start + 51], state)
        added.append((disturbed - ids[:, start : start + 51])[0])
        where.append(is_disturbed[0])
        state = (torch.cat([state[0], (disturbed[:, :50] - 128).float()], dim=1)[:, 50:], *after[1:])
    t = np.arange(1, 401)
    expected = (t <= 230) * 10 * np.sin(1 + 0.3 * t)
    np.testing.assert_allclose(torch.cat([piece[:50] for piece in added]), expected, atol=0.51)
    np.testing.assert_array_equal(torch.cat([piece[:50] for piece in where]), t <= 230)
    assert all(last[50] == first[0] for last, first in itertools.pairwise(added))  # a target is the next input


def test_disturbances_begin_in_some_rows():
    reader, ids = SampleReader(replace(CONFIG, noise=2.0)), voice(4000, HISTORY + 51)
    torch.manual_seed(0)
    _, _, (*_, begun, _) = reader.disturb(ids[:, HISTORY:], state_of(ids[:, :HISTORY], (9, 0, 0, 1)))
    new = begun[:, 0] != 9
    assert float(new.double().mean()) == pytest.approx(50 / samples.DISTURBANCE_EVERY, abs=0.02)
    assert float((begun[new, 0] > 0).double().mean()) == pytest.approx(samples.TONE_SHARE, abs=0.1)
    assert begun[:, 2].max() < 2 * 25  # at most twice the level of 20
    least, greatest = samples.DISTURBANCE_LENGTHS
    assert (begun[new, 3] >= max(0, least - 50)).all()
    assert begun[:, 3].max() <= greatest - 50


def test_own_sound_fades_out_over_batches_while_the_recording_fades_in(monkeypatch):
    monkeypatch.setattr(samples, "DISTURBANCE_EVERY", math.inf)
    reader, ids = SampleReader(replace(CONFIG, noise=0.5)), torch.full((2, 401), 128 + 80)
    state, found = state_of(torch.full((2, HISTORY), 128)), []
    state[3][0, 1] = 300  # the first row fades for 300 samples; the second one does not
    state[3][:, 2:] = -60
    for start in range(0, 400, 50):
        faded, _, state = reader.disturb(ids[:, start : start + 51], state)
        found.append(faded - 128)
    assert all(torch.equal(last[:, 50], first[:, 0]) for last, first in itertools.pairwise(found))
    one, other = torch.cat([piece[:, :50] for piece in found], dim=1)
    angle = np.pi / 2 * np.minimum(1, np.arange(400) / 300)
    np.testing.assert_allclose(one, 80 * np.sin(angle) - 60 * np.cos(angle), atol=0.51)
    assert (other == 80).all()


def test_the_loss_is_disturbed_in_training_only():
    model = build(replace(CONFIG, noise=2.0), 0)
    x, y = voice(8, 101)[:, :-1], voice(8, 101)[:, 1:]
    state = model.initial_state(8, training=True)
    state[-1][0].copy_(voice(8, HISTORY, seed=1) - 128)
    torch.manual_seed(0)
    assert not torch.equal(model.loss(x, y, state)[0], model.loss(x, y, state)[0])
    assert model.uses_randomness
    model.eval()
    torch.testing.assert_close(model.loss(x, y, state)[0], model.loss(x, y, state)[0], rtol=0, atol=0)


@pytest.mark.parametrize("length", [61, 1000])
def test_the_loss_is_without_disturbed_symbols_and_zero_if_all_are(monkeypatch, length):
    monkeypatch.setattr(samples, "DISTURBANCE_EVERY", math.inf)
    model, ids = build(replace(CONFIG, noise=2.0), 0), voice(1, HISTORY + 101)
    hidden = model.initial_state(1, training=True)[:-1]
    state = (*hidden, state_of(ids[:, :HISTORY], (0.3, 0, 10, length)))
    disturbed, _, _ = model.samples.disturb(ids[:, HISTORY:], state[-1])
    logits, _ = model(disturbed[:, :-1], state)
    expected = torch.nn.functional.cross_entropy(logits[0, 60:], disturbed[0, 61:])
    found, _ = model.loss(ids[:, HISTORY:-1], ids[:, HISTORY + 1 :], state)
    torch.testing.assert_close(found, expected if length == 61 else torch.tensor(0.0))


@pytest.mark.parametrize(
    ("correction", "mean", "scale", "quadratic"),
    [
        ((0, 0, 0, 0), 3, 0.75, 0.05),
        ((1, 0, 0, 0), 3.75, 0.75, 0.05),
        ((0, 2, 0, 0), 3, 0.75 * np.e, 0.05),
        ((0, 9, 0, 0), 3, 0.75 * np.exp(4), 0.05),
        ((0, 0, 1, 0), 4.2, 0.75, 0.05),
        ((0, 0, 0, -1), 3, 0.75, 0.05 / np.e),
        ((0, 0, 0, 9), 3, 0.75, 0.05 * np.exp(4)),
    ],
)
def test_the_output_is_between_a_logistic_and_a_normal_distribution(correction, mean, scale, quadratic):
    output, logits, predictions = LogisticOutput(CONFIG, 6), torch.zeros(1, 1, 256), torch.tensor([[[3.0, 7.0]]])
    found = output(logits, torch.tensor([[correction]], dtype=torch.float32), predictions)[0, 0].numpy()
    z = (np.arange(-128, 128) - mean) / scale
    expected = logistic.logpdf(z) - quadratic * z**2
    np.testing.assert_allclose(found - found.max(), expected - expected.max(), atol=1e-3, rtol=1e-5)


def test_errors_of_the_predictions_cost_a_new_network_little():
    error = 25  # steps, of a loud recording whose prediction has just begun
    output, predictions = LogisticOutput(CONFIG, 6), torch.tensor([[[float(error), error]]])
    logits = output(torch.zeros(1, 1, 256), output.correction(torch.zeros(1, 1, 6)), predictions)[0, 0]
    loss = -torch.log_softmax(logits, dim=0)[128]
    assert loss < 25  # it would be 88 with an initial spread of 0


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


def test_rows_are_predicted_alike_on_one_thread_and_on_more_threads_than_rows(monkeypatch):
    ids, reader = voice(3, 40), SampleReader(CONFIG)
    expected = reader.read(ids, reader.initial_state(torch.zeros(1), 3))[0]
    monkeypatch.setattr(samples, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert torch.equal(reader.read(ids, reader.initial_state(torch.zeros(1), 3))[0], expected)
