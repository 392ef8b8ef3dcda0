"""The eager engine is a function of weights, state and numbers, and its streams do not depend on each other."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_inputs import perturbed, random_symbols, uniform_numbers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charrnn.engines import eager
from charrnn.engines.eager import EagerEngine, choose_symbols
from charrnn.models import char_rnn as models
from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.sampling.generate import uniforms

V = 7


def inverse_cdf(logits, u, temperature):
    """Return symbols by inverse CDF, one stream and one symbol after another."""
    chosen = []
    for row, number in zip(np.asarray(logits, dtype=np.float64), u, strict=True):
        p = np.exp((row - row.max()) / temperature)
        totals = enumerate(itertools.accumulate(p / p.sum()))
        chosen.append(next((symbol for symbol, total in totals if total > number), len(p) - 1))
    return chosen


# Choosing


def choose(logits, u, temperature):
    """Choose symbols with the same temperature for all streams."""
    return choose_symbols(logits, u, torch.full(u.shape, temperature, dtype=torch.float64))


def test_the_symbol_is_the_first_whose_cumulated_probability_exceeds_u():
    u, symbols = zip(*[(0, 0), (0.2499, 0), (0.25, 1), (0.4999, 1), (0.5, 2), (0.75, 3), (1 - 2**-24, 3)], strict=True)
    assert choose(torch.zeros(len(u), 4), torch.tensor(u, dtype=torch.float64), 1.0).tolist() == list(symbols)


def test_a_symbol_without_probability_is_never_chosen():
    logits = torch.tensor([[-torch.inf, 0, -torch.inf, 0, -torch.inf]])
    for u, symbol in [(0.0, 1), (0.49, 1), (0.5, 3), (1 - 2**-24, 3)]:
        assert choose(logits, torch.tensor([u], dtype=torch.float64), 1.0).tolist() == [symbol]


@given(
    arrays(np.float32, (3, V), elements=st.floats(-30, 30, width=32)),
    st.lists(st.integers(0, 2**24 - 1), min_size=3, max_size=3),
    st.sampled_from([0.1, 0.7, 1.0, 1.5, 10.0]),
)
def test_choosing_is_the_inverse_cdf(logits, u, temperature):
    u = np.array(u) / 2**24
    got = choose(torch.from_numpy(logits), torch.from_numpy(u), temperature).tolist()
    # Rounding may differ exactly at a border.
    either = [inverse_cdf(logits, u + nudge, temperature) for nudge in (-1e-13, 0, 1e-13)]
    assert all(symbol in options for symbol, options in zip(got, zip(*either, strict=True), strict=True))


@given(arrays(np.float32, (3, V), elements=st.floats(-30, 30, width=32)))
def test_temperature_0_selects_the_likeliest_symbol_and_so_does_a_tiny_one(logits):
    u = torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64)
    assert choose(torch.from_numpy(logits), u, 0).tolist() == logits.argmax(axis=1).tolist()
    best = choose(torch.from_numpy(logits), u, 1e-300).tolist()
    assert [row[symbol] for row, symbol in zip(logits, best, strict=True)] == logits.max(axis=1).tolist()


def test_huge_logits_do_not_overflow():
    logits = torch.tensor([[3e38, -3e38, 3e38]])
    assert choose(logits, torch.tensor([0.75], dtype=torch.float64), 0.01).tolist() == [2]


def test_symbols_are_as_frequent_as_they_are_probable():
    logits = torch.log(torch.tensor([0.5, 0.1, 0.4])).expand(20000, 3)
    u = torch.from_numpy(uniforms(0, 0, 0, 20000).astype(np.float64))
    assert np.bincount(choose(logits, u, 1.0)) / 20000 == pytest.approx([0.5, 0.1, 0.4], abs=0.01)
    squared = np.array([0.25, 0.01, 0.16]) / 0.42
    assert np.bincount(choose(logits, u, 0.5)) / 20000 == pytest.approx(squared, abs=0.01)


# Running


def spied(monkeypatch, forced):
    """Replace the sampled symbols by forced (N, T); return the list of each step's logits."""
    seen, columns = [], iter(range(1, forced.shape[1]))

    def spy(logits, u, temperatures):
        seen.append(logits[: len(forced)].clone())
        column = torch.from_numpy(forced[:, next(columns)].copy())
        return torch.cat([column, column[-1:].expand(len(logits) - len(column))])

    monkeypatch.setattr(eager, "choose_symbols", spy)
    return seen


# Rounding differs between processors, and the recurrence amplifies it. With these weights 256 units of a plain rnn are
# chaotic: a difference almost doubles in each step.
TOLERANCES = {"rnn": 1e-3}


@pytest.mark.parametrize("size", [6, 256])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_gives_the_probabilities_of_the_whole_sequence(monkeypatch, cell, size):
    model = perturbed(ModelConfig(V, 5, size, 2, cell))
    ids = random_symbols(3, 40)
    seen = spied(monkeypatch, ids)
    engine = EagerEngine(model, 3)
    engine.prime(ids[:, :1])
    engine.run(uniform_numbers(39, 3), 1.0)
    stepped = torch.log_softmax(torch.stack(seen, dim=1).double(), dim=2).numpy()
    stepped = np.take_along_axis(stepped, ids[:, 1:, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(stepped, engine.score(ids), atol=TOLERANCES.get(cell, 5e-5))
    with torch.no_grad():
        loss, _ = model.loss(torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:]), model.initial_state(3))
    assert -engine.score(ids).mean() == pytest.approx(loss.item(), abs=1e-5)


def test_it_chooses_by_the_inverse_cdf_of_its_own_probabilities(tiny_model):
    u = uniform_numbers(30, 2)
    ids = EagerEngine(tiny_model, 2).run(u, 0.8)
    with torch.no_grad():
        logits, _ = tiny_model(torch.from_numpy(ids), tiny_model.initial_state(2))
    for t in range(29):
        assert ids[:, t + 1].tolist() == inverse_cdf(logits[:, t], u[t + 1], 0.8)


def test_the_first_symbol_of_an_unprimed_stream_is_uniform(tiny_model):
    u = np.array([[k / 70 for k in range(70)]], dtype=np.float32)
    first = EagerEngine(tiny_model, 70).run(u, 0.3)
    assert first[:, 0].tolist() == [int(np.float64(number) * V) for number in u[0]]
    assert set(first[:, 0].tolist()) == set(range(V))


def test_temperature_0_is_the_likeliest_after_the_first(tiny_model):
    ids = EagerEngine(tiny_model).run(uniform_numbers(20, 1), 0)
    with torch.no_grad():
        logits, _ = tiny_model(torch.from_numpy(ids), tiny_model.initial_state(1))
    assert ids[0, 1:].tolist() == logits[0, :-1].argmax(dim=1).tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_of_every_cell_can_be_moved_to_another_engine(tiny_config, cell):
    model, u = perturbed(replace(tiny_config, cell=cell)), uniform_numbers(30, 3)
    whole = EagerEngine(model, 3).run(u, 1.0)
    first, second = EagerEngine(model, 3), EagerEngine(model, 3)
    first.run(u[:17], 1.0)
    second.set_state(*first.get_state())
    np.testing.assert_array_equal(second.run(u[17:], 1.0), whole[:, 17:])
    first.reset()
    np.testing.assert_array_equal(first.run(u, 1.0), whole)


def test_the_state_is_carried_over_the_blocks_of_long_scores(tiny_model, monkeypatch):
    ids = random_symbols(2, 60)
    whole = EagerEngine(tiny_model).score(ids)
    for steps in (1, 7, 59, 60):
        monkeypatch.setattr(eager, "SCORE_STEPS", steps)
        np.testing.assert_allclose(EagerEngine(tiny_model).score(ids), whole, atol=1e-5)
    for symbols_at_once in (1, 2, 25):
        monkeypatch.setattr(models, "MAX_LOGITS", V * symbols_at_once)
        np.testing.assert_allclose(EagerEngine(tiny_model).score(ids), whole, atol=1e-5)


def test_the_probabilities_after_a_symbol_add_up_to_1(tiny_model):
    rows = np.stack([[3, 1, last] for last in range(V)])
    assert np.exp(EagerEngine(tiny_model).score(rows)[:, 1]).sum() == pytest.approx(1, abs=1e-6)


# Independent streams

SHAPES = {
    "small": ModelConfig(V, 5, 6, 2),
    "odd": ModelConfig(11, 13, 37, 3, layer_norm=True),
    "almost": ModelConfig(256, 32, 250, 2),
    "packed": ModelConfig(256, 32, 260, 2),  # matrices of 2**18 numbers and more are packed
    "full": ModelConfig(256),
}


BORDERS = [1, 3, 4, 5, 15, 16, 17, 63, 64, 65]  # numbers of streams near the ends of blocks
LARGE_SHAPES = ("packed", "full")


def assert_streams_are_the_same_beside_others(shape, precision, t, numbers_of_streams):
    model = build(SHAPES[shape], 0)
    most = EagerEngine(model, 70, precision)
    packs = precision == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert bool(most._blocks[0]._linear._packed) == (packs and shape in LARGE_SHAPES)
    whole, states = most.run(uniform_numbers(t, 70), 1.0), most.get_state()[0]
    for n in numbers_of_streams:
        engine = EagerEngine(model, n, precision)
        np.testing.assert_array_equal(engine.run(uniform_numbers(t, n), 1.0), whole[:n])
        for layer, other in zip(engine.get_state()[0], states, strict=True):
            for array, many in zip(layer, other, strict=True):
                np.testing.assert_array_equal(array, many[:n])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_is_the_same_to_the_last_bit_for_any_number_of_streams(shape, precision):
    t, numbers_of_streams = (3, [1, 4, 5, 17]) if shape in LARGE_SHAPES else (20, BORDERS)
    assert_streams_are_the_same_beside_others(shape, precision, t, numbers_of_streams)


@pytest.mark.parametrize(("precision", "shape"), [("fp32", "full"), ("bf16", "almost")])
def test_on_two_threads_a_stream_is_the_same_for_any_number_of_streams(shape, precision):
    torch.set_num_threads(2)  # few steps: spinning threads are slow if other processes need the cores
    assert_streams_are_the_same_beside_others(shape, precision, 2, [1, 5])


def products(monkeypatch, model, streams):
    """Return shape, strides and alignment of all inputs of matrix products in two steps, block after block."""
    seen, linear = [], eager._Linear.__call__

    def spy(self, x, weight, bias=None):
        seen.append((tuple(x.shape), x.stride(), x.data_ptr() % 64))
        return linear(self, x, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(eager._Linear, "__call__", spy)
        EagerEngine(model, streams).run(uniform_numbers(3, streams), 1.0)
    return seen


def test_a_block_is_computed_in_the_same_way_for_any_number_of_streams(monkeypatch, tiny_model):
    most = products(monkeypatch, tiny_model, 200)
    a_block = 2 * (2 * len(tiny_model.layers) + 1)
    assert [most[i][0][0] for i in range(0, len(most), a_block)] == [4, 12, 48, 64, 64, 64]
    assert {aligned for _, _, aligned in most} == {0}
    for n, blocks in [(1, 1), (4, 1), (5, 2), (16, 2), (17, 3), (64, 3), (65, 4), (128, 4), (129, 5)]:
        assert products(monkeypatch, tiny_model, n) == most[: blocks * a_block]


@given(st.integers(1, 5000))
def test_every_stream_belongs_to_one_block_for_any_number_of_streams(streams):
    shares = list(eager._shares(streams))
    assert [k for own, _ in shares for k in range(own.start, own.stop)] == list(range(streams))
    for (own, rows), (same, as_many) in zip(shares, eager._shares(5001), strict=False):
        assert (own.start, rows) == (same.start, as_many)
        assert own.stop <= own.start + rows


def test_weights_at_any_address_are_copied_to_aligned_memory():
    model = build(SHAPES["small"], 0)
    expected = EagerEngine(model, 2).run(uniform_numbers(20, 2), 1.0)
    for p in model.parameters():
        odd = torch.empty(p.numel() + 1)[1:].view_as(p)
        p.data = odd.copy_(p.data)
        assert p.data_ptr() % 64
    engine = EagerEngine(model, 2)
    assert {copy.data_ptr() % 64 for copy in engine._blocks[0]._linear._copied.values()} == {0}
    np.testing.assert_array_equal(engine.run(uniform_numbers(20, 2), 1.0), expected)


def test_some_streams_of_many_continue_alone_as_they_do_with_the_others(tiny_model):
    u = uniform_numbers(30, 21)
    most = EagerEngine(tiny_model, 21)
    most.run(u[:10], 1.0)
    state, last = most.get_state()
    few = EagerEngine(tiny_model, 6)
    few.set_state(tuple(tuple(array[:6] for array in layer) for layer in state), last[:6])
    np.testing.assert_array_equal(few.run(u[10:, :6], 1.0), most.run(u[10:], 1.0)[:6])


def test_a_stream_does_not_depend_on_the_symbols_of_other_streams(tiny_model):
    u = uniform_numbers(40, 7)  # in two blocks
    whole = EagerEngine(tiny_model, 7).run(u, 1.0)
    for k in range(7):
        changed = uniform_numbers(40, 7, seed=9)
        changed[:, k] = u[:, k]
        np.testing.assert_array_equal(EagerEngine(tiny_model, 7).run(changed, 1.0)[k], whole[k])


def test_each_stream_reads_its_own_start(tiny_model):
    ids, u = random_symbols(6, 9), uniform_numbers(20, 6)
    engine = EagerEngine(tiny_model, 6)
    engine.prime(ids)
    whole = engine.run(u, 1.0)
    for k in range(6):
        alone = EagerEngine(tiny_model)
        alone.prime(ids[k : k + 1])
        np.testing.assert_array_equal(alone.run(u[:, k : k + 1], 1.0)[0], whole[k])


@pytest.mark.parametrize("shape", ["odd", "packed"])
def test_bf16_is_near_fp32_and_not_the_same(monkeypatch, shape):
    model = build(SHAPES[shape], 0)
    ids = random_symbols(4, 30, vocab_size=SHAPES[shape].vocab_size)
    logits = []
    for precision in ("fp32", "bf16"):
        with monkeypatch.context() as patch:
            seen = spied(patch, ids)
            engine = EagerEngine(model, 4, precision)
            engine.prime(ids[:, :1])
            engine.run(uniform_numbers(29, 4), 1.0)
        logits.append(torch.stack(seen))
    difference = (logits[0] - logits[1]).abs().max().item()
    assert 0 < difference < 0.05
