"""The interface of every engine: copies of states, probabilities, and rejected arguments."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_engines import numbers, symbols, worked

import charrnn
from bytecodec.errors import InputError
from charrnn.engines import NOTHING, arrays
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu import pack as cpu_packed
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cuda.engine import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.engines.onnx import OnnxEngine
from charrnn.models.cells import CELLS
from charrnn.storage.checkpoint import save

V = 7
KINDS = ("eager", "cpu", "onnx", "cuda")


def make(kind, model, streams=1):
    """An engine of a kind in fp32; the cuda engine's plain path runs on the CPU, without graphs."""
    if kind == "eager":
        return EagerEngine(model, streams)
    if kind == "cuda":
        return CudaEngine(
            model, streams, "fp32", "torch", device="cpu", warm_up=lambda work: work(), capture=lambda work: work
        )
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        return OnnxEngine(arrays(model), model.config, streams, "fp32", threads=1)
    try:
        cpu_library.variants()
    except InputError as error:
        pytest.skip(str(error))
    return CpuEngine(arrays(model), model.config, streams, "fp32", threads=1)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, tiny_model):
    """Two streams of `tiny_model` that have begun."""
    made = make(kind, tiny_model, 2)
    made.prime(symbols(2, 3))
    return made


@pytest.mark.parametrize("size", [6, 64])  # the compiled engine pads 6 units, and keeps 64 as they are
@pytest.mark.parametrize("streams", [1, 3, 17])
@pytest.mark.parametrize("cell", CELLS)
def test_a_saved_state_stays_what_it_was_and_leads_to_the_same_symbols_again(kind, cell, streams, size, tiny_config):
    if kind == "cpu" and cell not in cpu_packed.CELLS:
        pytest.skip("the compiled engine does not run this cell")
    projection = size // 2 if cell == "lstmp" else None
    model = worked(replace(tiny_config, cell=cell, rnn_size=size, proj_size=projection))
    engine, u = make(kind, model, streams), numbers(12, streams)
    engine.run(u[:4], 1.0)
    state, last = engine.get_state()
    first = engine.run(u[4:], 1.0)
    for _ in range(2):  # the second time shows that the first one did not change the saved state
        engine.set_state(state, last)
        np.testing.assert_array_equal(engine.run(u[4:], 1.0), first)
    engine.set_state(state, last)
    for array in (last, *(array for layer in state for array in layer)):
        array.fill(0)  # the engine has to have copied them
    np.testing.assert_array_equal(engine.run(u[4:], 1.0), first)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_probabilities_are_those_of_score_and_leave_the_streams_as_they_are(kind, tiny_model, temperature):
    ids, u = symbols(2, 6), numbers(5, 2)
    engine, other = make(kind, tiny_model, 2), make(kind, tiny_model, 2)
    for each in (engine, other):
        each.prime(ids)
    found = engine.probabilities(temperature)
    rows = np.concatenate([np.repeat(ids, V, axis=0), np.tile(np.arange(V), 2)[:, None]], axis=1)
    wanted = np.exp(engine.score(rows)[:, -1].reshape(2, V) / temperature)
    assert found.shape == (2, V)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(engine.run(u, 1.0), other.run(u, 1.0))


def test_run_draws_from_the_probabilities(kind, tiny_model):
    for u in numbers(10, 1):
        engine = make(kind, tiny_model)
        engine.prime(symbols(1, 4, seed=int(1000 * u[0])))
        cumulated = engine.probabilities(0.8)[0].cumsum()
        assert engine.run(u[None], 0.8)[0, 0] == (cumulated <= u[0]).sum()


def test_at_temperature_0_the_likeliest_symbol_is_certain(engine):
    likeliest = engine.probabilities().argmax(axis=1)
    for temperature in (0, 1e-300):
        np.testing.assert_array_equal(engine.probabilities(temperature), np.eye(V)[likeliest])


def test_before_the_first_symbol_all_are_equally_likely(kind, tiny_model):
    for temperature in (0, 1.0):
        np.testing.assert_allclose(make(kind, tiny_model, 2).probabilities(temperature), np.full((2, V), 1 / V))


def test_an_empty_array_of_ids_has_no_scores(engine):
    assert engine.score(np.empty((2, 0), dtype=np.int64)).shape == (2, 0)
    assert engine.score(np.empty((0, 5), dtype=np.int64)).shape == (0, 4)
    engine.prime(np.empty((2, 0), dtype=np.uint8))


BAD_IDS = {
    "too large": [[0], [V]],
    "negative": [[0], [-1]],
    "beyond 64 bits": np.array([[0], [2**64 - 1]], dtype=np.uint64),
    "fractions": [[0.0], [1.0]],
    "truths": [[True], [False]],
    "one dimension": [0, 1],
    "three dimensions": [[[0]], [[1]]],
    "ragged": [[0], [1, 2]],
    "text": [["a"], ["b"]],
    "nothing": None,
}


@pytest.mark.parametrize("ids", BAD_IDS.values(), ids=BAD_IDS)
def test_ids_that_are_not_symbols_are_refused(engine, ids):
    for method in (engine.prime, engine.score):
        with pytest.raises(InputError, match="ids"):
            method(ids)


BAD_UNIFORMS = {
    "one": [[0.5, 1.0]],
    "negative": [[0.5, -0.1]],
    "not a number": [[0.5, np.nan]],
    "infinite": [[np.inf, 0.5]],
    "whole numbers": [[0, 0]],
    "one dimension": [0.5, 0.5],
    "nothing": None,
    "text": "uu",
}


@pytest.mark.parametrize("u", BAD_UNIFORMS.values(), ids=BAD_UNIFORMS)
def test_numbers_outside_0_to_1_are_refused(engine, u):
    with pytest.raises(InputError, match="u "):
        engine.run(u, 1.0)


@pytest.mark.parametrize("temperature", [-1, np.nan, np.inf, "1", None, True, [1.0]])
def test_an_invalid_temperature_is_refused(engine, temperature):
    with pytest.raises(InputError, match="temperature"):
        engine.run(numbers(3, 2), temperature)
    with pytest.raises(InputError, match="temperature"):
        engine.probabilities(temperature)


def test_a_number_that_float32_would_round_to_1_draws_the_last_symbol(kind, tiny_model):
    engine = make(kind, tiny_model)
    assert engine.run(np.array([[1 - 2**-50]]), 1.0).tolist() == [[V - 1]]


def test_a_state_of_another_network_is_refused(kind, engine, tiny_config):
    state, last = engine.get_state()
    wider, _ = make(kind, worked(replace(tiny_config, rnn_size=8)), 2).get_state()
    deeper, _ = make(kind, worked(replace(tiny_config, layers=3)), 2).get_state()
    broken = tuple(tuple(np.full_like(array, np.nan) for array in layer) for layer in state)
    texts = tuple(tuple(array.astype(str) for array in layer) for layer in state)
    for other in (wider, deeper, broken, texts, state[:1], (), None, "state", 5):
        with pytest.raises(InputError, match="state"):
            engine.set_state(other, last)
    for other in ([0], [0, V], [0, -2], [0.0, 1.0], [NOTHING, 0], None, 0):
        with pytest.raises(InputError):
            engine.set_state(state, other)
    np.testing.assert_array_equal(engine.get_state()[1], last)


def test_an_engine_of_wrong_arguments_is_refused(tiny_checkpoint):
    for wrong in (
        {"kind": "steam"}, {"kind": None}, {"precision": "fp8"}, {"precision": None}, {"streams": 0},
        {"streams": 1.0}, {"streams": "2"}, {"streams": True}, {"threads": -1}, {"threads": 1025}, {"threads": None},
    ):  # fmt: skip
        for kind in ("auto", "cpu", "onnx", "eager"):
            with pytest.raises(InputError):
                charrnn.engine(tiny_checkpoint, **{"kind": kind} | wrong)
    for source in (None, 5, b"run", tiny_checkpoint.model, "", "a\0b"):
        with pytest.raises(InputError):
            charrnn.engine(source)


def test_onnxruntime_runs_a_checkpoint_without_torch(tmp_path, tiny_checkpoint):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    save(tmp_path / "tiny", tiny_checkpoint)
    program = (
        "import sys, charrnn; engine = charrnn.engine(sys.argv[1], 'onnx', threads=1); "
        "engine.prime([[1, 2]]); engine.probabilities(); engine.get_state(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "tiny")], check=False).returncode == 0
