"""The GPU's engine against the eager one, on the CPU: all of it but the GPU, its graphs, and compiled kernels."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engines import numbers, symbols, worked

import charrnn
from bytecodec.errors import InputError
from charrnn.cells import CELLS
from charrnn.commands.sample import charrnn_sample
from charrnn.engines import NOTHING, cuda
from charrnn.engines.cuda import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.model import ModelConfig

V = 7
CONFIG = ModelConfig(V, 5, 6, 2)
SHAPES = {
    **{cell: replace(CONFIG, cell=cell) for cell in CELLS},
    "normed": replace(CONFIG, layer_norm=True),
    "one layer": replace(CONFIG, layers=1, layer_norm=True),
}
WIDE = ModelConfig(20, 9, 130, 2, layer_norm=True)  # more inputs than a loop's step; symbols and units fill no block
LSTMS = {
    "lstm": CONFIG,
    "normed": SHAPES["normed"],
    "one layer": SHAPES["one layer"],
    "wide": ModelConfig(
        70, 9, 133, 3, layer_norm=True
    ),  # more inputs than a loop's step, symbols and units than blocks
}


@pytest.fixture(autouse=True)
def _short_graphs(monkeypatch):
    monkeypatch.setattr(cuda, "STEPS", 4)


def engine(model, streams=1, precision="fp32", way="torch"):
    """One on the CPU, where work that is recorded is done again as it stands."""
    return CudaEngine(model, streams, precision, way, device="cpu", aside=lambda work: work(), record=lambda work: work)


def lively(config):
    """A network whose choices hang on its state as much as a trained one's."""
    model = worked(config)
    with torch.no_grad():
        model.output.weight.mul_(4)
    return model.eval()


@pytest.fixture(params=["torch", pytest.param("kernels", marks=pytest.mark.slow)])
def way(request):
    if request.param == "kernels":
        if torch.cuda.is_available():
            pytest.skip("tools/gpu_check.py runs the kernels on the GPU itself")
        pytest.importorskip("triton", reason="the kernels are tested where Triton is installed")
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


@pytest.mark.parametrize("shape", LSTMS)
@pytest.mark.parametrize("streams", [1, 17])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_kernels_and_torch_choose_what_the_eager_engine_chooses(way, shape, streams, temperature):
    network, u = lively(LSTMS[shape]), numbers(7, streams)
    wanted = EagerEngine(network, streams).run(u, temperature)
    np.testing.assert_array_equal(engine(network, streams, way=way).run(u, temperature), wanted)


@pytest.mark.parametrize("shape", LSTMS)
def test_kernels_and_torch_score_as_the_eager_engine_does(way, shape):
    network, ids = lively(LSTMS[shape]), symbols(3, 7)
    wanted = EagerEngine(network, 1).score(ids)
    np.testing.assert_allclose(engine(network, way=way).score(ids), wanted, atol=2e-5)


def test_a_network_of_more_than_one_block_scores_as_in_the_eager_engine(way):
    network, ids = lively(WIDE), symbols(2, 4, vocab_size=20)
    np.testing.assert_allclose(engine(network, way=way).score(ids), EagerEngine(network, 1).score(ids), atol=5e-5)


@pytest.mark.parametrize("shape", LSTMS)
def test_in_bf16_scores_are_as_near_to_fp32_as_the_eager_engines_own_rounding(way, shape):
    network, ids = lively(LSTMS[shape]), symbols(3, 7)
    exact = EagerEngine(network, 1).score(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = np.abs(EagerEngine(network, 1).score(ids) - exact).max()
    ours = np.abs(engine(network, precision="bf16", way=way).score(ids) - exact).max()
    assert 0 < ours < max(2 * plain, 0.02)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (5, 3, 2), (2, 0, 6)])
def test_running_in_pieces_is_running_at_once(way, lengths):
    network, u = lively(SHAPES["normed"]), numbers(sum(lengths), 2)
    whole = EagerEngine(network, 2).run(u, 1.0)
    ours, places = engine(network, 2, way=way), np.cumsum([0, *lengths])
    pieces = [ours.run(u[i:j], 1.0) for i, j in itertools.pairwise(places)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("cut", [1, 6])
def test_priming_with_what_was_said_is_having_said_it(way, cut):
    network, u = lively(CONFIG), numbers(10, 2)
    whole = EagerEngine(network, 2).run(u, 1.0)
    ours = engine(network, 2, way=way)
    ours.prime(whole[:, : cut // 2])
    ours.prime(whole[:, cut // 2 : cut])
    np.testing.assert_array_equal(ours.run(u[cut:], 1.0), whole[:, cut:])


def test_a_graph_is_recorded_once_for_each_kind_and_number_of_steps(way):
    recorded = []

    def record(work):
        recorded.append(work)
        return work

    ours = CudaEngine(lively(CONFIG), 2, "fp32", way, device="cpu", aside=lambda work: work(), record=record)
    ours.run(numbers(14, 2), 1.0)  # one to begin with, three graphs of four, and one step
    ours.run(numbers(14, 2), 0.8)
    assert len(recorded) == 2
    ours.run(numbers(4, 2), 0)
    assert len(recorded) == 3


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from charrnn.engines import cuda_kernels as kernels

def compiled(kernel, types, **constants):
    types = iter(types.split())
    signature = {name: "constexpr" if name in constants else next(types) for name in kernel.arg_names}
    places = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    print(kernel.__name__, len(compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))

shape = dict(EPSILON=1e-5, NORMED=True, ROWS=16, INPUTS=128)
layer = "*fp32 i32 *i64 *fp32 *bf16 *fp32 *bf16 *fp32 *fp32 i32 i32 i32"
compiled(kernels._layer, layer, BELOW=True, UNITS=4, **shape)
compiled(kernels._logits, "*fp32 *bf16 *fp32 *fp32 i32 i32 i32 i32", COLUMNS=16, **shape)
for kind, feed in enumerate(("*fp64", "*fp64", "*i64")):
    compiled(kernels._choice, f"*fp32 {feed} *fp64 *i64 *i64 *fp64 i32", KIND=kind, SYMBOLS=256)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_hopper_gpu(tmp_path):
    """To machine code, which takes no GPU: by Triton's own compiler, in a process that does not interpret."""
    pytest.importorskip("triton", reason="the kernels are tested where Triton is installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = dict(line.split() for line in done.stdout.splitlines())
    assert set(sizes) == {"_layer", "_logits", "_choice"}
    assert all(int(size) > 1000 for size in sizes.values())


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


def test_kernels_for_a_network_that_they_do_not_run_are_refused(way):
    if way == "kernels":
        with pytest.raises(InputError, match="the kernels run no such network as this one of gru layers"):
            engine(lively(SHAPES["gru"]), way="kernels")
    assert engine(lively(SHAPES["gru"]), way="auto").way == "torch"
