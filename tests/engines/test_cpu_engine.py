"""The compiled engine computes what the eager one does, in every variant that this processor can run."""

import ctypes
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from compiled_kernel import kernel_variants
from engine_inputs import perturbed, random_symbols, uniform_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from pairwise import pairwise

import charrnn
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab
from charrnn.engines import arrays
from charrnn.engines.cpu import autotune, pack
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cpu.pack import FORMATS, KERNEL_CELLS
from charrnn.engines.eager import EagerEngine
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint import Checkpoint

VARIANTS = kernel_variants()

SHAPES = {
    "small": ModelConfig(7, 5, 6, 2),
    "one layer": ModelConfig(11, 13, 37, 1, layer_norm=True),
    "wide": ModelConfig(60, 20, 70, 3, layer_norm=True),
    "one symbol": ModelConfig(1, 1, 1, 1),
    "context": ModelConfig(256, 5, 6, 2, context=7),
    "prediction": ModelConfig(256, 5, 6, 2, context=3, prediction="lpc", layer_norm=True),
}
STREAMS_AND_THREADS = ((1, 3), (4, 2), (5, 1), (21, 2), (37, 7))  # streams are computed by 16, by 4 and alone
MAX_STREAMS = 37
TOLERANCES = {"fp32": 1e-5, "bf16": 0.03, "int7": 0.1, "int6": 0.2, "int5": 0.5, "int4.5": 1.0, "int4": 1.0}


def exists(shape, cell):
    """An LSTMP has more than one unit."""
    return (shape, cell) != ("one symbol", "lstmp")


@pytest.fixture(scope="module")
def models():
    return {
        (name, cell): perturbed(replace(SHAPES[name], cell=cell), amount=0.03)
        for name, cell in itertools.product(SHAPES, KERNEL_CELLS)
        if exists(name, cell)
    }


def compiled(model, streams=1, precision="fp32", threads=1):
    return CpuEngine(arrays(model), model.config, streams, precision, threads)


# What it computes


def assert_equal_to_the_portable_variant(combinations, model, precision, monkeypatch):
    """Compare combinations (variant, (streams, threads)) with the portable variant on one thread."""
    u = uniform_numbers(60, MAX_STREAMS)
    monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, "portable")
    reference = compiled(model, MAX_STREAMS, precision).run(u, 1.0)
    for variant, (streams, threads) in combinations:
        monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
        found = compiled(model, streams, precision, threads).run(u[:, :streams], 1.0)
        np.testing.assert_array_equal(found, reference[:streams], err_msg=f"{variant} {streams} {threads}")


@pytest.mark.parametrize(("shape", "cell"), [pair for pair in itertools.product(SHAPES, KERNEL_CELLS) if exists(*pair)])
def test_in_every_precision_and_variant_its_scores_are_near_the_eager_engines(monkeypatch, models, shape, cell):
    model = models[shape, cell]
    ids = random_symbols(5, 40, model.config.vocab_size)
    reference = EagerEngine(model).score(ids)
    for (precision, most), variant in itertools.product(TOLERANCES.items(), VARIANTS):
        monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
        difference = (compiled(model, 1, precision).score(ids) - reference) / np.maximum(1, np.abs(reference))
        assert np.abs(difference).max() < most, (precision, variant)
        assert abs(difference.mean()) < most / 10, (precision, variant)
        if precision != "fp32" and model.config.vocab_size > 1:
            assert difference.any(), (precision, variant)


@pytest.mark.parametrize(
    ("variant", "shape", "cell", "precision", "others"),
    pairwise(
        VARIANTS,
        SHAPES,
        KERNEL_CELLS,
        FORMATS,
        STREAMS_AND_THREADS,
        allowed=lambda _, shape, cell, *__: exists(shape, cell),
    ),
)
def test_symbols_depend_neither_on_variant_nor_on_streams_nor_on_threads(
    monkeypatch, models, variant, shape, cell, precision, others
):
    assert_equal_to_the_portable_variant([(variant, others)], models[shape, cell], precision, monkeypatch)


@pytest.mark.slow
def test_all_combinations_of_variant_shape_cell_precision_streams_and_threads(monkeypatch, models):
    combinations = list(itertools.product(VARIANTS, STREAMS_AND_THREADS))
    for model, precision in itertools.product(models.values(), FORMATS):
        assert_equal_to_the_portable_variant(combinations, model, precision, monkeypatch)


@pytest.mark.parametrize("temperature", [0, 1e-300, 0.7, 1.0, 3.0])
def test_in_fp32_the_same_numbers_lead_to_the_eager_engines_symbols(monkeypatch, models, temperature):
    u = uniform_numbers(80, 5)
    for (shape, cell), model in models.items():
        reference = EagerEngine(model, 5).run(u, temperature)
        for variant in VARIANTS if cell == "lstm" else VARIANTS[:1]:
            monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
            found = compiled(model, 5).run(u, temperature)
            np.testing.assert_array_equal(found, reference, err_msg=f"{shape} {cell} {variant}")


def assert_it_is_the_eager_engine(config, seed, streams, steps, threads):
    model = perturbed(config, seed, amount=0.03)
    ids, u = random_symbols(streams, steps, config.vocab_size, seed), uniform_numbers(steps, streams, seed)
    engine, reference = compiled(model, streams, "fp32", threads), EagerEngine(model, streams)
    # Normalisation of few units that are nearly equal amplifies rounding.
    sensitive = config.layer_norm and (config.proj_size or config.rnn_size) < 16
    np.testing.assert_allclose(engine.score(ids), reference.score(ids), atol=1e-3 if sensitive else 2e-5)
    for each in (engine, reference):
        each.prime(ids[:, : steps // 2])
    same = engine.run(u, 1.0) == reference.run(u, 1.0)
    assert same.mean() > 0.95  # rounding may change a symbol at a border, and all that follow it
    coarse = compiled(model, streams, "int7", threads).score(ids)
    assert np.isfinite(coarse).all()
    assert sensitive or abs((coarse - reference.score(ids)).mean()) < 0.05


CONFIGS = st.builds(
    lambda v, d, h, layers, cell, norm: ModelConfig(v, d, max(h, 1 + (cell == "lstmp")), layers, cell, layer_norm=norm),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 4),
    st.sampled_from(KERNEL_CELLS),
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
    ids = random_symbols(3, 30, 60)
    with_table = compiled(model, 1, precision).score(ids)
    monkeypatch.setattr(pack, "TABLE_BYTES", 0)
    without = compiled(model, 1, precision).score(ids)
    np.testing.assert_allclose(without, with_table, atol=1e-5 if precision == "fp32" else 0.1)
    assert (without != with_table).any()


def test_70_000_symbols_are_sampled_as_the_eager_engine_samples_them():
    model, u = perturbed(ModelConfig(70_000, 8, 20, 1), amount=0.03), uniform_numbers(20, 2)
    np.testing.assert_array_equal(compiled(model, 2).run(u, 1.0), EagerEngine(model, 2).run(u, 1.0))


def test_a_trained_network_loses_at_most_two_thousandths_of_a_nat_in_int6_and_twenty_in_int4(trained, tone):
    ids = tone[:18000].astype(np.int64).reshape(9, 2000)
    reference = EagerEngine(trained.model).score(ids).mean()
    for precision, most in (("int7", 0.002), ("int6", 0.002), ("int4", 0.02)):
        assert compiled(trained.model, 1, precision).score(ids).mean() == pytest.approx(reference, abs=most)


@pytest.mark.parametrize("which", range(3), ids=["sigmoid", "tanh", "exp"])
def test_its_functions_have_an_error_of_at_most_two_ten_millionths(which):
    x = np.concatenate([np.linspace(-87, 87, 16 * 4096), np.linspace(-1, 1, 16 * 1024), [0, -200, 200, *[1e-7] * 13]])
    x = x.astype(np.float32)
    function = [lambda x: 1 / (1 + np.exp(-x)), np.tanh, np.exp][which]
    with np.errstate(over="ignore"):
        exact = function(x.astype(np.float64))
    inside = np.abs(x) < 88
    allowed = 2e-7 * (exact if which == 2 else 1)
    for number in cpu_library.variants().values():
        y = np.empty_like(x)
        cpu_library.library().charrnn_math(number, which, len(x), x.ctypes.data, y.ctypes.data)
        assert (np.abs(y - exact) <= allowed)[inside].all()
        limits = y[~inside].tolist()
        assert limits == pytest.approx([[0, 1], [-1, 1], [0, np.exp(88)]][which], rel=1e-6)


# Pieces, threads and memory


@settings(max_examples=30)
@given(
    st.sampled_from(KERNEL_CELLS),
    st.integers(1, 2),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 6),
)
def test_in_int6_running_in_pieces_is_running_at_once(models, cell, threads, lengths, streams):
    model = models["small", cell]
    u = uniform_numbers(sum(lengths), streams)
    whole = compiled(model, streams, "int6", threads).run(u, 1.0)
    engine, borders = compiled(model, streams, "int6", threads), np.cumsum([0, *lengths])
    pieces = [engine.run(u[i:j], 1.0) for i, j in itertools.pairwise(borders)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_in_int6_priming_with_sampled_symbols_leads_to_the_same_symbols(models, cell):
    model, u = models["small", cell], uniform_numbers(30, 3)
    whole = compiled(model, 3, "int6", 2).run(u, 1.0)
    for cut in (1, 2, 17):
        engine = compiled(model, 3, "int6", 2)
        engine.prime(whole[:, : cut // 2])
        engine.prime(whole[:, cut // 2 : cut])
        np.testing.assert_array_equal(engine.run(u[cut:], 1.0), whole[:, cut:])


def test_the_number_of_threads_is_the_one_that_was_faster_recently(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(autotune.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(autotune, "_cores", lambda: 2)
    autotuner = autotune.ThreadAutotuner(0)

    def block(seconds):
        with autotuner.measure(10) as threads:
            clock[0] += seconds[threads]
        return threads

    alone, disturbed = {2: 0.1, 1: 0.19}, {2: 0.5, 1: 0.2}
    assert [block(alone) for _ in range(6)] == [2, 2, 1, 1, 2, 2]
    busy = [block(disturbed) for _ in range(12)]
    assert busy.count(2) <= 4
    clock[0] += autotune.RETRY
    again = [block(alone) for _ in range(40)]
    assert again[-5:] == [2, 2, 2, 2, 2]
    long = [block({2: 36, 1: 6}) for _ in range(40)]  # longer than `RETRY`
    assert long.count(2) <= 4


def test_numbers_of_threads_are_halved_down_to_one(monkeypatch):
    for cores, numbers in ((1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (8, [8, 4, 2, 1]), (96, [8, 4, 2, 1])):
        monkeypatch.setattr(autotune, "_cores", lambda cores=cores: cores)
        assert autotune.candidates() == numbers


def test_more_threads_than_tiles_change_nothing(models):
    model, u = models["small", "lstm"], uniform_numbers(30, 2)
    np.testing.assert_array_equal(compiled(model, 2, "int6", 40).run(u, 1.0), compiled(model, 2, "int6").run(u, 1.0))


def test_a_lack_of_memory_is_reported(tiny_model):
    network = compiled(tiny_model).packed.network
    with pytest.raises(MemoryError):
        cpu_library.run(0, network, cpu_library.Work(1 << 45, 1), 1)
    assert cpu_library.library().charrnn_run(0, ctypes.byref(network), ctypes.byref(cpu_library.Work(1 << 45, 1)), 3)


def test_every_thread_ends_with_the_run(models):
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list a process's threads")
    engine = compiled(models["wide", "lstm"], 2, "int6", 4)
    before = len(os.listdir("/proc/self/task"))
    engine.run(uniform_numbers(50, 2), 1.0)
    assert len(os.listdir("/proc/self/task")) == before


# The choice of an engine


def test_a_variant_that_the_processor_cannot_run_is_rejected(monkeypatch, tiny_model):
    monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, "abacus")
    with pytest.raises(InputError, match=r"'abacus'.*portable"):
        compiled(tiny_model)


def test_a_network_with_another_cell_is_run_by_the_eager_engine(tiny_config, capfd):
    checkpoint = Checkpoint(perturbed(replace(tiny_config, cell="lstmor")), Vocab("abcdefg"))
    with pytest.raises(InputError, match="lstmor"):
        charrnn.engine(checkpoint, "cpu")
    assert isinstance(charrnn.engine(checkpoint, precision="fp32"), EagerEngine)
    logged = capfd.readouterr().err
    assert "lstmor" in logged
    assert "eager" in logged


def test_the_fastest_engine_is_the_compiled_one(trained_run, capfd):
    assert isinstance(charrnn.engine(trained_run), CpuEngine)
    assert capfd.readouterr().err == ""


def test_a_precision_that_an_engine_does_not_have_is_rejected_with_those_that_it_has(trained_run):
    for kind, precision, expected in (("eager", "int6", "auto, fp32, bf16"), ("cpu", "int8", ", ".join(FORMATS))):
        with pytest.raises(InputError, match=f"{precision}.*{expected}"):
            charrnn.engine(trained_run, kind, precision=precision)
