"""The frame predictor: windows, losses and checkpoints."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from unrolled import unrolled

from bytecodec.errors import InputError
from charrnn.data.batches import ContiguousBatches
from charrnn.frames import model as frame_model
from charrnn.frames.data import Recordings
from charrnn.frames.model import FrameCheckpoint, FrameConfig, FrameRNN, build
from charrnn.storage import checkpoint
from charrnn.training.evaluate import evaluate

SAMPLES = (3000 * np.sin(np.arange(4000) / 7) + np.random.default_rng(0).normal(0, 300, 4000)).astype(np.int16)
CELLS = pytest.mark.parametrize(
    ("cell", "loss"),
    [("lstm", "mse"), ("lstmp", "gaussian"), ("lstmor", "gaussian"), ("gru", "mse"), ("rnn", "gaussian")],
)
LOSSES = pytest.mark.parametrize("loss", frame_model.LOSSES)


def network(**fields):
    """Return a network of two layers of 6 units with 4 taps 5 samples apart."""
    return build(FrameConfig(**{"rnn_size": 6, "taps": 4, "spacing": 5} | fields), 0, SAMPLES)


def windows(model, samples, rows=1, steps=None):
    spacing = model.config.spacing
    return ContiguousBatches(samples, rows, steps or spacing, context=model.config.context)


# Windows


def test_step_1_predicts_sample_4001_from_samples_1_101_to_3901():
    model = FrameRNN(FrameConfig(rnn_size=2, layers=1, taps=40, spacing=100))
    x, y = windows(model, np.arange(1, 4201, dtype=np.int16)).at(0, 100)
    inputs = model.step_inputs(torch.from_numpy(x))
    assert inputs.shape == (1, 100, 40)
    assert inputs[0, 0].tolist() == list(range(1, 3902, 100))
    assert y[0, 0] == 4001
    assert y[0].tolist() == list(range(4001, 4101))
    assert torch.equal(inputs[0].T.flatten(), torch.from_numpy(x[0]))  # the window, column by column


@given(taps=st.integers(1, 5), spacing=st.integers(1, 7), rows=st.integers(1, 4), n=st.integers(0, 300))
def test_every_target_is_predicted_from_the_samples_t_2t_to_nt_before_it(taps, spacing, rows, n):
    model = FrameRNN(FrameConfig(rnn_size=1, layers=1, taps=taps, spacing=spacing))
    samples = np.arange(taps * spacing + rows * spacing + n, dtype=np.int16)
    batches = windows(model, samples, rows)
    targets = []
    for position in range(0, batches.row_length, spacing):
        x, y = batches.at(position, spacing)
        seen = model.step_inputs(torch.from_numpy(x)).numpy()
        assert np.array_equal(seen, y[..., None] - spacing * np.arange(taps, 0, -1))
        targets.append(y)
    x, y = batches.rest()
    assert np.array_equal(np.concatenate([*np.concatenate(targets, axis=1), *y]), samples[taps * spacing :])


def test_the_first_samples_of_a_part_are_predicted_from_the_end_of_the_part_before():
    parts = Recordings(np.arange(100, dtype=np.int16), ("a",)).split(0.2, 0.1, max_lag=20)
    assert parts["train"].tolist() == list(range(70))
    assert parts["val"].tolist() == list(range(50, 90))
    assert parts["test"].tolist() == list(range(70, 100))


def test_generation_begins_from_the_window_whose_level_is_closest_to_that_of_the_recording():
    loud_in_the_middle = np.concatenate([np.zeros(400), np.tile([1000, -1000], 200), np.zeros(400)]).astype(np.int16)
    window = frame_model.typical_window(loud_in_the_middle, 200, 600 / frame_model.FULL_SCALE)
    assert frame_model.rms(window) * frame_model.FULL_SCALE == pytest.approx(707, abs=1)


# Losses


@CELLS
def test_a_forward_pass_equals_its_steps(cell, loss):
    model = network(cell=cell, loss=loss)
    x = torch.from_numpy(SAMPLES[None, :40].astype(np.float32) / frame_model.FULL_SCALE)
    means, variances, state = model(x, model.initial_state(1))
    y = model.step_inputs(x) / model.unit
    expected = model.initial_state(1)
    for layer, layer_state in zip(model.layers, expected, strict=False):
        y, _ = unrolled(layer, y, layer_state)
    y = unrolled(model.output, y, expected[-1])[0] if cell == "lstmor" else model.output(y)
    assert torch.allclose(means, y[..., 0] * model.unit, atol=1e-6)
    assert len(state) == 2 + (cell == "lstmor")
    if loss == "gaussian":
        assert torch.allclose(variances, model.unit**2 * y[..., 1].exp() + frame_model.STEP**2, rtol=1e-4)
    else:
        assert variances is None


def test_the_mse_loss_is_relative_to_full_scale():
    model = network()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
    x, y = (torch.from_numpy(a) for a in windows(model, SAMPLES, rows=3).at(0, 5))
    loss, _ = model.loss(x, y, model.initial_state(3))
    assert loss.item() == pytest.approx(np.mean((y.numpy() / 32768.0) ** 2), rel=1e-6)


def test_the_gaussian_loss_is_that_of_torchs_normal_distribution():
    model = network(loss="gaussian")
    x, y = (torch.from_numpy(a) for a in windows(model, SAMPLES, rows=3).at(0, 5))
    loss, _ = model.loss(x, y, model.initial_state(3))
    means, variances, _ = model(x / 32768, model.initial_state(3))
    assert loss.item() == pytest.approx(
        -torch.distributions.Normal(means, variances.sqrt()).log_prob(y / 32768).mean().item(), rel=1e-5
    )


@CELLS
def test_two_windows_with_carried_state_equal_one_long_window(cell, loss):
    model = network(cell=cell, loss=loss)
    whole, one = windows(model, SAMPLES, 2, steps=10), windows(model, SAMPLES, 2, steps=10)
    x, y = (torch.from_numpy(a) for a in whole.at(0, 10))
    together, state = model.loss(x, y, model.initial_state(2))
    apart, carried = [], model.initial_state(2)
    for position in (0, 5):
        x, y = (torch.from_numpy(a) for a in one.at(position, 5))
        part, carried = model.loss(x, y, carried)
        apart.append(part)
    assert torch.allclose(together, sum(apart) / 2, rtol=1e-5)
    assert all(
        torch.allclose(a, b, atol=1e-6) for m, n in zip(state, carried, strict=True) for a, b in zip(m, n, strict=True)
    )


@LOSSES
def test_predictions_scale_with_the_level_of_the_recording(loss):
    config = FrameConfig(rnn_size=6, taps=4, spacing=5, loss=loss)
    loud, quiet = build(config, 0, 2 * SAMPLES), build(config, 0, SAMPLES)
    x = torch.from_numpy(SAMPLES[None, :20].astype(np.float32) / frame_model.FULL_SCALE)
    (a, v, _), (b, w, _) = loud(2 * x, loud.initial_state(1)), quiet(x, quiet.initial_state(1))
    assert torch.equal(a, 2 * b)
    if loss == "gaussian":
        assert torch.allclose(v - frame_model.STEP**2, 4 * (w - frame_model.STEP**2), rtol=1e-3)


def test_the_loss_of_silence_is_finite():
    silence = np.zeros(200, np.int16)
    model = build(FrameConfig(rnn_size=6, taps=4, spacing=5, loss="gaussian"), 0, silence)
    with torch.no_grad():
        model.output.bias.fill_(-1000)
    loss, _ = model.loss(
        torch.zeros(1, 20, dtype=torch.int16), torch.zeros(1, 5, dtype=torch.int16), model.initial_state(1)
    )
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_bits_are_per_16_bit_sample():
    uniform_over_all = 16.0
    nats_of_a_density_of_one_half = math.log(2)
    assert network(loss="gaussian").bits(nats_of_a_density_of_one_half) == pytest.approx(uniform_over_all)
    variance = 0.01
    nats = (math.log(2 * math.pi * variance) + 1) / 2
    assert network().bits(variance) == pytest.approx(network(loss="gaussian").bits(nats))


def test_forget_biases_are_spread_over_0_to_1_unless_a_number_is_given():
    bias = network(rnn_size=50).layers[0].bias_ih_l0[50:100]
    assert 0 <= bias.min() < 0.1
    assert 0.9 < bias.max() <= 1
    assert set(network(forget_bias=5.0).layers[0].bias_ih_l0[6:12].tolist()) == {5.0}


@LOSSES
def test_validation_is_the_mean_loss_over_every_target(loss):
    model = network(loss=loss)
    samples = SAMPLES[: 20 + 103]
    batches = windows(model, samples, 50, steps=1)
    x, y = batches.at(0, batches.row_length)
    total, state = model.loss(torch.from_numpy(x), torch.from_numpy(y), model.initial_state(50))
    x, rest = batches.rest()
    last = tuple(tuple(tensor[-1:] for tensor in layer) for layer in state)
    left, _ = model.loss(torch.from_numpy(x), torch.from_numpy(rest), last)
    expected = (total.item() * y.size + left.item() * rest.size) / 103
    assert rest.size == 3
    assert evaluate(model, samples, context=model.config.context) == pytest.approx(expected, rel=1e-5)


# Checkpoints


def test_a_saved_checkpoint_is_loaded_unchanged(tmp_path):
    model = network(loss="gaussian", cell="lstmp")
    checkpoint.save(tmp_path / "a.safetensors", FrameCheckpoint(model, 3, 0.5, 8000, 1.5, 2.5))
    found = frame_model.load(tmp_path / "a.safetensors")
    assert (found.step, found.epoch, found.rate, found.train_loss, found.val_loss) == (3, 0.5, 8000, 1.5, 2.5)
    assert found.model.config == model.config
    assert all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_the_other_kind_is_rejected(tmp_path, tiny_checkpoint):
    checkpoint.save(tmp_path / "symbols.safetensors", tiny_checkpoint)
    checkpoint.save(tmp_path / "frames.safetensors", FrameCheckpoint(network()))
    with pytest.raises(InputError, match="character network: name"):
        frame_model.load(tmp_path / "symbols.safetensors")
    with pytest.raises(InputError, match="frame predictor: name"):
        checkpoint.load(tmp_path / "frames.safetensors")


def test_weights_that_are_not_finite_are_rejected(tmp_path):
    model = network()
    with torch.no_grad():
        model.output.bias[0] = torch.nan
    checkpoint.save(tmp_path / "a.safetensors", FrameCheckpoint(model))
    with pytest.raises(InputError, match=r"a\.safetensors: output\.bias .*not finite"):
        frame_model.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"taps": 0}},
        {"model": {"spacing": 10**12}},
        {"model": {"rnn_size": 7}},
        {"rate": None},
    ],
)
def test_a_checkpoint_with_impossible_metadata_is_rejected(tmp_path, change):
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, FrameCheckpoint(network()))
    metadata, tensors = checkpoint.read_tensors(file, "frames")
    model = change.get("model", {})
    model = {**metadata["model"], **model} if isinstance(model, dict) else model
    metadata = {name: value for name, value in metadata.items() if name not in ("format", "kind")}
    checkpoint.write_tensors(file, "frames", tensors, {**metadata, **change, "model": model})
    with pytest.raises(InputError, match=r"a\.safetensors"):
        frame_model.load(file)
