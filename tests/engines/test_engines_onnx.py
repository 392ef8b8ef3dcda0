"""onnxruntime does what the eager engine does, and steps in where the compiled one is not there."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as some_arrays

import charrnn
from bytecodec.errors import InputError
from charrnn.engines import FEW, NOTHING, arrays, eager
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.eager import EagerEngine
from charrnn.engines.onnx import OnnxEngine, choose
from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import ModelConfig, build
from charrnn.sampling.generate import uniforms

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=24, layers=2)


def numbers(t, n, seed=0):
    return np.stack([uniforms(seed, k, 0, t) for k in range(n)], axis=1)


def symbols(n, t, seed=0):
    return np.random.default_rng(seed).integers(0, 7, (n, t))


@pytest.fixture(scope="module", params=[(cell, norm) for cell in CELLS for norm in (False, True)], ids=str)
def model(request):
    cell, norm = request.param
    model = build(replace(CONFIG, cell=cell, layer_norm=norm), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return model


def engine_of(model, streams=1, precision="fp32"):
    return OnnxEngine(arrays(model), model.config, streams, precision, threads=1)


# What it computes


def test_in_fp32_its_probabilities_are_the_eager_engines(model):
    ids = symbols(3, 30)
    np.testing.assert_allclose(engine_of(model).score(ids), EagerEngine(model).score(ids), atol=1e-4)


def test_in_int8_they_are_near_and_are_not_the_same(model):
    ids = symbols(3, 100)
    difference = engine_of(model, precision="auto").score(ids) - EagerEngine(model).score(ids)
    assert 0 < np.abs(difference).max() < 0.25
    assert abs(difference.mean()) < 0.01


@pytest.mark.parametrize("temperature", [0, 1e-300, 0.7, 1.0, 3.0])
def test_the_same_numbers_draw_the_same_symbols(model, temperature):
    u = numbers(60, 3)
    np.testing.assert_array_equal(engine_of(model, 3).run(u, temperature), EagerEngine(model, 3).run(u, temperature))


@given(
    some_arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32)),
    st.lists(st.integers(0, 2**24 - 1), min_size=3, max_size=3),
    st.sampled_from([0, 1e-300, 0.1, 0.7, 1.0, 10.0]),
)
def test_choosing_is_the_eager_engines(logits, u, temperature):
    u = np.array(u) / 2**24
    own = choose(logits, u, temperature)
    there = [eager.choose(torch.from_numpy(logits), torch.from_numpy(u + e), temperature) for e in (-1e-13, 0, 1e-13)]
    assert (own == np.stack(there)).any(axis=0).all()  # right at a border the two may round apart


def test_a_trained_network_loses_less_than_five_thousandths_of_a_nat(trained, tone):
    ids = tone[:4000].astype(np.int64).reshape(2, 2000)
    exact = EagerEngine(trained.model).score(ids).mean()
    assert engine_of(trained.model, precision="int8").score(ids).mean() == pytest.approx(exact, abs=0.005)


# Streams and pieces


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_take_does_not_hang_on_other_streams(model, precision):
    u = numbers(25, 5)
    whole = engine_of(model, 5, precision).run(u, 1.0)
    np.testing.assert_array_equal(engine_of(model, 2, precision).run(u[:, :2], 1.0), whole[:2])


@pytest.mark.parametrize("cut", [0, 1, 2, 17])
def test_priming_with_what_was_said_is_having_said_it(model, cut):
    u = numbers(30, 2)
    whole = engine_of(model, 2, "int8").run(u, 1.0)
    engine = engine_of(model, 2, "int8")
    engine.prime(whole[:, : cut // 2])
    engine.prime(whole[:, cut // 2 : cut])
    np.testing.assert_array_equal(engine.run(u[cut:], 1.0), whole[:, cut:])


@pytest.mark.parametrize("cut", [0, 1, 17])
def test_a_state_goes_from_engine_to_engine_in_mid_stream(model, cut):
    u = numbers(30, 3)
    whole = EagerEngine(model, 3).run(u, 1.0)
    for first, second in itertools.product((engine_of(model, 3), EagerEngine(model, 3)), repeat=2):
        first.reset()
        head = first.run(u[:cut], 1.0)
        state, last = first.get_state()
        kept = [array.copy() for layer in state for array in layer]
        second.set_state(state, last)
        np.testing.assert_array_equal(np.concatenate([head, second.run(u[cut:], 1.0)], axis=1), whole)
        for array, copy in zip(itertools.chain(*state), kept, strict=True):
            np.testing.assert_array_equal(array, copy)  # what was taken does not move with the engine
        for layer, expected in zip(state, model.initial_state(3), strict=True):
            assert [array.shape for array in layer] == [tuple(tensor.shape) for tensor in expected]


def test_scores_take_any_number_of_rows_and_touch_no_stream(tiny_model):
    engine, other, u = engine_of(tiny_model, 2), engine_of(tiny_model, 2), numbers(20, 2)
    engine.run(u[:10], 1.0)
    other.run(u[:10], 1.0)
    assert engine.score(symbols(5, 9)).shape == (5, 8)
    assert engine.score(symbols(5, 1)).shape == (5, 0)
    np.testing.assert_array_equal(engine.run(u[10:], 1.0), other.run(u[10:], 1.0))
    engine.reset()
    assert engine.get_state()[1].tolist() == [NOTHING] * 2


# What it refuses, and when it is chosen


def test_streams_that_are_too_many_or_too_few_are_refused(tiny_model):
    engine = engine_of(tiny_model, 2)
    with pytest.raises(ValueError, match="ids of 3 streams for an engine of 2"):
        engine.prime(symbols(3, 4))
    with pytest.raises(ValueError, match="numbers of 1 streams for an engine of 2"):
        engine.run(numbers(4, 1), 1.0)
    with pytest.raises(ValueError, match="a state of 1 streams for an engine of 2"):
        engine.set_state(engine_of(tiny_model).get_state()[0], np.array([0]))


def test_a_weight_that_is_no_number_is_refused_by_its_name(tiny_model):
    weights = {name: array.copy() for name, array in arrays(tiny_model).items()}
    weights["layers.1.weight_hh_l0"][3, 2] = np.nan
    with pytest.raises(InputError, match=r"the network's layers\.1\.weight_hh_l0 has numbers that are not finite"):
        OnnxEngine(weights, tiny_model.config)


def test_a_precision_that_it_has_not_is_refused(tiny_checkpoint):
    for precision in ("bf16", "int6"):
        with pytest.raises(
            InputError, match=f"the onnx engine has no precision {precision}: it takes auto, int8, fp32"
        ):
            charrnn.engine(tiny_checkpoint, "onnx", precision=precision)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_its_packages_it_says_how_to_get_them(tiny_checkpoint, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        InputError, match=rf"{missing} is not installed.*: pip install 'charrnn-sound\[onnx\]' brings it"
    ):
        charrnn.engine(tiny_checkpoint, "onnx")


@pytest.fixture
def nothing_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv(cpu_library.ANOTHER, str(tmp_path / "none.library"))
    cpu_library.library.cache_clear()
    yield
    monkeypatch.undo()
    cpu_library.library.cache_clear()


def test_where_nothing_was_compiled_it_runs_and_how_to_get_the_fast_one_is_said(
    tiny_checkpoint, nothing_compiled, capfd
):
    assert isinstance(charrnn.engine(tiny_checkpoint), OnnxEngine)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "C compiler (gcc or clang). Sampling with onnxruntime, which is several times slower." in said


@pytest.mark.parametrize("options", [{"streams": FEW + 1}, {"precision": "fp32"}, {"precision": "bf16"}])
def test_many_streams_and_other_precisions_go_to_the_eager_engine(tiny_checkpoint, nothing_compiled, capfd, options):
    assert isinstance(charrnn.engine(tiny_checkpoint, **options), EagerEngine)
    assert "Sampling with the eager engine, which is many times slower." in capfd.readouterr().err


def test_without_onnxruntime_the_eager_engine_runs(tiny_checkpoint, nothing_compiled, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(charrnn.engine(tiny_checkpoint), EagerEngine)
    assert "Sampling with the eager engine" in capfd.readouterr().err
