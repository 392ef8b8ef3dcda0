"""Every engine has the same interface: states, pieces, scores, probabilities, and rejected arguments."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from compiled_kernel import kernel_variants
from engine_inputs import perturbed, random_symbols, uniform_numbers
from pairwise import pairwise

import charrnn
from bytecodec.errors import InputError
from charrnn.engines import NO_SYMBOL, arrays
from charrnn.engines.cpu.engine import SCORE_ROWS, CpuEngine
from charrnn.engines.cpu.pack import KERNEL_CELLS
from charrnn.engines.cuda.engine import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.engines.onnx import OnnxEngine
from charrnn.models.cells import CELLS
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint import save

V = 7
KINDS = ("eager", "cpu", "onnx", "cuda")


def make(kind, model, streams=1):
    """Return an engine in fp32; the cuda engine runs torch's operations on the CPU, without graphs."""
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
    kernel_variants()
    return CpuEngine(arrays(model), model.config, streams, "fp32", threads=1)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, tiny_model):
    """Two streams of `tiny_model` that have begun."""
    made = make(kind, tiny_model, 2)
    made.prime(random_symbols(2, 3))
    return made


# States and pieces

# The compiled engine pads 6 units and does not pad 64. Blocks of streams of the eager engine end at 4 and 16.
NETWORKS = pairwise(
    KINDS,
    CELLS,
    (1, 3, 17),
    (6, 64),
    allowed=lambda kind, cell, *_: kind != "cpu" or cell in KERNEL_CELLS,
)


@pytest.mark.parametrize(("kind", "cell", "streams", "size"), NETWORKS)
def test_a_saved_state_does_not_change_and_leads_to_the_same_symbols_again(kind, cell, streams, size, tiny_config):
    model = perturbed(replace(tiny_config, cell=cell, rnn_size=size, proj_size=size // 2 if cell == "lstmp" else None))
    engine, u = make(kind, model, streams), uniform_numbers(12, streams)
    engine.run(u[:4], 1.0)
    state, last = engine.get_state()
    for layer, expected in zip(state, model.initial_state(streams), strict=True):
        assert [array.shape for array in layer] == [tuple(tensor.shape) for tensor in expected]
    first = engine.run(u[4:], 1.0)
    for _ in range(2):  # the second time shows that the first one did not change the saved state
        engine.set_state(state, last)
        np.testing.assert_array_equal(engine.run(u[4:], 1.0), first)
    engine.set_state(state, last)
    for array in (last, *(array for layer in state for array in layer)):
        array.fill(0)  # the engine has to have copied them
    np.testing.assert_array_equal(engine.run(u[4:], 1.0), first)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_state_can_be_moved_to_the_eager_engine_and_back(kind, tiny_config):
    u = uniform_numbers(30, 3)
    for cell in KERNEL_CELLS if kind == "cpu" else CELLS:
        model = perturbed(replace(tiny_config, cell=cell))
        whole, eager, other = EagerEngine(model, 3).run(u, 1.0), EagerEngine(model, 3), make(kind, model, 3)
        pieces = [eager.run(u[:1], 1.0)]
        other.set_state(*eager.get_state())
        pieces.append(other.run(u[1:18], 1.0))
        eager.set_state(*other.get_state())
        pieces.append(eager.run(u[18:], 1.0))
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_a_state_before_the_first_symbol_can_be_moved(kind, tiny_model):
    engine, u = make(kind, tiny_model, 2), uniform_numbers(9, 2)
    state = engine.get_state()
    first = engine.run(u, 1.0)
    engine.set_state(*state)
    np.testing.assert_array_equal(engine.run(u, 1.0), first)


def test_running_in_pieces_is_running_at_once(kind, tiny_model):
    for lengths in ((1, 1, 1), (5, 3, 2), (2, 0, 6)):
        u = uniform_numbers(sum(lengths), 2)
        engine, borders = make(kind, tiny_model, 2), np.cumsum([0, *lengths])
        pieces = [engine.run(u[i:j], 1.0) for i, j in itertools.pairwise(borders)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), make(kind, tiny_model, 2).run(u, 1.0))


def test_priming_with_sampled_symbols_leads_to_the_same_symbols(kind, tiny_model):
    u = uniform_numbers(30, 3)
    whole = make(kind, tiny_model, 3).run(u, 1.0)
    for cut in (0, 1, 2, 17, 29):
        engine = make(kind, tiny_model, 3)
        engine.prime(whole[:, : cut // 2])
        engine.prime(whole[:, cut // 2 : cut])
        np.testing.assert_array_equal(engine.run(u[cut:], 1.0), whole[:, cut:])


def test_a_reset_engine_samples_what_a_new_one_does(kind, tiny_model):
    engine, u = make(kind, tiny_model, 2), uniform_numbers(20, 2)
    first = engine.run(u, 1.0)
    engine.reset()
    assert engine.get_state()[1].tolist() == [NO_SYMBOL] * 2
    assert not any(array.any() for layer in engine.get_state()[0] for array in layer)
    np.testing.assert_array_equal(engine.run(u, 1.0), first)


@pytest.mark.parametrize("kind", ["cpu", "eager"])
def test_the_first_samples_of_a_network_that_reads_them_are_around_silence(kind):
    model = perturbed(ModelConfig(256, 5, 6, 2, context=3, prediction="lpc"))
    engine, u = make(kind, model, 200), uniform_numbers(1, 200)
    (first,) = engine.run(u, 1.0).T
    assert np.abs(np.median(first) - 128) < 4
    assert 5 < np.std(first - 128.0) < 25
    assert (np.diff(first[np.argsort(u[0])]) >= 0).all()  # by inverse CDF
    engine.reset()
    probabilities = engine.probabilities()[0]
    np.testing.assert_allclose(probabilities, np.roll(probabilities[::-1], 1), rtol=1e-5)
    assert probabilities.argmax() == 128


def test_temperatures_are_multiplied_by_the_calibration(kind, tiny_model):
    plain, calibrated, u = make(kind, tiny_model, 2), make(kind, tiny_model, 2), uniform_numbers(40, 2)
    calibrated.calibration = 0.5
    np.testing.assert_array_equal(calibrated.run(u, 1.6), plain.run(u, 0.8))
    np.testing.assert_array_equal(calibrated.probabilities(1.6), plain.probabilities(0.8))
    assert (plain.run(u, 0.8) != calibrated.run(u, 0.8)).any()


def test_no_steps_return_no_symbols_and_change_nothing(kind, tiny_model):
    engine = make(kind, tiny_model, 2)
    assert engine.run(np.empty((0, 2), dtype=np.float32), 1.0).shape == (2, 0)
    engine.prime(np.empty((2, 0), dtype=np.uint8))
    assert engine.get_state()[1].tolist() == [NO_SYMBOL] * 2


# Scores and probabilities


def test_scores_of_any_number_of_rows_do_not_change_the_streams(kind, tiny_model):
    engine, other, u = make(kind, tiny_model, 2), make(kind, tiny_model, 2), uniform_numbers(20, 2)
    engine.run(u[:10], 1.0)
    other.run(u[:10], 1.0)
    ids = random_symbols(2 * SCORE_ROWS + 3, 9)
    scores = engine.score(ids)
    assert scores.shape == (len(ids), 8)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(engine.score(ids[-2:]), scores[-2:], atol=1e-5)
    np.testing.assert_allclose(scores, EagerEngine(tiny_model).score(ids), atol=1e-4)
    np.testing.assert_array_equal(engine.run(u[10:], 1.0), other.run(u[10:], 1.0))
    assert engine.score(ids[:, :1]).shape == (len(ids), 0)
    assert engine.score(np.empty((0, 5), dtype=np.int64)).shape == (0, 4)
    assert engine.score(np.empty((2, 0), dtype=np.int64)).shape == (2, 0)


def test_probabilities_agree_with_scores_and_do_not_change_the_streams(kind, tiny_model):
    ids, u = random_symbols(2, 6), uniform_numbers(5, 2)
    engine, other = make(kind, tiny_model, 2), make(kind, tiny_model, 2)
    for each in (engine, other):
        each.prime(ids)
    rows = np.concatenate([np.repeat(ids, V, axis=0), np.tile(np.arange(V), 2)[:, None]], axis=1)
    for temperature in (0.5, 1.0, 2.0):
        found = engine.probabilities(temperature)
        expected = np.exp(engine.score(rows)[:, -1].reshape(2, V) / temperature)
        assert found.shape == (2, V)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(engine.run(u, 1.0), other.run(u, 1.0))


def test_run_samples_from_the_probabilities(kind, tiny_model):
    for u in uniform_numbers(10, 1):
        engine = make(kind, tiny_model)
        engine.prime(random_symbols(1, 4, seed=int(1000 * u[0])))
        cumulated = engine.probabilities(0.8)[0].cumsum()
        assert engine.run(u[None], 0.8)[0, 0] == (cumulated <= u[0]).sum()


def test_at_temperature_0_the_likeliest_symbol_is_certain(engine):
    likeliest = engine.probabilities().argmax(axis=1)
    for temperature in (0, 1e-300):
        np.testing.assert_array_equal(engine.probabilities(temperature), np.eye(V)[likeliest])


def test_before_the_first_symbol_all_are_equally_likely(kind, tiny_model):
    for temperature in (0, 1.0):
        np.testing.assert_allclose(make(kind, tiny_model, 2).probabilities(temperature), np.full((2, V), 1 / V))


# Rejected arguments

BAD_IDS = {
    "too large": [[0], [V]],
    "negative": [[0], [-1]],
    "beyond 64 bits": np.array([[0], [2**64 - 1]], dtype=np.uint64),
    "fractions": [[0.0], [1.0]],
    "booleans": [[True], [False]],
    "one dimension": [0, 1],
    "three dimensions": [[[0]], [[1]]],
    "ragged": [[0], [1, 2]],
    "text": [["a"], ["b"]],
    "nothing": None,
}
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


def test_ids_that_are_not_symbols_are_rejected(engine):
    for name, ids in BAD_IDS.items():
        for method in (engine.prime, engine.score):
            with pytest.raises(InputError, match="ids"):
                pytest.fail(f"accepted: {name} -> {method(ids)}")


def test_numbers_outside_0_to_1_are_rejected(engine):
    for name, u in BAD_UNIFORMS.items():
        with pytest.raises(InputError, match="u "):
            pytest.fail(f"accepted: {name} -> {engine.run(u, 1.0)}")


def test_an_invalid_temperature_is_rejected(engine):
    for temperature in (-1, np.nan, np.inf, "1", None, True, [1.0]):
        with pytest.raises(InputError, match="temperature"):
            pytest.fail(f"accepted: {temperature} -> {engine.run(uniform_numbers(3, 2), temperature)}")
        with pytest.raises(InputError, match="temperature"):
            engine.probabilities(temperature)


def test_another_number_of_streams_is_rejected(engine):
    state, _ = engine.get_state()
    with pytest.raises(InputError, match="3 streams"):
        engine.prime(random_symbols(3, 4))
    with pytest.raises(InputError, match="1 streams"):
        engine.run(uniform_numbers(4, 1), 1.0)
    with pytest.raises(InputError, match="70 streams"):
        engine.set_state(state, np.zeros(70, dtype=np.int64))


def test_a_number_that_float32_would_round_to_1_selects_the_last_symbol(kind, tiny_model):
    engine = make(kind, tiny_model)
    assert engine.run(np.array([[1 - 2**-50]]), 1.0).tolist() == [[V - 1]]


def test_a_state_of_another_network_is_rejected(kind, engine, tiny_config):
    state, last = engine.get_state()
    wider, _ = make(kind, perturbed(replace(tiny_config, rnn_size=8)), 2).get_state()
    deeper, _ = make(kind, perturbed(replace(tiny_config, layers=3)), 2).get_state()
    broken = tuple(tuple(np.full_like(array, np.nan) for array in layer) for layer in state)
    texts = tuple(tuple(array.astype(str) for array in layer) for layer in state)
    for other in (wider, deeper, broken, texts, state[:1], (), None, "state", 5):
        with pytest.raises(InputError, match="state"):
            engine.set_state(other, last)
    for other in ([0], [0, V], [0, -2], [0.0, 1.0], [NO_SYMBOL, 0], None, 0):
        with pytest.raises(InputError):
            engine.set_state(state, other)
    np.testing.assert_array_equal(engine.get_state()[1], last)


def test_weights_that_are_not_finite_are_rejected_by_name(tiny_model):
    kernel_variants()
    weights = {name: array.copy() for name, array in arrays(tiny_model).items()}
    for bad in (np.nan, np.inf):
        weights["layers.1.weight_hh_l0"][3, 2] = bad
        for kind in (CpuEngine, OnnxEngine):
            with pytest.raises(InputError, match=r"layers\.1\.weight_hh_l0"):
                kind(weights, tiny_model.config)


def test_invalid_options_of_an_engine_are_rejected(tiny_checkpoint, tmp_path):
    for wrong in (
        {"kind": "steam"}, {"kind": None}, {"precision": "fp8"}, {"precision": None}, {"streams": 0},
        {"streams": 1.0}, {"streams": "2"}, {"streams": True}, {"threads": -1}, {"threads": 1025}, {"threads": None},
    ):  # fmt: skip
        for kind in ("auto", "cpu", "onnx", "eager"):
            with pytest.raises(InputError):
                charrnn.engine(tiny_checkpoint, **{"kind": kind} | wrong)
    for source in (None, 5, b"run", tiny_checkpoint.model, "", "a\0b", tmp_path / "none"):
        with pytest.raises(InputError):
            charrnn.engine(source)


# By name


def test_an_engine_is_made_from_a_file_a_run_or_a_loaded_checkpoint(tmp_path, tiny_checkpoint, trained_run):
    kernel_variants()
    save(tmp_path / "tiny", tiny_checkpoint)
    u = uniform_numbers(20, 2)
    for kind in ("auto", "cpu", "onnx", "eager"):
        first, second = (charrnn.engine(source, kind, 2).run(u, 1.0) for source in (tmp_path / "tiny", tiny_checkpoint))
        np.testing.assert_array_equal(first, second)
    engine = charrnn.engine(trained_run, "eager", streams=3, precision="bf16", threads=1)
    assert (engine.streams, engine.vocab_size) == (3, 256)


def test_onnxruntime_runs_a_checkpoint_without_torch(tmp_path, tiny_checkpoint):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    save(tmp_path / "tiny", tiny_checkpoint)
    program = (
        "import sys, charrnn; engine = charrnn.engine(sys.argv[1], 'onnx', threads=1); "
        "engine.prime([[1, 2]]); engine.probabilities(); engine.get_state(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "tiny")], check=False).returncode == 0
