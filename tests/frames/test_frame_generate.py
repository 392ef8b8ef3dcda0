"""Generation with a frame predictor: levels, passes, noise, and resuming."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec.errors import InputError
from bytecodec.pcm import floats_to_int16
from charrnn.frames import generate as frame_generate
from charrnn.frames import noise as frame_noise
from charrnn.frames.generate import FrameStream, load_streams, save_streams
from charrnn.frames.model import NOISE_TAPS, FrameConfig, FrameRNN, build
from charrnn.sampling.audio_metrics import spectrum_distance

TAPS, SPACING = 3, 7
SAMPLES = (np.random.default_rng(0).normal(0, 3000, 6000)).astype(np.int16)


def network(**fields):
    model = build(FrameConfig(**{"rnn_size": 6, "layers": 1, "taps": TAPS, "spacing": SPACING} | fields), 0, SAMPLES)
    with torch.no_grad():
        model.output.weight.mul_(3)  # so that its output varies
    return model.eval()


class Gain(FrameRNN):
    """A network that repeats the sound of T samples ago, times a factor."""

    factor = 1.0

    def forward(self, x, state):
        return self.factor * self.step_inputs(x)[..., -1], None, state


def gain(factor, level=1.0):
    model = Gain(FrameConfig(rnn_size=1, layers=1, taps=TAPS, spacing=SPACING))
    model.factor = factor
    model.window.copy_(torch.from_numpy(SAMPLES[: TAPS * SPACING] / np.float32(32768) * np.float32(level)))
    return model


def read(stream, count, max_samples=2**62):
    """Return ``count`` samples, which are read in pieces of ``max_samples``."""
    pieces = []
    while count:
        pieces.append(stream.read(min(max_samples, count)))
        count -= len(pieces[-1])
    return np.concatenate(pieces)


# Levels


def test_a_network_that_repeats_its_input_keeps_every_sample_to_the_last_bit():
    model = gain(1.0)
    sound = read(FrameStream(model), 5000 * SPACING)
    assert np.array_equal(
        floats_to_int16(sound).reshape(5000, SPACING),
        np.tile(SAMPLES[(TAPS - 1) * SPACING : TAPS * SPACING], (5000, 1)),
    )


def test_samples_beyond_full_scale_are_limited_and_counted_and_do_not_wrap():
    stream = FrameStream(gain(3.0))
    sound = floats_to_int16(read(stream, 40 * SPACING)).astype(int)
    last = SAMPLES[(TAPS - 1) * SPACING : TAPS * SPACING].astype(int)
    expected, limited = last, 0
    for row in sound.reshape(40, SPACING):
        limited += np.count_nonzero((3 * expected > 32767) | (3 * expected < -32768))
        expected = np.clip(3 * expected, -32768, 32767)
        assert np.abs(row - expected).max() <= 1
    assert stream.limited == limited > 0
    assert np.array_equal(np.sign(sound[-SPACING:]), np.sign(last))


# Passes


@settings(max_examples=25)
@given(pieces=st.lists(st.integers(1, 30), min_size=1, max_size=10))
@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_samples_do_not_depend_on_the_pieces_in_which_they_are_read(loss, pieces):
    model = network(loss=loss)
    stream, cut = FrameStream(model, seed=3), []
    for max_samples in pieces:
        cut.append(stream.read(max_samples))
        assert 1 <= len(cut[-1]) <= max_samples
    assert np.array_equal(np.concatenate(cut), read(FrameStream(model, seed=3), sum(map(len, cut))))


@torch.no_grad()
def test_a_pass_appends_its_predictions_to_the_window_and_the_oldest_leave_it():
    model = network()
    sound = torch.from_numpy(read(FrameStream(model), 5 * SPACING))
    history, state = torch.cat([model.window, sound]), model.initial_state(1)
    for number in range(5):
        window = history[number * SPACING : (number + TAPS) * SPACING]
        means, _, state = model(window[None], state)
        assert torch.allclose(sound[number * SPACING : (number + 1) * SPACING], means[0], atol=1e-6)


@torch.no_grad()
def test_with_reset_every_pass_starts_from_the_zero_state():
    model = network()
    sound = torch.from_numpy(read(FrameStream(model, join="reset"), 5 * SPACING))
    history = torch.cat([model.window, sound])
    for number in range(5):
        means, _, _ = model(history[None, number * SPACING : (number + TAPS) * SPACING], model.initial_state(1))
        assert torch.allclose(sound[number * SPACING : (number + 1) * SPACING], means[0], atol=1e-6)


# Noise


def test_the_noise_depends_on_seed_number_and_temperature():
    model = network(loss="gaussian")
    first = read(FrameStream(model, seed=1), 50)
    assert np.array_equal(first, read(FrameStream(model, seed=1), 50))
    for other in ({"seed": 2}, {"seed": 1, "number": 1}, {"seed": 1, "temperature": 0.5}):
        assert not np.array_equal(first, read(FrameStream(model, **other), 50))


def test_at_temperature_0_samples_are_the_means():
    model = network(loss="gaussian")
    cold = read(FrameStream(model, temperature=0.0, seed=1), 50)
    assert np.array_equal(cold, read(FrameStream(model, temperature=0.0, seed=2), 50))
    means, _, _ = model(model.window[None], model.initial_state(1))
    assert np.allclose(cold[:SPACING], means[0].detach(), atol=1e-6)


def test_a_minimum_phase_filter_has_the_requested_power():
    at = np.linspace(0, np.pi, NOISE_TAPS + 1)
    power = 1 / np.abs(1 - 0.9 * np.exp(-1j * at)) ** 2  # of 1, 0.9, 0.81, ...
    taps = frame_noise.minimum_phase(power)
    assert np.allclose(taps, 0.9 ** np.arange(NOISE_TAPS), atol=1e-3)


def test_shaped_noise_has_the_level_and_the_spectrum_of_the_prediction_errors():
    noise = np.random.default_rng(1).normal(0, 1, 200_000)
    dull = np.convolve(noise, np.hanning(9) / 4, "same")
    recording = np.clip(6000 * dull, -32768, 32767).astype(np.int16)
    model = build(FrameConfig(rnn_size=2, layers=1, taps=TAPS, spacing=200, loss="gaussian"), 0, recording)
    with torch.no_grad():
        model.output.weight.zero_()  # it predicts zeros, and a deviation that is twice too large
        model.output.bias.copy_(torch.tensor([0, np.log(4)]))
    x = recording / 32768
    hiss = read(FrameStream(model), 30_000)
    frame_noise.shape_noise(model, recording)
    shaped = read(FrameStream(model), 30_000)
    assert spectrum_distance(x, hiss, 16000) > 10
    assert spectrum_distance(x, shaped, 16000) < 1
    assert np.std(shaped) == pytest.approx(np.std(x), rel=0.03)


class Inverting(FrameRNN):
    """A network that predicts -0.7 times the sound of T samples ago."""

    def forward(self, x, state):
        newest = self.step_inputs(x)[..., -1]
        return -0.7 * newest, torch.full_like(newest, 0.01), state


def test_feedback_that_makes_a_network_too_loud_is_corrected_to_the_recordings_level():
    recording = np.random.default_rng(1).normal(0, 3000, 100_000).astype(np.int16)
    model = Inverting(FrameConfig(rnn_size=1, layers=1, taps=TAPS, spacing=2000, loss="gaussian"))
    model.window.copy_(torch.from_numpy(recording[: TAPS * 2000] / np.float32(32768)))
    level = np.std(recording) / 32768
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_noise, "MAX_ROUNDS", 0)
        frame_noise.shape_noise(model, recording)
    uncorrected = np.std(read(FrameStream(model), 60_000)[20_000:]) / level
    frame_noise.shape_noise(model, recording)
    sound = read(FrameStream(model), 60_000)[20_000:]
    assert uncorrected == pytest.approx(np.sqrt(1.49 / 0.51), rel=0.05)  # its noise, fed back
    assert np.std(sound) / level == pytest.approx(1, abs=0.07)
    assert spectrum_distance(recording / 32768, sound, 16000) < 1.5


def test_a_recording_of_two_passes_is_enough_to_shape_noise():
    model = network(loss="gaussian")
    frame_noise.shape_noise(model, SAMPLES[: (TAPS + 2) * SPACING])
    assert torch.isfinite(model.noise).all()


# Resuming


@pytest.mark.parametrize(
    ("loss", "cell", "stop"),
    [
        ("mse", "lstm", 0),
        ("gaussian", "lstmp", 1),
        ("gaussian", "lstmor", SPACING),
        ("mse", "gru", 2 * SPACING + 3),
    ],
)
def test_streams_resume_from_a_file_as_if_they_had_not_been_interrupted(tmp_path, loss, cell, stop):
    model = network(loss=loss, cell=cell)
    whole = [read(FrameStream(model, seed=5, number=k), 60) for k in range(2)]
    streams = [FrameStream(model, seed=5, number=k) for k in range(2)]
    parts = [[read(stream, stop)] if stop else [] for stream in streams]
    save_streams(tmp_path / "s", streams)
    for k, stream in enumerate(load_streams(tmp_path / "s", model)):
        assert np.array_equal(np.concatenate([*parts[k], read(stream, 60 - stop)]), whole[k])


def test_streams_of_another_network_are_rejected(tmp_path):
    save_streams(tmp_path / "s", [FrameStream(network())])
    for other in (network(rnn_size=7), network(taps=4), network(cell="gru")):
        with pytest.raises(InputError, match="state of another network"):
            load_streams(tmp_path / "s", other)


def test_a_random_number_of_0_gives_finite_noise(monkeypatch):
    monkeypatch.setattr(frame_generate, "uniforms", lambda *_: np.zeros(SPACING, np.float32))
    assert np.isfinite(read(FrameStream(network(loss="gaussian")), SPACING)).all()
