"""Layers that run sequences in the compiled kernel compute what those of charrnn.models.cells do."""

import pytest
import torch
from compiled_kernel import kernel_variants
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu.layer import CompiledLayer, compile_layers
from charrnn.frames.generate import FrameStream
from charrnn.frames.model import FrameConfig, FrameRNN
from charrnn.models.cells import GRU, LSTM, LSTMP, RNN

VARIANTS = kernel_variants()

MAKE = {
    "lstm": LSTM,
    "lstmp": lambda d, h: LSTMP(d, h, proj_size=max(1, h // 2)),
    "gru": GRU,
    "rnn": RNN,
}


def layer_and_inputs(name, n=2, steps=9, inputs=5, units=21):
    torch.manual_seed(0)
    layer = MAKE[name](inputs, units)
    for parameter in layer.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, units**-0.5)
    state = tuple(torch.randn_like(part) for part in layer.initial_state(n))
    return layer, torch.randn(n, steps, inputs), state


def run(layer, x, state):
    with torch.no_grad():
        y, after = layer(x, state)
    return y, *after


@pytest.mark.parametrize("name", MAKE)
def test_in_every_variant_a_compiled_layer_computes_what_torchs_does(monkeypatch, name):
    layer, x, state = layer_and_inputs(name)
    for variant in VARIANTS:
        monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
        torch.testing.assert_close(run(CompiledLayer(layer), x, state), run(layer, x, state), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_blocks_of_steps_continue_each_other(monkeypatch, name):
    layer, x, state = layer_and_inputs(name)
    whole = run(CompiledLayer(layer), x, state)
    monkeypatch.setattr("charrnn.engines.cpu.layer.BLOCK", 4)
    for part, expected in zip(run(CompiledLayer(layer), x, state), whole, strict=True):
        assert torch.equal(part, expected)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(MAKE)),
    n=st.integers(1, 5),
    steps=st.integers(1, 12),
    inputs=st.integers(1, 40),
    units=st.integers(2, 70),
)
def test_layers_of_any_size_compute_what_torchs_do(name, n, steps, inputs, units):
    layer, x, state = layer_and_inputs(name, n, steps, inputs, units)
    torch.testing.assert_close(run(CompiledLayer(layer), x, state), run(layer, x, state), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_neither_threads_nor_pieces_change_a_result_and_the_given_state_is_kept(name):
    layer, x, state = layer_and_inputs(name, units=150)
    before = [part.clone() for part in state]
    whole, together = (run(CompiledLayer(layer, threads), x, state) for threads in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(whole, together, strict=True))
    layer = CompiledLayer(layer)
    first, *middle = run(layer, x[:, :4], state)
    rest, *end = run(layer, x[:, 4:], tuple(middle))
    torch.testing.assert_close((torch.cat([first, rest], dim=1), *end), whole, atol=1e-6, rtol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "lstmp", "lstmor"])
def test_a_frame_predictor_makes_the_same_sound_compiled(cell):
    torch.manual_seed(0)
    model = FrameRNN(FrameConfig(rnn_size=20, layers=2, cell=cell, taps=4, spacing=10)).eval()
    model.window.normal_(0, 0.1)
    take = FrameStream(model)
    sound = [take.read(10) for _ in range(20)]
    compile_layers(model)
    again = FrameStream(model)
    torch.testing.assert_close(
        torch.tensor([again.read(10).tolist() for _ in range(20)]), torch.tensor([piece.tolist() for piece in sound])
    )
