"""The GPU's engine against the eager one, on the CPU: all of it except the GPU, its graphs, and compiled kernels."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_inputs import perturbed, random_symbols, uniform_numbers

import charrnn
from bytecodec.errors import InputError
from charrnn.commands.sample import charrnn_sample
from charrnn.engines import NO_SYMBOL
from charrnn.engines.cuda import graph_sampler
from charrnn.engines.cuda.engine import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import ModelConfig

V = 7
CONFIG = ModelConfig(V, 5, 6, 2)
SHAPES = {
    **{cell: replace(CONFIG, cell=cell) for cell in CELLS},
    "normed": replace(CONFIG, layer_norm=True),
    "one layer": replace(CONFIG, layers=1, layer_norm=True),
    # more inputs than a product reads at a time, and units and symbols that do not fill their last items
    "wide": ModelConfig(21, 9, 133, 2, layer_norm=True),
}
SLOW = pytest.mark.slow  # "wide" needs a second per step in the interpreter
KERNEL = pytest.param("persistent", marks=pytest.mark.integration)


@pytest.fixture(autouse=True)
def _short_graphs(monkeypatch):
    monkeypatch.setattr(graph_sampler, "STEPS", 4)


def engine(model, streams=1, precision="fp32", backend="torch"):
    """Return an engine on the CPU, where captured work is executed again."""
    if backend != "torch":
        pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    return CudaEngine(
        model, streams, precision, backend, device="cpu", warm_up=lambda work: work(), capture=lambda work: work
    )


def network(shape="lstm"):
    return perturbed(SHAPES[shape], sharpness=4)


# Torch's operations, any cell


@pytest.mark.parametrize("shape", SHAPES)
def test_its_symbols_and_scores_are_those_of_the_eager_engine(shape):
    model = network(shape)
    for streams, temperature in itertools.product((1, 3), (0.0, 0.7, 1.0)):
        u = uniform_numbers(41, streams)
        expected = EagerEngine(model, streams).run(u, temperature)
        np.testing.assert_array_equal(engine(model, streams).run(u, temperature), expected)
    ids = random_symbols(5, 30)
    np.testing.assert_allclose(engine(model, 2).score(ids), EagerEngine(model, 2).score(ids), atol=1e-5)


def test_a_graph_is_captured_once_for_each_kind_and_number_of_steps():
    captured = []

    def capture(work):
        captured.append(work)
        return work

    made = CudaEngine(network(), 2, "fp32", "torch", device="cpu", warm_up=lambda work: work(), capture=capture)
    made.run(uniform_numbers(14, 2), 1.0)  # the first symbol, three graphs of four steps, and one step
    made.run(uniform_numbers(14, 2), 0.8)
    assert len(captured) == 2
    made.run(uniform_numbers(4, 2), 0)
    assert len(captured) == 3


# Both backends


@pytest.mark.integration
@pytest.mark.parametrize(
    ("shape", "streams", "temperature"),
    [
        ("lstm", 1, 0.9),
        ("lstm", 17, 0.0),
        ("normed", 3, 0.9),
        ("normed", 1, 0.0),
        ("one layer", 17, 0.9),
        ("one layer", 1, 0.9),
        pytest.param("wide", 1, 0.9, marks=SLOW),
        pytest.param("wide", 3, 0.0, marks=SLOW),
        pytest.param("wide", 17, 0.9, marks=SLOW),
    ],
)
def test_the_kernel_samples_what_the_eager_engine_samples(shape, streams, temperature):
    model, u = network(shape), uniform_numbers(7, streams)
    expected = EagerEngine(model, streams).run(u, temperature)
    np.testing.assert_array_equal(engine(model, streams, backend="persistent").run(u, temperature), expected)


@pytest.mark.integration
@pytest.mark.parametrize("shape", ["lstm", "normed", "one layer", pytest.param("wide", marks=SLOW)])
def test_the_kernel_scores_as_the_eager_engine_does(shape):
    model, ids = network(shape), random_symbols(3, 7)
    expected = EagerEngine(model, 1).score(ids)
    np.testing.assert_allclose(engine(model, backend="persistent").score(ids), expected, atol=2e-5)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("backend", ["torch", KERNEL])
@pytest.mark.parametrize("shape", ["lstm", "normed"])
def test_in_bf16_the_error_of_scores_is_at_most_twice_that_of_autocast(backend, shape):
    model, ids = network(shape), random_symbols(3, 7)
    reference = EagerEngine(model, 1).score(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        allowed = 2 * np.abs(EagerEngine(model, 1).score(ids) - reference).max()
    error = np.abs(engine(model, precision="bf16", backend=backend).score(ids) - reference).max()
    assert 0 < error < max(allowed, 0.02)


@pytest.mark.parametrize("backend", ["torch", pytest.param("persistent", marks=[pytest.mark.slow])])
def test_in_bf16_a_trained_network_loses_less_than_five_thousandths_of_a_nat(backend, trained_on_symbols):
    model = trained_on_symbols.model
    ids = EagerEngine(model, 16).run(uniform_numbers(24, 16), 1.0)
    reference = EagerEngine(model, 1).score(ids)
    difference = engine(model, precision="bf16", backend=backend).score(ids) - reference
    assert 0 < abs(difference.mean()) < 0.005
    assert np.abs(difference).max() < 0.2


@pytest.mark.parametrize("kernel", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_a_network_that_predicts_samples_continues_after_pieces_and_from_a_state(kernel, monkeypatch, capfd):
    if kernel:
        pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    else:
        monkeypatch.setitem(sys.modules, "charrnn.cuda.predictor", None)
    model = perturbed(ModelConfig(256, 5, 6, 2, context=3, prediction="lpc"))
    u = uniform_numbers(24, 2)
    whole = EagerEngine(model, 2).run(u, 1.0)
    first, second = engine(model, 2), engine(model, 2)
    np.testing.assert_array_equal(first.run(u[:7], 1.0), whole[:, :7])
    second.run(u[::-1], 1.0)  # its predictions belong to another sound from here on
    second.set_state(*first.get_state())
    np.testing.assert_array_equal(second.run(u[7:], 1.0), whole[:, 7:])
    ids = random_symbols(2, 12, 256)
    np.testing.assert_allclose(first.score(ids), EagerEngine(model, 2).score(ids), rtol=1e-5)
    assert ("sampling is slower" in capfd.readouterr().err) == (not kernel)


@pytest.mark.parametrize("backend", ["torch", KERNEL])
def test_running_in_pieces_and_after_priming_is_running_at_once(backend):
    model, u = network("normed"), uniform_numbers(10, 2)
    whole = EagerEngine(model, 2).run(u, 1.0)
    made = engine(model, 2, backend=backend)
    pieces = [made.run(u[i:j], 1.0) for i, j in ((0, 1), (1, 6), (6, 6), (6, 10))]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    made.reset()
    made.prime(whole[:, :3])
    made.prime(whole[:, 3:6])
    np.testing.assert_array_equal(made.run(u[6:], 1.0), whole[:, 6:])


# The choice of a backend


@pytest.mark.integration
def test_auto_uses_the_kernel_if_it_scores_as_torch_does():
    made, eager, u = engine(network(), 2, backend="auto"), EagerEngine(network(), 2), uniform_numbers(9, 2)
    assert made.backend == "persistent"
    assert made.get_state()[1].tolist() == [NO_SYMBOL] * 2  # the smoke test left nothing
    np.testing.assert_array_equal(made.run(u, 1.0), eager.run(u, 1.0))


def test_without_triton_auto_logs_that_and_uses_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "charrnn.engines.cuda.persistent", None)
    monkeypatch.delattr("charrnn.engines.cuda.persistent", raising=False)
    made = CudaEngine(network(), device="cpu", warm_up=lambda work: work(), capture=lambda work: work)
    assert made.backend == "torch"
    assert "Triton" in capsys.readouterr().err
    with pytest.raises(InputError, match="Triton"):
        CudaEngine(network(), backend="persistent", device="cpu")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("fault", "reason"), [("wrong", "differ"), ("not a number", "nan"), ("fails", "too many blocks")]
)
def test_auto_logs_why_it_does_not_use_the_kernel(monkeypatch, capsys, fault, reason):
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    from charrnn.engines.cuda.persistent import PersistentSampler

    run = PersistentSampler.run

    def faulty(self, kind, feed):
        if fault == "fails":
            raise RuntimeError("CUDA error: too many blocks in cooperative launch\nmore")
        return run(self, kind, feed) + (1.0 if fault == "wrong" else np.nan)

    monkeypatch.setattr(PersistentSampler, "run", faulty)
    made, u = engine(network(), 2, backend="auto"), uniform_numbers(9, 2)
    assert made.backend == "torch"
    logged = capsys.readouterr().err
    assert reason in logged
    assert "more" not in logged
    np.testing.assert_array_equal(made.run(u, 1.0), EagerEngine(network(), 2).run(u, 1.0))


def test_the_kernel_rejects_a_network_that_it_does_not_support(capsys):
    with pytest.raises(InputError, match="2 gru layers of 6 and 7 symbols"):
        engine(network("gru"), backend="persistent")
    assert engine(network("gru"), backend="auto").backend == "torch"
    assert "does not support" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_error_is_one_line(tiny_checkpoint, trained_run, capsys):
    with pytest.raises(InputError, match="GPU") as caught:
        charrnn.engine(tiny_checkpoint, "cuda")
    assert charrnn_sample([str(trained_run), "--engine", "cuda", "--length", "5"]) == 1
    assert capsys.readouterr().err == f"charrnn-sample: {caught.value}\n"


def test_a_precision_that_it_does_not_have_is_rejected(tiny_model):
    with pytest.raises(InputError, match="int6"):
        engine(tiny_model, precision="int6")
