"""The network's own sound in training: when rows begin from it, and what they then read."""

from collections import Counter

import numpy as np
import pytest
import torch

from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import build
from charrnn.models.config import MIDDLE, ModelConfig
from charrnn.models.samples import OWN_SAMPLES
from charrnn.sampling.generate import uniforms
from charrnn.training.own_sound import EVERY, FADE_SAMPLES, FROM_SILENCE, OwnSound, rows_to_begin

ROWS = slice(0, 3)


def network(**fields):
    config = {"context": 3, "prediction": "lpc", "noise": 1.0} | fields
    return build(ModelConfig(256, 5, 6, 2, **config), 0)


def drawn(model, rows=ROWS, pieces=1):
    """Return own sound and its state after a number of pieces, at the position of the last one."""
    sound = OwnSound(model, rows, seed=4)
    state = sound.initial_state(rows.stop - rows.start)
    for k in range(1, pieces + 1):
        state = sound.draw(state, k * EVERY)
    return sound, state


@pytest.mark.parametrize(("rows", "steps"), [(3, 50), (50, 100), (100, 50), (7, EVERY), (300, 256)])
def test_each_row_begins_once_in_each_interval(rows, steps):
    positions = range(0, 10 * EVERY, steps)
    begun = [Counter(row for p in positions if p // EVERY == k for row in rows_to_begin(p, steps, rows)) for k in (3, 7)]
    assert all(set(counts) == set(range(rows)) and set(counts.values()) == {1} for counts in begun)
    assert 0 in rows_to_begin(5 * EVERY, steps, rows)


def test_pieces_are_what_an_engine_draws_without_interruption():
    model = network()
    engine = EagerEngine(model, 3)
    engine.prime(np.full((3, 1), MIDDLE))
    u = np.stack([uniforms(4, row, OWN_SAMPLES, 2 * OWN_SAMPLES) for row in range(3)], axis=1)
    expected = engine.run(u, 1.0) - MIDDLE
    model.train()
    for k in (1, 2):
        _, state = drawn(model, pieces=k)
        np.testing.assert_array_equal(state[-1][0].numpy(), expected[:, (k - 1) * OWN_SAMPLES : k * OWN_SAMPLES])


def test_a_row_continues_its_stream_which_fades_into_the_recording():
    model = network()
    sound, state = drawn(model, pieces=2)
    hidden = model.initial_state(3, training=True)
    sound.begin(state, hidden, 1, 2 * EVERY)
    assert not any(tensor[0].any() or tensor[2].any() for layer in hidden for tensor in layer)
    engine = EagerEngine(model, 3)
    u = np.stack([uniforms(4, row, OWN_SAMPLES, OWN_SAMPLES) for row in range(3)], axis=1)
    engine.prime(np.full((3, 1), MIDDLE))
    before = engine.run(u, 1.0)[1]
    for layer, expected in zip(hidden[:2], engine.get_state()[0], strict=False):
        for tensor, values in zip(layer, expected, strict=True):
            np.testing.assert_allclose(tensor[1], values[1], atol=1e-4)
    samples, phase, _, own = (tensor[1].numpy() for tensor in hidden[2])
    np.testing.assert_array_equal(samples[-OWN_SAMPLES + 1 :], before[:-1] - MIDDLE)  # all but the last are read
    assert phase == OWN_SAMPLES % 32
    position, length, *read = own
    assert position == 0
    assert FADE_SAMPLES[0] <= length <= FADE_SAMPLES[1]
    np.testing.assert_array_equal(read, [before[-1] - MIDDLE, *state[-1][0][1].tolist()])


def test_some_rows_and_their_streams_begin_from_silence():
    model, row = network(), FROM_SILENCE - 1  # at the first piece
    sound, state = drawn(model, slice(row, row + 2))
    hidden = model.initial_state(2, training=True)
    for tensor in (tensor for layer in hidden for tensor in layer):
        tensor[:] = 7
    sound.begin(state, hidden, row, EVERY)
    assert not any(tensor[0].any() for layer in hidden for tensor in layer)
    assert (hidden[-1][-1][1] == 7).all()
    again = sound.draw(state, FROM_SILENCE * EVERY + EVERY)  # another position at which this row begins from silence
    depth = len(again) // 2
    assert not any(tensor[0].any() for layer in again[: depth - 1] for tensor in layer)
    assert again[depth - 1][0][0] == MIDDLE
    assert any(tensor[1].any() for layer in again[: depth - 1] for tensor in layer)


def test_the_streams_of_a_row_are_the_same_in_every_process():
    model = network(prediction="none")
    whole, part = (drawn(model, rows, pieces=2)[1][-1][0] for rows in (slice(0, 3), slice(1, 3)))
    assert torch.equal(whole[1:], part)


@pytest.mark.parametrize("cell", ["lstmor", "lstm"])
def test_without_the_compiled_engine_the_reference_draws(cell, monkeypatch, tmp_path, capfd):
    model = network(cell=cell)
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, str(tmp_path / "missing"))
    cpu_library.library.cache_clear()
    try:
        pieces = drawn(model)[1][-1][0]
    finally:
        cpu_library.library.cache_clear()
    assert pieces.shape == (3, OWN_SAMPLES)
    assert len({*pieces[0].tolist()}) > 10
    assert capfd.readouterr().err.count("numpy") == 1
    assert model.training


def test_own_sound_is_drawn_only_with_noise_and_not_at_once():
    assert OwnSound(network(), ROWS, 0).draws(EVERY)
    assert not OwnSound(network(), ROWS, 0).draws(EVERY - 1)
    assert not OwnSound(network(noise=0.0), ROWS, 0).draws(EVERY)
