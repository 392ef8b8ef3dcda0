"""The GPU's engine against the eager one, on the CPU: all of it but the GPU, its graphs, and compiled kernels."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engines import numbers, symbols, worked

import charrnn
from bytecodec.errors import InputError
from charrnn.commands.sample import charrnn_sample
from charrnn.engines import NOTHING
from charrnn.engines.cuda import plain as cuda_plain
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
}
LSTMS = {
    "lstm": CONFIG,
    "normed": SHAPES["normed"],
    "one layer": SHAPES["one layer"],
    # more inputs than a product takes at a time, and units and symbols that fill no item
    "wide": ModelConfig(21, 9, 133, 2, layer_norm=True),
}


@pytest.fixture(autouse=True)
def _short_graphs(monkeypatch):
    monkeypatch.setattr(cuda_plain, "STEPS", 4)


def engine(model, streams=1, precision="fp32", backend="torch"):
    """One on the CPU, where work that is recorded is done again as it stands."""
    return CudaEngine(
        model, streams, precision, backend, device="cpu", warm_up=lambda work: work(), capture=lambda work: work
    )


def lively(config):
    """A network whose choices hang on its state as much as a trained one's."""
    model = worked(config)
    with torch.no_grad():
        model.output.weight.mul_(4)
    return model.eval()


@pytest.fixture(params=["torch", "resident"])
def backend(request):
    if request.param == "resident":
        pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    return request.param


@pytest.fixture(params=SHAPES)
def model(request):
    return lively(SHAPES[request.param])


# Plain torch, any cell


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_its_symbols_are_those_of_the_eager_engine(model, streams, temperature):
    u = numbers(41, streams)
    wanted = EagerEngine(model, streams).run(u, temperature)
    np.testing.assert_array_equal(engine(model, streams).run(u, temperature), wanted)


def test_its_scores_are_those_of_the_eager_engine_and_touch_no_stream(model):
    ids, u = symbols(5, 30), numbers(20, 2)
    ours, eager = engine(model, 2), EagerEngine(model, 2)
    np.testing.assert_array_equal(ours.run(u[:10], 1.0), eager.run(u[:10], 1.0))
    np.testing.assert_allclose(ours.score(ids), eager.score(ids), atol=1e-5)
    np.testing.assert_array_equal(ours.run(u[10:], 1.0), eager.run(u[10:], 1.0))


def test_a_state_goes_on_in_another_engine_and_back(model):
    u = numbers(30, 3)
    whole = EagerEngine(model, 3).run(u, 1.0)
    ours, eager = engine(model, 3), EagerEngine(model, 3)
    pieces = [eager.run(u[:7], 1.0)]
    ours.set_state(*eager.get_state())
    pieces.append(ours.run(u[7:18], 1.0))
    eager.set_state(*ours.get_state())
    pieces.append(eager.run(u[18:], 1.0))
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_a_reset_engine_is_a_new_one_and_starts_from_nothing(model):
    u, ours = numbers(9, 2), engine(model, 2)
    first = ours.run(u, 1.0)
    ours.reset()
    assert ours.get_state()[1].tolist() == [NOTHING] * 2
    assert not any(array.any() for layer in ours.get_state()[0] for array in layer)
    np.testing.assert_array_equal(ours.run(u, 1.0), first)


# Both ways


WIDE = pytest.param("wide", marks=pytest.mark.slow)  # a second a step, where it is interpreted
ALL = ["lstm", "normed", "one layer", WIDE]


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("streams", [1, 3, 17])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_kernel_and_torch_choose_what_the_eager_engine_chooses(backend, shape, streams, temperature):
    network, u = lively(LSTMS[shape]), numbers(7, streams)
    wanted = EagerEngine(network, streams).run(u, temperature)
    np.testing.assert_array_equal(engine(network, streams, backend=backend).run(u, temperature), wanted)


@pytest.mark.parametrize("shape", ALL)
def test_kernel_and_torch_score_as_the_eager_engine_does(backend, shape):
    network, ids = lively(LSTMS[shape]), symbols(3, 7)
    wanted = EagerEngine(network, 1).score(ids)
    np.testing.assert_allclose(engine(network, backend=backend).score(ids), wanted, atol=2e-5)


@pytest.mark.parametrize("shape", ALL)
def test_in_bf16_scores_are_as_near_to_fp32_as_the_eager_engines_own_rounding(backend, shape):
    network, ids = lively(LSTMS[shape]), symbols(3, 7)
    exact = EagerEngine(network, 1).score(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = np.abs(EagerEngine(network, 1).score(ids) - exact).max()
    ours = np.abs(engine(network, precision="bf16", backend=backend).score(ids) - exact).max()
    assert 0 < ours < max(2 * plain, 0.02)


@pytest.mark.parametrize("backend", ["torch", pytest.param("resident", marks=pytest.mark.slow)], indirect=True)
def test_what_a_trained_network_knows_costs_less_than_five_thousandths_of_a_nat_in_bf16(backend, trained):
    network = trained.model
    ids = EagerEngine(network, 16).run(numbers(24, 16), 1.0)
    exact = EagerEngine(network, 1).score(ids)
    away = engine(network, precision="bf16", backend=backend).score(ids) - exact
    assert 0 < abs(away.mean()) < 0.005
    assert np.abs(away).max() < 0.2


@pytest.mark.parametrize("lengths", [(1, 1, 1), (5, 3, 2), (2, 0, 6)])
def test_running_in_pieces_is_running_at_once(backend, lengths):
    network, u = lively(SHAPES["normed"]), numbers(sum(lengths), 2)
    whole = EagerEngine(network, 2).run(u, 1.0)
    ours, places = engine(network, 2, backend=backend), np.cumsum([0, *lengths])
    pieces = [ours.run(u[i:j], 1.0) for i, j in itertools.pairwise(places)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("cut", [1, 6])
def test_priming_with_what_was_said_is_having_said_it(backend, cut):
    network, u = lively(CONFIG), numbers(10, 2)
    whole = EagerEngine(network, 2).run(u, 1.0)
    ours = engine(network, 2, backend=backend)
    ours.prime(whole[:, : cut // 2])
    ours.prime(whole[:, cut // 2 : cut])
    np.testing.assert_array_equal(ours.run(u[cut:], 1.0), whole[:, cut:])


def test_a_graph_is_recorded_once_for_each_kind_and_number_of_steps():
    recorded = []

    def record(work):
        recorded.append(work)
        return work

    ours = CudaEngine(lively(CONFIG), 2, "fp32", "torch", device="cpu", warm_up=lambda work: work(), capture=record)
    ours.run(numbers(14, 2), 1.0)  # one to begin with, three graphs of four, and one step
    ours.run(numbers(14, 2), 0.8)
    assert len(recorded) == 2
    ours.run(numbers(4, 2), 0)
    assert len(recorded) == 3


# The choice of a backend


def test_auto_takes_the_kernel_where_it_scores_as_torch_does():
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    ours, eager, u = engine(lively(CONFIG), 2, backend="auto"), EagerEngine(lively(CONFIG), 2), numbers(9, 2)
    assert ours.backend == "resident"
    assert ours.get_state()[1].tolist() == [NOTHING] * 2  # nothing is left of the trial
    np.testing.assert_array_equal(ours.run(u, 1.0), eager.run(u, 1.0))


def test_without_triton_auto_says_so_and_does_without_the_kernel(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "charrnn.engines.cuda.resident", None)
    monkeypatch.delattr("charrnn.engines.cuda.resident", raising=False)
    assert engine(lively(CONFIG), backend="auto").backend == "torch"
    assert capsys.readouterr().err == (
        "the resident kernel is written in Triton, which is not installed here. "
        "Sampling with torch's operations, which is several times slower.\n"
    )
    with pytest.raises(InputError, match="written in Triton, which is not installed here"):
        engine(lively(CONFIG), backend="resident")


@pytest.mark.parametrize("fault", ["wrong", "not a number", "breaks"])
def test_auto_says_why_it_does_without_the_kernel(monkeypatch, capsys, fault):
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    from charrnn.engines.cuda.resident import Resident

    real = Resident.run

    def faulty(self, kind, feed):
        if fault == "breaks":
            raise RuntimeError("CUDA error: too many blocks in cooperative launch\nmore")
        return real(self, kind, feed) + (1.0 if fault == "wrong" else np.nan)

    monkeypatch.setattr(Resident, "run", faulty)
    ours, u = engine(lively(CONFIG), 2, backend="auto"), numbers(9, 2)
    assert ours.backend == "torch"
    reason = {
        "wrong": "'s scores differ from torch's by 0.",
        "not a number": "'s scores differ from torch's by nan.",
        "breaks": " does not run here (CUDA error: too many blocks in cooperative launch).",
    }[fault]
    said = capsys.readouterr().err
    assert f"the resident kernel{reason}" in said
    assert "several times slower" in said
    np.testing.assert_array_equal(ours.run(u, 1.0), EagerEngine(lively(CONFIG), 2).run(u, 1.0))


# By name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_one_sentence(tiny_checkpoint, trained_run, capsys):
    sentence = "torch finds no NVIDIA GPU here, which --engine cuda runs on: use --engine auto."
    with pytest.raises(InputError) as caught:
        charrnn.engine(tiny_checkpoint, "cuda")
    assert str(caught.value) == sentence
    assert charrnn_sample([str(trained_run), "--engine", "cuda", "--length", "5"]) == 1
    assert capsys.readouterr().err == f"charrnn-sample: {sentence}\n"


def test_what_it_does_not_have_is_refused(tiny_model):
    with pytest.raises(InputError, match="no precision int6: it takes auto, fp32, bf16"):
        engine(tiny_model, precision="int6")
    with pytest.raises(ValueError, match="ids of 3 streams for an engine of 1"):
        engine(tiny_model).prime(symbols(3, 4))
    with pytest.raises(ValueError, match="numbers of 2 streams for an engine of 1"):
        engine(tiny_model).run(numbers(4, 2), 1.0)


def test_a_kernel_for_a_network_that_it_does_not_run_is_refused(capsys):
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    with pytest.raises(InputError, match="does not support a network of 2 gru layers of 6 and 7 symbols"):
        engine(lively(SHAPES["gru"]), backend="resident")
    assert engine(lively(SHAPES["gru"]), backend="auto").backend == "torch"
    assert "does not support" in capsys.readouterr().err
