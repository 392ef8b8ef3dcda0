"""The level control: factors of temperatures that keep streams at a recording's level."""

import numpy as np
import pytest
from compiled_kernel import kernel_variants
from engine_inputs import perturbed, uniform_numbers

from bytecodec.errors import InputError
from charrnn.engines import arrays
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.eager import EagerEngine
from charrnn.engines.level import MIN_LEVEL, RECORDING_BLOCK, TIME_CONSTANT, LevelControl, recording_levels
from charrnn.models.config import LEVEL_BLOCK, ModelConfig
from charrnn.storage.checkpoint_format import Streams, load_streams, save_streams

RATE = 20_000
CONFIG = ModelConfig(256, 5, 6, 2, context=3, prediction="lpc")
KINDS = {
    "eager": lambda model, streams: EagerEngine(model, streams),
    "cpu": lambda model, streams: CpuEngine(arrays(model), model.config, streams, "fp32", threads=1),
}


def noise(level, length, seed=0):
    return np.random.default_rng(seed).normal(128, level, length).clip(0, 255).round().astype(np.int64)


def factors_after(*sounds, level=10.0):
    control = LevelControl(len(sounds), level, None, RATE)
    for start in range(0, len(sounds[0]), LEVEL_BLOCK):
        control.update(np.stack(sounds)[:, start : start + LEVEL_BLOCK])
    return control.factors()


def test_the_temperature_falls_in_proportion_to_the_excess_of_the_level_in_db():
    sounds = [noise(level, 2 * RATE) for level in (10, 10 * 10**0.2, 10 * 10**-0.2, 120)]
    assert factors_after(*sounds) == pytest.approx([1, 0.88, 1, 0.8], abs=0.01)
    assert factors_after(np.full(2 * RATE, 128)) == 1  # silence
    assert factors_after(noise(10, LEVEL_BLOCK // 2), level=1.0) == 1  # a block is not full


def test_the_level_is_a_mean_over_fractions_of_a_second():
    loud, control = noise(31.6, round(TIME_CONSTANT * RATE)), LevelControl(1, 10.0, None, RATE)  # 10 dB too loud
    for start in range(0, len(loud), LEVEL_BLOCK):
        control.update(loud[None, start : start + LEVEL_BLOCK])
    assert 1 + control.state[0, 0] == pytest.approx(1 + 9 * (1 - np.exp(-1)), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_states_do_not_change_what_a_controlled_engine_samples(kind):
    if kind == "cpu":
        kernel_variants()
    model, u = perturbed(CONFIG), uniform_numbers(3 * LEVEL_BLOCK, 2)

    def controlled(make=KINDS[kind], level=0.5):
        engine = make(model, 2)
        engine.level_control = LevelControl(2, level, None, RATE)
        return engine

    whole = controlled().run(u, 1.0)
    first, second = controlled(), controlled(KINDS["eager"])
    pieces = [first.run(u[:100], 1.0), first.run(u[100:LEVEL_BLOCK], 1.0), first.run(u[LEVEL_BLOCK:300], 1.0)]
    second.set_state(*first.get_state())
    np.testing.assert_array_equal(np.concatenate([*pieces, second.run(u[300:], 1.0)], axis=1), whole)
    primed, half = controlled(), LEVEL_BLOCK + 70
    primed.prime(whole[:, :half])
    np.testing.assert_array_equal(primed.run(u[half:], 1.0), whole[:, half:])
    primed.reset()
    np.testing.assert_array_equal(primed.run(u, 1.0), whole)
    plain = KINDS[kind](model, 2).run(u, 1.0)
    np.testing.assert_array_equal(whole[:, :LEVEL_BLOCK], plain[:, :LEVEL_BLOCK])
    assert (whole != plain).any()


def test_each_stream_has_its_own_temperature_and_probabilities_have_it_too():
    engine = EagerEngine(perturbed(CONFIG), 2)
    engine.level_control = LevelControl(2, 10.0, None, RATE)
    sound = noise(20, 8 * LEVEL_BLOCK)
    engine.prime(np.stack([sound, np.where(np.arange(len(sound)) < len(sound) - 2 * LEVEL_BLOCK, 128, sound)]))
    state, last = engine.get_state()
    quiet, loud = engine.level_control.factors()[::-1]
    assert quiet > loud
    found = engine.probabilities(0.8)
    for stream, factor in enumerate((loud, quiet)):
        engine.level_control = None
        np.testing.assert_allclose(engine.probabilities(0.8 * factor)[stream], found[stream], rtol=1e-5)
    other = EagerEngine(engine._model, 1)
    other.set_state(tuple(tuple(array[1:] for array in layer) for layer in state), last[1:])
    u = uniform_numbers(100, 2)
    engine.level_control = LevelControl(2, 10.0, None, RATE)
    engine.set_state(state, last)
    np.testing.assert_array_equal(engine.run(u, 0.8)[1:], other.run(u[:, 1:], 0.8 * quiet))


@pytest.mark.parametrize(("part", "value"), [(0, -1.5), (0, np.nan), (1, 0.5), (1, 1e9), (2, LEVEL_BLOCK), (2, -1)])
def test_an_impossible_level_in_a_state_is_rejected(tmp_path, part, value):
    engine = EagerEngine(perturbed(CONFIG), 2)
    state, last = engine.get_state()
    state[-1][0][1, part] = value
    with pytest.raises(InputError, match=r"level|finite"):
        engine.set_state(state, last)
    save_streams(tmp_path / "state", Streams(state, last, 0, 0))
    with pytest.raises(InputError, match=r"level|finite"):
        load_streams(tmp_path / "state", CONFIG)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_too_loud_fades_out_and_restarts_from_silence(kind):
    if kind == "cpu":
        kernel_variants()
    model, u = perturbed(CONFIG), uniform_numbers(LEVEL_BLOCK + 60, 2)
    loud = np.stack([noise(40, 4 * LEVEL_BLOCK), np.full(4 * LEVEL_BLOCK, 128)])

    def primed(loudest):
        engine = KINDS[kind](model, 2)
        engine.level_control = LevelControl(2, 8.0, loudest, RATE)
        engine.prime(loud)
        return engine

    whole, plain = primed(10.0).run(u, 1.0), primed(None).run(u, 1.0)
    np.testing.assert_array_equal(whole[1], plain[1])  # the other stream
    gain = 1 - np.arange(1, LEVEL_BLOCK + 1) / LEVEL_BLOCK
    np.testing.assert_array_equal(whole[0, :LEVEL_BLOCK], 128 + np.rint((plain[0, :LEVEL_BLOCK] - 128) * gain))
    fresh = KINDS[kind](model, 2)
    fresh.prime(np.full((2, 1), 128))
    fresh.level_control = LevelControl(2, 8.0, 10.0, RATE)
    np.testing.assert_array_equal(whole[0, LEVEL_BLOCK:], fresh.run(u[LEVEL_BLOCK:], 1.0)[0])
    pieces = primed(10.0)
    np.testing.assert_array_equal(
        np.concatenate([pieces.run(part, 1.0) for part in np.split(u, [70, 300])], axis=1), whole
    )


def test_the_levels_of_a_recording_are_root_mean_squares_about_silence():
    sound = noise(20, 100_000).astype(np.uint8)
    level = pytest.approx(np.sqrt(np.mean((sound - 128.0) ** 2)))
    assert recording_levels(sound) == (level, pytest.approx(20, rel=0.05))
    assert recording_levels(np.full(100, 128, dtype=np.uint8)) == (MIN_LEVEL, MIN_LEVEL)
    long = np.tile(sound, 400)
    assert recording_levels(long) == pytest.approx(recording_levels(sound), rel=0.02)


def test_the_loudest_block_is_not_a_short_one_at_the_end():
    sound = np.full(10 * RECORDING_BLOCK + 9, 128, dtype=np.uint8)
    sound[5 * RECORDING_BLOCK :] = 138
    sound[-9:] = 255
    assert recording_levels(sound)[1] == 10
