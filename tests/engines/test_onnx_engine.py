"""onnxruntime computes what the eager engine computes, and replaces the compiled engine where it is not built."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_inputs import perturbed, random_symbols, uniform_numbers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as some_arrays

import charrnn
from bytecodec.errors import InputError
from charrnn.engines import arrays, eager
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.eager import EagerEngine
from charrnn.engines.factory import ONNX_STREAMS
from charrnn.engines.onnx import OnnxEngine, choose_symbols
from charrnn.models.char_rnn import ModelConfig
from charrnn.storage import onnx_export

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=24, layers=2)
NETWORKS = [("lstm", True), ("lstm", False), ("lstmp", True), ("lstmor", False), ("gru", True), ("rnn", False)]


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def model(request):
    cell, norm = request.param
    return perturbed(replace(CONFIG, cell=cell, layer_norm=norm))


def engine_of(model, streams=1, precision="fp32"):
    return OnnxEngine(arrays(model), model.config, streams, precision, threads=1)


def test_in_fp32_it_scores_and_samples_as_the_eager_engine_does(model):
    ids, u = random_symbols(3, 30), uniform_numbers(60, 3)
    np.testing.assert_allclose(engine_of(model).score(ids), EagerEngine(model).score(ids), atol=1e-4)
    for temperature in (0, 1e-300, 0.7, 1.0, 3.0):
        expected = EagerEngine(model, 3).run(u, temperature)
        np.testing.assert_array_equal(engine_of(model, 3).run(u, temperature), expected)


def test_in_int8_scores_are_near_and_not_the_same(model):
    ids = random_symbols(3, 100)
    difference = engine_of(model, precision="auto").score(ids) - EagerEngine(model).score(ids)
    assert 0 < np.abs(difference).max() < 0.25
    assert abs(difference.mean()) < 0.01


def test_in_int8_a_stream_depends_neither_on_other_streams_nor_on_pieces(model):
    u = uniform_numbers(25, 5)
    whole, few = engine_of(model, 5, "int8").run(u, 1.0), engine_of(model, 2, "int8")
    pieces = [few.run(u[:9, :2], 1.0), few.run(u[9:, :2], 1.0)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole[:2])


@given(
    some_arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32)),
    st.lists(st.integers(0, 2**24 - 1), min_size=3, max_size=3),
    st.sampled_from([0, 1e-300, 0.1, 0.7, 1.0, 10.0]),
)
def test_it_chooses_as_the_eager_engine_does(logits, u, temperature):
    u = np.array(u) / 2**24
    temperatures = np.full(3, temperature, dtype=np.float64)
    own = choose_symbols(logits, u, temperatures)
    tensors = torch.from_numpy(logits), torch.from_numpy(temperatures)
    there = [eager.choose_symbols(tensors[0], torch.from_numpy(u + e), tensors[1]) for e in (-1e-13, 0, 1e-13)]
    assert (own == np.stack(there)).any(axis=0).all()  # rounding may differ exactly at a border


def test_in_int8_a_trained_network_loses_less_than_five_thousandths_of_a_nat(trained_on_symbols, tone):
    ids = tone[:4000].astype(np.int64).reshape(2, 2000)
    reference = EagerEngine(trained_on_symbols.model).score(ids).mean()
    assert engine_of(trained_on_symbols.model, precision="int8").score(ids).mean() == pytest.approx(
        reference, abs=0.005
    )


def test_a_network_that_reads_samples_is_rejected_with_the_remedy(trained):
    with pytest.raises(InputError, match="--engine auto"):
        charrnn.engine(trained, "onnx")
    with pytest.raises(InputError, match="--context 0 --prediction none"):
        onnx_export.step_model({}, trained.config)


def test_a_precision_that_it_does_not_have_is_rejected(tiny_checkpoint):
    for precision in ("bf16", "int6"):
        with pytest.raises(InputError, match=precision):
            charrnn.engine(tiny_checkpoint, "onnx", precision=precision)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_an_error_names_the_extra_that_installs_a_missing_package(tiny_checkpoint, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{missing}.*charrnn-sound\[onnx\]"):
        charrnn.engine(tiny_checkpoint, "onnx")


# Without the compiled engine


@pytest.fixture
def not_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, str(tmp_path / "none.library"))
    cpu_library.library.cache_clear()
    yield
    monkeypatch.undo()
    cpu_library.library.cache_clear()


def test_without_the_compiled_engine_it_runs_and_one_line_names_the_remedy(tiny_checkpoint, not_compiled, capfd):
    assert isinstance(charrnn.engine(tiny_checkpoint), OnnxEngine)
    logged = capfd.readouterr().err
    assert logged.count("\n") == 1
    assert "C compiler" in logged
    assert "onnxruntime" in logged


@pytest.mark.parametrize("options", [{"streams": ONNX_STREAMS + 1}, {"precision": "fp32"}, {"precision": "bf16"}])
def test_for_many_streams_and_other_precisions_the_eager_engine_runs(tiny_checkpoint, not_compiled, capfd, options):
    assert isinstance(charrnn.engine(tiny_checkpoint, **options), EagerEngine)
    assert "eager" in capfd.readouterr().err


def test_without_onnxruntime_the_eager_engine_runs(tiny_checkpoint, not_compiled, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(charrnn.engine(tiny_checkpoint), EagerEngine)
    assert "eager" in capfd.readouterr().err


def test_without_the_compiled_engine_its_kind_and_its_precisions_are_rejected(tiny_checkpoint, not_compiled):
    for options in ({"kind": "cpu"}, {"precision": "int6"}):
        with pytest.raises(InputError, match="C compiler"):
            charrnn.engine(tiny_checkpoint, **options)
