"""The compiled engine does what the eager one does, in every variant that this processor can run."""

import ctypes
import itertools
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import charrnn
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab
from charrnn.engines import NOTHING, arrays
from charrnn.engines.cpu import engine as cpu_engine
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu import pack as cpu_packed
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cpu.pack import CELLS, FORMATS
from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.sampling.generate import uniforms
from charrnn.storage.checkpoint import Checkpoint

try:
    VARIANTS = list(cpu_library.variants())
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

SHAPES = {
    "small": ModelConfig(7, 5, 6, 2),
    "one layer": ModelConfig(11, 13, 37, 1, layer_norm=True),
    "wide": ModelConfig(60, 20, 70, 3, layer_norm=True),
    "one symbol": ModelConfig(1, 1, 1, 1),
}

BUILT = [shape for shape in itertools.product(SHAPES, CELLS) if shape != ("one symbol", "lstmp")]  # 1 unit, P < 1


def numbers(t, n, seed=0):
    return np.stack([uniforms(seed, k, 0, t) for k in range(n)], axis=1)


def symbols(n, t, vocab_size, seed=0):
    return np.random.default_rng(seed).integers(0, vocab_size, (n, t))


def worked(config, seed=0):
    """A network in which also what begins at zero is at work."""
    model = build(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.03)
    return model


def compiled(model, streams=1, precision="fp32", threads=1):
    return CpuEngine(arrays(model), model.config, streams, precision, threads)


@pytest.fixture(params=VARIANTS)
def variant(request, monkeypatch):
    monkeypatch.setenv(cpu_library.VARIANT, request.param)
    return request.param


@pytest.fixture(scope="module")
def models():
    return {(name, cell): worked(replace(SHAPES[name], cell=cell)) for name, cell in BUILT}


# What it computes


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", ["small", "one layer", "wide"])
def test_in_fp32_its_probabilities_are_the_eager_engines(variant, models, shape, cell):
    model = models[shape, cell]
    ids = symbols(5, 40, model.config.vocab_size)
    np.testing.assert_allclose(compiled(model).score(ids), EagerEngine(model).score(ids), atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "most"), [("bf16", 0.03), ("int7", 0.1), ("int6", 0.2), ("int5", 0.5), ("int4.5", 1.0), ("int4", 1.0)]
)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", ["small", "one layer", "wide"])
def test_fewer_bits_are_near_and_are_not_the_same(variant, models, shape, cell, precision, most):
    model = models[shape, cell]
    ids = symbols(5, 40, model.config.vocab_size)
    difference = compiled(model, 1, precision).score(ids) - EagerEngine(model).score(ids)
    assert 0 < np.abs(difference).max() < most
    assert abs(difference.mean()) < most / 10


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize(("shape", "cell"), BUILT)
def test_every_variant_says_what_the_portable_one_says(variant, monkeypatch, models, shape, cell, precision):
    model, u = models[shape, cell], numbers(60, 21)  # streams that are worked on by 16, by 4 and alone
    take = compiled(model, 21, precision).run(u, 1.0)
    monkeypatch.setenv(cpu_library.VARIANT, "portable")
    np.testing.assert_array_equal(compiled(model, 21, precision).run(u, 1.0), take)


@pytest.mark.parametrize("temperature", [0, 1e-300, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_numbers_draw_the_same_symbols(variant, models, shape, temperature):
    model, u = models[shape, "lstm"], numbers(80, 5)
    take = compiled(model, 5).run(u, temperature)
    np.testing.assert_array_equal(take, EagerEngine(model, 5).run(u, temperature))


def assert_it_is_the_eager_engine(config, seed, streams, steps, threads):
    model = worked(config, seed)
    ids, u = symbols(streams, steps, config.vocab_size, seed), numbers(steps, streams, seed)
    engine, reference = compiled(model, streams, "fp32", threads), EagerEngine(model, streams)
    few = (
        config.layer_norm and (config.proj_size or config.rnn_size) < 16
    )  # normalising multiplies rounding where units are few and alike
    np.testing.assert_allclose(engine.score(ids), reference.score(ids), atol=1e-3 if few else 2e-5)
    for each in (engine, reference):
        each.prime(ids[:, : steps // 2])
    same = engine.run(u, 1.0) == reference.run(u, 1.0)
    assert same.mean() > 0.95  # a draw may fall within rounding of a border, and what follows is another text
    coarse = compiled(model, streams, "int7", threads).score(ids)
    assert np.isfinite(coarse).all()
    assert few or abs((coarse - reference.score(ids)).mean()) < 0.05


CONFIGS = st.builds(
    lambda v, d, h, layers, cell, norm: ModelConfig(v, d, max(h, 1 + (cell == "lstmp")), layers, cell, layer_norm=norm),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 4),
    st.sampled_from(CELLS),
    st.booleans(),
)
NETWORKS = (CONFIGS, st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 12), st.integers(1, 4))


@settings(max_examples=40)
@given(*NETWORKS)
def test_networks_of_any_shape_are_the_eager_engines(config, seed, streams, steps, threads):
    assert_it_is_the_eager_engine(config, seed, streams, steps, threads)


@pytest.mark.slow
@settings(max_examples=1000)
@given(*NETWORKS)
def test_a_thousand_networks_of_any_shape_are_the_eager_engines(config, seed, streams, steps, threads):
    assert_it_is_the_eager_engine(config, seed, streams, steps, threads)


@pytest.mark.parametrize("precision", ["fp32", "int6"])
def test_embeddings_that_are_too_many_for_a_table_are_multiplied_at_each_step(monkeypatch, models, precision):
    model = models["wide", "gru"]
    ids = symbols(3, 30, 60)
    with_table = compiled(model, 1, precision).score(ids)
    monkeypatch.setattr(cpu_packed, "TABLE_BYTES", 0)
    without = compiled(model, 1, precision).score(ids)
    np.testing.assert_allclose(without, with_table, atol=1e-5 if precision == "fp32" else 0.1)
    assert (without != with_table).any()


def test_70_000_symbols_are_drawn_as_the_eager_engine_draws_them():
    model, u = worked(ModelConfig(70_000, 8, 20, 1)), numbers(20, 2)
    np.testing.assert_array_equal(compiled(model, 2).run(u, 1.0), EagerEngine(model, 2).run(u, 1.0))


@pytest.mark.parametrize("precision", ["int7", "int6"])
def test_a_trained_network_loses_less_than_the_allowed_two_thousandths_of_a_nat(trained, tone, precision):
    ids = tone[:18000].astype(np.int64).reshape(9, 2000)
    exact = EagerEngine(trained.model).score(ids).mean()
    assert compiled(trained.model, 1, precision).score(ids).mean() == pytest.approx(exact, abs=0.002)
    assert compiled(trained.model, 1, "int4").score(ids).mean() == pytest.approx(exact, abs=0.02)


FUNCTIONS = [lambda x: 1 / (1 + np.exp(-x)), np.tanh, np.exp]


@pytest.mark.parametrize("which", range(3))
def test_its_functions_are_right_to_two_ten_millionths(variant, which):
    x = np.concatenate([np.linspace(-87, 87, 16 * 4096), np.linspace(-1, 1, 16 * 1024), [0, -200, 200, *[1e-7] * 13]])
    x = x.astype(np.float32)
    y = np.empty_like(x)
    cpu_library.library().charrnn_math(cpu_library.variants()[variant], which, len(x), x.ctypes.data, y.ctypes.data)
    with np.errstate(over="ignore"):
        exact = FUNCTIONS[which](x.astype(np.float64))
    inside = np.abs(x) < 88
    allowed = 2e-7 * (exact if which == 2 else 1)
    assert (np.abs(y - exact) <= allowed)[inside].all()
    beyond = y[~inside].tolist()
    assert beyond == pytest.approx([[0, 1], [-1, 1], [0, np.exp(88)]][which], rel=1e-6)


# Streams, threads, pieces


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_take_hangs_neither_on_other_streams_nor_on_threads(variant, models, cell, precision):
    model = models["wide", cell]
    u = numbers(25, 37)
    whole = compiled(model, 37, precision, 1).run(u, 1.0)
    for streams, threads in [(1, 1), (1, 3), (3, 2), (4, 2), (5, 1), (8, 7), (16, 2), (37, 3)]:
        np.testing.assert_array_equal(
            compiled(model, streams, precision, threads).run(u[:, :streams], 1.0), whole[:streams]
        )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=10)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 6))
def test_running_in_pieces_is_running_at_once(models, cell, threads, lengths, streams):
    model = models["small", cell]
    u = numbers(sum(lengths), streams)
    whole = compiled(model, streams, "int6", threads).run(u, 1.0)
    engine, places = compiled(model, streams, "int6", threads), np.cumsum([0, *lengths])
    pieces = [engine.run(u[i:j], 1.0) for i, j in itertools.pairwise(places)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("precision", ["fp32", "int6"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("cut", [0, 1, 2, 17, 29])
def test_priming_with_what_was_said_is_having_said_it(models, cell, cut, precision):
    model, u = models["small", cell], numbers(30, 3)
    whole = compiled(model, 3, precision, 2).run(u, 1.0)
    engine = compiled(model, 3, precision, 2)
    engine.prime(whole[:, : cut // 2])
    engine.prime(whole[:, cut // 2 : cut])
    np.testing.assert_array_equal(engine.run(u[cut:], 1.0), whole[:, cut:])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("cut", [0, 1, 17])
def test_a_state_goes_from_engine_to_engine_in_mid_stream(models, cell, cut):
    model, u = models["one layer", cell], numbers(30, 3)
    whole = EagerEngine(model, 3).run(u, 1.0)
    for first, second in itertools.product((compiled(model, 3), EagerEngine(model, 3)), repeat=2):
        first.reset()
        head = first.run(u[:cut], 1.0)
        state, last = first.get_state()
        kept = [[array.copy() for array in layer] for layer in state]
        second.set_state(state, last)
        np.testing.assert_array_equal(np.concatenate([head, second.run(u[cut:], 1.0)], axis=1), whole)
        for array, copy in zip(itertools.chain(*state), itertools.chain(*kept), strict=True):
            np.testing.assert_array_equal(array, copy)  # what was taken does not move with the engine
        for layer, expected in zip(state, model.initial_state(3), strict=True):
            assert [a.shape for a in layer] == [tuple(t.shape) for t in expected]


def test_a_reset_engine_is_a_new_one(models):
    engine, u = compiled(models["small", "lstm"], 2), numbers(20, 2)
    first = engine.run(u, 1.0)
    engine.reset()
    assert engine.get_state()[1].tolist() == [NOTHING] * 2
    np.testing.assert_array_equal(engine.run(u, 1.0), first)


def test_scores_take_any_number_of_rows_and_touch_no_stream(models):
    model = models["small", "gru"]
    engine, other, u = compiled(model, 2), compiled(model, 2), numbers(20, 2)
    engine.run(u[:10], 1.0)
    other.run(u[:10], 1.0)
    ids = symbols(2 * cpu_engine.SCORE_ROWS + 3, 9, 7)
    scores = engine.score(ids)
    assert scores.shape == (len(ids), 8)
    np.testing.assert_array_equal(engine.score(ids[-2:]), scores[-2:])
    np.testing.assert_array_equal(engine.run(u[10:], 1.0), other.run(u[10:], 1.0))
    assert engine.score(ids[:, :1]).shape == (len(ids), 0)


def test_the_number_of_threads_is_the_one_that_was_faster_of_late(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cpu_engine.time, "monotonic", lambda: clock[0])
    pace = cpu_engine.ThreadAutotuner(2, 1)

    def block(seconds):
        with pace.measured(10) as threads:
            clock[0] += seconds[threads]
        return threads

    alone, disturbed = {2: 0.1, 1: 0.19}, {2: 0.5, 1: 0.2}
    assert [block(alone) for _ in range(6)] == [2, 2, 1, 1, 2, 2]
    busy = [block(disturbed) for _ in range(12)]
    assert busy.count(2) <= 4
    clock[0] += cpu_engine.RETRY
    again = [block(alone) for _ in range(40)]
    assert again[-5:] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("cores", "numbers"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (8, [8, 4, 2, 1]), (96, [8, 4, 2, 1])]
)
def test_numbers_of_threads_are_tried_down_to_one(monkeypatch, cores, numbers):
    monkeypatch.setattr(cpu_engine, "_cores", lambda: cores)
    assert cpu_engine.numbers_of_threads() == numbers


def test_more_threads_than_there_is_work_for_are_no_harm(models):
    model, u = models["small", "lstm"], numbers(30, 2)
    np.testing.assert_array_equal(compiled(model, 2, "int6", 40).run(u, 1.0), compiled(model, 2, "int6").run(u, 1.0))


# What it refuses


def test_ids_that_there_are_not_are_refused_before_the_kernel_sees_them(models):
    engine = compiled(models["small", "lstm"], 2)
    for bad in ([[7], [0]], [[-1], [0]]):
        with pytest.raises(ValueError, match="for a network of 7 symbols"):
            engine.prime(np.array(bad))
        with pytest.raises(ValueError, match="for a network of 7 symbols"):
            engine.score(np.array(bad))
    with pytest.raises(ValueError, match="for a network of 7 symbols"):
        engine.set_state(engine.get_state()[0], np.array([0, 7]))
    with pytest.raises(ValueError, match="ids of 3 streams for an engine of 2"):
        engine.prime(symbols(3, 4, 7))
    with pytest.raises(ValueError, match="numbers of 1 streams for an engine of 2"):
        engine.run(numbers(4, 1), 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused_by_its_name(tiny_model, bad):
    weights = {name: array.copy() for name, array in arrays(tiny_model).items()}
    weights["layers.1.weight_hh_l0"][3, 2] = bad
    with pytest.raises(InputError, match=r"the network's layers\.1\.weight_hh_l0 has numbers that are not finite"):
        CpuEngine(weights, tiny_model.config)


def test_a_variant_that_the_processor_cannot_run_is_refused(monkeypatch, tiny_model):
    monkeypatch.setenv(cpu_library.VARIANT, "abacus")
    with pytest.raises(InputError, match=r"CHARRNN_KERNEL is 'abacus': this processor can run .*portable"):
        compiled(tiny_model)


@pytest.fixture
def without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def test_a_cell_that_it_does_not_run_goes_to_the_eager_engine_and_that_is_said(tiny_config, without_onnxruntime, capfd):
    model = worked(replace(tiny_config, cell="lstmor"))
    checkpoint = Checkpoint(model, Vocab("abcdefg"))
    with pytest.raises(InputError, match="runs lstm, lstmp, gru, rnn, and this network is an lstmor"):
        charrnn.engine(checkpoint, "cpu")
    assert isinstance(charrnn.engine(checkpoint), EagerEngine)
    assert "this network is an lstmor. Sampling with the eager engine" in capfd.readouterr().err


def test_without_the_library_the_eager_engine_runs_and_how_to_get_the_other_is_said(
    tiny_checkpoint, without_onnxruntime, monkeypatch, capfd, tmp_path
):
    monkeypatch.setenv(cpu_library.ANOTHER, str(tmp_path / "none.library"))
    cpu_library.library.cache_clear()
    try:
        with pytest.raises(InputError, match="was not built here: install charrnn again where there is a C compiler"):
            charrnn.engine(tiny_checkpoint, "cpu")
        with pytest.raises(InputError, match="was not built here"):
            charrnn.engine(tiny_checkpoint, precision="int6")
        assert isinstance(charrnn.engine(tiny_checkpoint), EagerEngine)
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "C compiler (gcc or clang). Sampling with the eager engine" in said
    finally:
        monkeypatch.undo()
        cpu_library.library.cache_clear()


def test_the_fastest_engine_is_the_compiled_one(trained_run, capfd):
    engine = charrnn.engine(trained_run)
    assert isinstance(engine, CpuEngine)
    assert capfd.readouterr().err == ""
    assert isinstance(charrnn.engine(trained_run, "eager"), EagerEngine)
    with pytest.raises(InputError, match="the eager engine has no precision int6: it takes auto, fp32, bf16"):
        charrnn.engine(trained_run, "eager", precision="int6")
    with pytest.raises(
        InputError, match=r"there is no precision 'int8': it is auto, fp32, bf16, int4, int4.5, int5, int6, int7"
    ):
        charrnn.engine(trained_run, "cpu", precision="int8")


def test_no_memory_is_an_error_of_pythons(tiny_model):
    engine = compiled(tiny_model)
    work = cpu_library.Work(1 << 45, 1)
    assert cpu_library.library().charrnn_run(0, ctypes.byref(engine._packed.network), ctypes.byref(work), 1) == -1


def test_every_thread_is_gone_when_a_run_is_over(models):
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list a process's threads")
    engine = compiled(models["wide", "lstm"], 2, "int6", 4)
    before = len(os.listdir("/proc/self/task"))
    engine.run(numbers(50, 2), 1.0)
    assert len(os.listdir("/proc/self/task")) == before
