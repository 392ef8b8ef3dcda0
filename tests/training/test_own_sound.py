"""The network's own sound in training: when rows start from it, and what they then read."""

import numpy as np
import pytest
import torch
from compiled_kernel import kernel_variants

from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import build
from charrnn.models.config import SILENCE_ID, ModelConfig
from charrnn.models.samples import OWN_SAMPLES
from charrnn.sampling.generate import uniforms
from charrnn.training.own_sound import EVERY, FADE_SAMPLES, FIRST_STREAM, FROM_SILENCE, OwnSound

kernel_variants()

ROWS, STEPS = 3, 500
INTERVAL = EVERY // STEPS  # iterations


def network(**fields):
    config = {"context": 3, "prediction": "lpc", "noise": 1.0} | fields
    return build(ModelConfig(256, 5, 6, 2, **config), 0)


def own_sound(model, own=slice(0, ROWS), steps=STEPS):
    return OwnSound(model, own, ROWS, steps, seed=4)


def drawn(model, own=slice(0, ROWS), pieces=1):
    """Return own sound, and its state after a number of pieces."""
    sound = own_sound(model, own)
    state = sound.initial_state(own.stop - own.start)
    for k in range(1, pieces + 1):
        state = sound.draw(state, k * INTERVAL)
    return sound, state


def reference(model, pieces):
    """Return an engine that has drawn pieces without interruption, and the symbols (N, samples)."""
    engine = EagerEngine(model, ROWS)
    engine.prime(np.full((ROWS, 1), SILENCE_ID))
    u = np.stack([uniforms(4, FIRST_STREAM + row, OWN_SAMPLES, pieces * OWN_SAMPLES) for row in range(ROWS)], axis=1)
    ids = engine.run(u, 1.0)
    model.train()
    return engine, ids


def restarted(sound, state, model, iteration):
    """Return the hidden state after rows have restarted before an iteration, which was 7 everywhere."""
    hidden = model.initial_state(ROWS, training=True)
    for tensor in (tensor for layer in hidden for tensor in layer):
        tensor[:] = 7
    sound.restart_rows(state, hidden, iteration)
    return hidden


@pytest.mark.parametrize("steps", [50, 256, 3000, 9000])
def test_each_row_restarts_once_in_each_interval(steps):
    model = network()
    sound, interval = own_sound(model, steps=steps), max(2, round(EVERY / steps))
    starts = []
    for iteration in range(2 * interval, 4 * interval):
        hidden = restarted(sound, sound.initial_state(ROWS), model, iteration)
        starts += [row for row in range(ROWS) if not hidden[0][0][row].any()]
    assert starts == [0, 1, 2] * 2


def test_pieces_are_drawn_between_intervals_and_only_with_noise():
    due = [iteration for iteration in range(2 * INTERVAL + 1) if own_sound(network()).draw_is_due(iteration)]
    assert due == [INTERVAL, 2 * INTERVAL]
    silent = own_sound(network(noise=0.0))
    assert not silent.draw_is_due(INTERVAL)
    assert silent.initial_state(ROWS) == ()


def test_pieces_are_what_an_engine_draws_without_interruption():
    model = network()
    _, expected = reference(model, 2)
    pieces = [drawn(model, pieces=k)[1][-1][0].numpy() for k in (1, 2)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected - SILENCE_ID)


def test_a_row_continues_its_stream_which_it_reads_while_it_fades():
    model = network()
    sound, state = drawn(model, pieces=2)
    iteration = 2 * INTERVAL + INTERVAL // 3
    hidden = restarted(sound, state, model, iteration)
    assert all((tensor[[0, 2]] == 7).all() for layer in hidden for tensor in layer)
    engine, before = reference(model, 1)
    for layer, expected in zip(hidden[:2], engine.get_state()[0], strict=False):
        for tensor, values in zip(layer, expected, strict=True):
            np.testing.assert_allclose(tensor[1], values[1], atol=1e-4)
    samples, phase, _, own = (tensor[1].numpy() for tensor in hidden[2])
    np.testing.assert_array_equal(samples[-OWN_SAMPLES + 1 :], before[1, :-1] - SILENCE_ID)  # all but the last are read
    assert phase == OWN_SAMPLES % 32
    position, length, *read = own
    assert position == 0
    assert FADE_SAMPLES[0] <= length <= FADE_SAMPLES[1]
    np.testing.assert_array_equal(read, [before[1, -1] - SILENCE_ID, *state[-1][0][1].tolist()])


def test_some_rows_and_their_streams_start_from_silence():
    model, last = network(), (FROM_SILENCE - 2) * INTERVAL  # row 2 does in the interval that then begins
    sound, state = drawn(model, pieces=2)
    state = sound.draw(state, last)
    depth = len(state) // 2
    assert not any(tensor[2].any() for layer in state[: depth - 1] for tensor in layer)
    assert state[depth - 1][0][2] == SILENCE_ID
    assert state[0][0][0].any()
    hidden = restarted(sound, state, model, last + 2 * INTERVAL // 3)
    assert not any(tensor[2].any() for layer in hidden for tensor in layer)
    assert restarted(sound, state, model, last + INTERVAL // 3)[-1][-1][1, 1] >= FADE_SAMPLES[0]


def test_the_stream_of_a_row_is_the_same_in_every_process():
    model = network(prediction="none")
    whole, part = (drawn(model, own, pieces=2)[1][-1][0] for own in (slice(0, 3), slice(1, 3)))
    assert torch.equal(whole[1:], part)


def test_a_network_that_the_compiled_engine_cannot_run_is_trained_without_own_sound(capfd):
    sound = own_sound(network(cell="lstmor"))
    assert "own sound" in capfd.readouterr().err
    assert not sound.draw_is_due(INTERVAL)


@pytest.mark.parametrize("fields", [{"noise": 0.0}, {"cell": "lstmor"}])
def test_without_own_sound_rows_restart_only_from_the_zero_state(fields):
    model = network(**fields)
    sound = own_sound(model)
    for interval in range(2 * FROM_SILENCE):
        hidden = restarted(sound, sound.initial_state(ROWS), model, interval * INTERVAL)
        values = {float(number) for layer in hidden for tensor in layer for number in tensor[0].unique()}
        assert values == ({0.0} if interval % FROM_SILENCE == 0 else {7.0})


@pytest.mark.parametrize(("layer", "value"), [(0, np.nan), (2, 0.5), (4, 256), (5, np.inf), (-1, 128)])
def test_an_impossible_state_is_rejected(layer, value):
    sound, state = drawn(network())
    sound.check_state(state)
    state[layer][0][1, 0] = value
    with pytest.raises(ValueError, match=r"samples|symbols|finite"):
        sound.check_state(state)
