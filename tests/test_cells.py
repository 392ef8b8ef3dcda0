"""The fast cells compute what their equations say, forward and backward, and start as torch-rnn's did."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.cells import CELLS, LSTM, unrolled
from charrnn.runtime import autocast


def seeded(make):
    torch.manual_seed(0)
    return make()


def case(n=3, t=7, d=4, h=5, dtype=torch.float32):
    """A cell, inputs and a state that is not zero, all asking for gradients."""
    torch.manual_seed(1)
    cell = LSTM(d, h).to(dtype)
    x = torch.randn(n, t, d, dtype=dtype, requires_grad=True)
    state = tuple(torch.randn(n, h, dtype=dtype, requires_grad=True) for _ in range(2))
    return cell, x, state


def learnt(cell):
    return [p for p in cell.parameters() if p.requires_grad]


def test_a_step_is_the_published_equations():
    cell, x, (h, c) = case(t=1)
    numbers = {name: p.detach().double().numpy() for name, p in cell.named_parameters()}
    x, h, c = (tensor.detach().double().numpy() for tensor in (x[:, 0], h, c))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    z = x @ numbers["weight_ih_l0"].T + h @ numbers["weight_hh_l0"].T + numbers["bias_ih_l0"]
    i, f, g, o = np.split(z, 4, axis=1)
    c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h_new = sigmoid(o) * np.tanh(c_new)
    y, state = cell.step(torch.from_numpy(x).float(), (torch.from_numpy(h).float(), torch.from_numpy(c).float()))
    for got, want in zip((y, *state), (h_new, h_new, c_new), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_the_fast_forward_equals_the_unrolled_one_and_so_do_its_gradients(name):
    cell, x, state = case()
    inputs = [x, *state, *learnt(cell)]
    results = []
    for run in (cell, lambda x, state: unrolled(cell, x, state)):
        y, (h, c) = run(x, state)
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        loss = (y * weights).sum() + h.square().sum() + c.sin().sum()
        results.append([y, h, c, *torch.autograd.grad(loss, inputs)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_the_unrolled_gradient_is_the_slope():
    cell, x, state = case(n=2, t=3, d=2, h=2, dtype=torch.float64)
    inputs = (x, *state, *learnt(cell))

    def run(x, h, c, *_):
        y, (h, c) = unrolled(cell, x, (h, c))
        return y, h, c

    assert torch.autograd.gradcheck(run, inputs)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 19), max_size=4))
def test_a_split_run_with_the_state_carried_is_the_whole_run(cuts):
    cell, _, state = case()
    x = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, end = cell(x, state)
        pieces, carried = [], state
        for piece in torch.tensor_split(x, sorted(set(cuts)), dim=1):
            y, carried = cell(piece, carried)
            pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=1e-6)
    for got, want in zip(carried, end, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_streams_do_not_touch_each_other():
    cell, x, state = case()
    whole, _ = cell(x, state)
    for k in range(3):
        alone, _ = cell(x[k : k + 1], tuple(s[k : k + 1] for s in state))
        torch.testing.assert_close(alone[0], whole[k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, -2.5])
def test_only_the_forget_gates_have_a_bias_at_first_and_it_is_exact_in_sum(forget_bias):
    cell = seeded(lambda: LSTM(4, 5, forget_bias))
    total = (cell.bias_ih_l0 + cell.bias_hh_l0).tolist()
    assert total == [0.0] * 5 + [forget_bias] * 5 + [0.0] * 10
    assert LSTM(4, 5).bias_ih_l0[5:10].tolist() == [1.0] * 5


def test_initial_weights_have_torch_rnns_deviation():
    cell = seeded(lambda: LSTM(300, 200))
    for weight in (cell.weight_ih_l0, cell.weight_hh_l0):
        assert weight.std().item() == pytest.approx(500**-0.5, rel=0.01)
        assert weight.mean().item() == pytest.approx(0, abs=5e-4)
        assert weight.abs().max().item() > 4 * 500**-0.5  # normal, not uniform


def test_the_second_bias_is_zero_and_frozen():
    cell, x, state = case()
    y, _ = cell(x, state)
    y.sum().backward()
    assert not cell.bias_hh_l0.any()
    assert not cell.bias_hh_l0.requires_grad
    assert cell.bias_hh_l0.grad is None
    assert all(p.grad is not None for p in learnt(cell))
    assert len(learnt(cell)) == 3


def test_the_initial_state_is_zeros_of_the_cells_own_kind():
    h, c = LSTM(4, 5).double().initial_state(3)
    assert h.shape == c.shape == (3, 5)
    assert h.dtype == c.dtype == torch.float64
    assert not h.any()
    assert not c.any()


def test_in_bf16_it_stays_close_to_fp32():
    cell, x, state = case(n=8, t=30, d=32, h=32)
    with torch.no_grad():
        exact, _ = cell(x, state)
        with autocast("bf16", "cpu"):
            rough, _ = cell(x, state)
    error = (rough.float() - exact).abs().max().item()
    assert 0 < error < 0.03  # 8 bits of a number below 1, over and over
