"""The fast cells compute what their equations say, and have torch-rnn's initial values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unrolled import unrolled

from charrnn.models.cells import CELLS, GRU, LSTM, LSTMP, OUTPUTS, RNN, RecurrentLinear
from charrnn.runtime import autocast

MAKERS = {
    "lstm": LSTM,
    "lstmp": lambda d, h, **options: LSTMP(d, h, proj_size=h // 2, **options),
    "gru": GRU,
    "rnn": RNN,
    "recurrent linear": RecurrentLinear,
}
every_cell = pytest.mark.parametrize("name", MAKERS)
with_forget_gates = pytest.mark.parametrize("name", ["lstm", "lstmp"])


def seeded(make):
    torch.manual_seed(0)
    return make()


def case(name, n=3, t=7, d=4, h=6, dtype=torch.float32):
    """Return a cell, inputs and a state, without zeros and with gradients."""
    torch.manual_seed(1)
    cell = MAKERS[name](d, h)
    with torch.no_grad():
        for parameter in trained(cell):  # zeros would hide a term that is missing
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    cell = cell.to(dtype)
    x = torch.randn(n, t, d, dtype=dtype, requires_grad=True)
    state = tuple(torch.randn(s.shape, dtype=dtype, requires_grad=True) for s in cell.initial_state(n))
    return cell, x, state


def trained(cell):
    return [p for p in cell.parameters() if p.requires_grad]


# The equations, written again in numpy


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_memory(p, x, recurrent, c):
    z = x @ p["weight_ih_l0"].T + recurrent @ p["weight_hh_l0"].T + p["bias_ih_l0"]
    i, f, g, o = np.split(z, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm(p, x, h, c):
    h, c = lstm_memory(p, x, h, c)
    return h, h, c


def lstmp(p, x, r, c):
    h, c = lstm_memory(p, x, r, c)
    r = h @ p["weight_hr_l0"].T
    return r, r, c


def gru(p, x, h):
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n), (d_r, d_z, d_n) = (np.split(p[name], 3) for name in names)
    r = sigmoid(x @ w_r.T + b_r + h @ u_r.T + d_r)
    z = sigmoid(x @ w_z.T + b_z + h @ u_z.T + d_z)
    n = np.tanh(x @ w_n.T + b_n + r * (h @ u_n.T + d_n))
    h = (1 - z) * n + z * h
    return h, h


def rnn(p, x, h):
    h = np.tanh(x @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T + p["bias_ih_l0"])
    return h, h


def recurrent_linear(p, x, y):
    u = np.array([row * min(1, 0.99 / np.abs(row).sum()) for row in p["recurrent_weight"]])
    y = x @ p["weight"].T + y @ u.T + p["bias"]
    return y, y


EQUATIONS = {"lstm": lstm, "lstmp": lstmp, "gru": gru, "rnn": rnn, "recurrent linear": recurrent_linear}


def test_all_cells_are_tested_here():
    made = {type(make(4, 6)) for make in MAKERS.values()}
    assert made == {*CELLS.values(), *OUTPUTS.values()}


@every_cell
def test_a_step_computes_the_published_equations_with_the_given_matrix_product(name):
    cell, x, state = case(name, t=1)
    numbers = {key: p.detach().double().numpy() for key, p in cell.named_parameters()}
    want = EQUATIONS[name](numbers, *(tensor.detach().double().numpy() for tensor in (x[:, 0], *state)))
    matrices = []

    def linear(x, weight, bias=None):
        matrices.append(weight)
        return torch.nn.functional.linear(x, weight, bias)

    y, new_state = cell.step(x[:, 0], state, linear)
    assert {id(p) for p in trained(cell) if p.dim() == 2} == {id(p) for p in matrices}
    for got, expected in zip((y, *new_state), want, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-6)


# The fast forward


@every_cell
def test_outputs_state_and_gradients_equal_those_of_single_steps(name):
    cell, x, state = case(name)
    inputs = [x, *state, *trained(cell)]
    results = []
    for run in (cell, lambda x, state: unrolled(cell, x, state)):
        y, end = run(x, state)
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        loss = (y * weights).sum() + sum(tensor.sin().sum() for tensor in end)
        results.append([y, *end, *torch.autograd.grad(loss, inputs)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_the_state_is_not_changed():
    for name in MAKERS:
        cell, x, state = case(name)
        before = [s.detach().clone() for s in state]
        cell(x, state)
        assert all(torch.equal(s, b) for s, b in zip(state, before, strict=True)), name


# Low precision


@pytest.mark.usefixtures("bf16")
@every_cell
def test_outputs_and_gradients_in_bf16_are_near_those_in_fp32(name):
    cell, x, state = case(name, n=8, t=30, d=32, h=32)
    inputs = [x, *trained(cell)]
    outputs, gradients = [], []
    for precision in ("fp32", "bf16"):
        carried = state
        with autocast(precision, "cpu"):
            for piece in x.split(10, dim=1):  # a state keeps its precision
                y, carried = cell(piece, carried)
        outputs.append(y.detach().float())
        gradients.append(torch.autograd.grad(y.float().square().mean(), inputs))
    exact, rough = outputs
    assert 0 < (rough - exact).abs().max().item() < 0.03 * exact.abs().max().item()
    for exact, rough in zip(*gradients, strict=True):
        assert exact.dtype == rough.dtype == torch.float32
        assert torch.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999
        assert rough.norm() / exact.norm() == pytest.approx(1, abs=0.02)


# Initial values


@with_forget_gates
def test_initially_only_the_forget_gates_have_a_bias(name):
    cell = seeded(lambda: MAKERS[name](4, 6, forget_bias=-2.5))
    assert (cell.bias_ih_l0 + cell.bias_hh_l0).tolist() == [0.0] * 6 + [-2.5] * 6 + [0.0] * 12
    assert MAKERS[name](4, 6).bias_ih_l0[6:12].tolist() == [1.0] * 6


def test_a_uniform_forget_bias_is_drawn_for_each_unit():
    cell = seeded(lambda: LSTM(4, 2000, forget_bias="uniform"))
    before, forget, after = cell.bias_ih_l0.detach().split([2000, 2000, 4000])
    assert not before.any()
    assert not after.any()
    assert 0 <= forget.min().item() < 0.01
    assert 0.99 < forget.max().item() < 1
    assert forget.mean().item() == pytest.approx(0.5, abs=0.02)
    assert forget.std().item() == pytest.approx(12**-0.5, rel=0.03)


@pytest.mark.parametrize(("name", "recurrent"), [("lstm", 200), ("lstmp", 100), ("gru", 200), ("rnn", 200)])
def test_initial_weights_have_torch_rnns_deviation(name, recurrent):
    cell = seeded(lambda: MAKERS[name](300, 200))
    deviation = (300 + recurrent) ** -0.5
    for weight in (cell.weight_ih_l0, cell.weight_hh_l0):
        assert weight.std().item() == pytest.approx(deviation, rel=0.01)
        assert weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert weight.abs().max().item() > 3.8 * deviation  # normal, not uniform
    if name in ("gru", "rnn"):
        assert not cell.bias_ih_l0.any()
        assert not cell.bias_hh_l0.any()


def test_an_initial_projection_has_the_deviation_of_its_inputs():
    weight = seeded(lambda: LSTMP(30, 400, 100)).weight_hr_l0
    assert weight.std().item() == pytest.approx(400**-0.5, rel=0.01)


def test_a_recurrent_output_layer_is_initially_an_ordinary_one_whose_feedback_has_a_gradient():
    layer = seeded(lambda: RecurrentLinear(5, 3))
    plain = seeded(lambda: torch.nn.Linear(5, 3))
    x = torch.randn(2, 7, 5)
    y, _ = layer(x, layer.initial_state(2))
    torch.testing.assert_close(y, plain(x), atol=1e-6, rtol=1e-6)
    y.square().sum().backward()
    assert layer.recurrent_weight.grad.abs().min() > 0


def test_a_recurrent_output_adds_its_last_output_times_a_factor():
    layer = RecurrentLinear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.recurrent_weight.fill_(0.5)
        layer.bias.zero_()
        y, end = layer(torch.tensor([[[1.0, 9.0], [0.0, 9.0], [2.0, 9.0]]]), (torch.tensor([[4.0]]),))
    assert y.flatten().tolist() == [3.0, 1.5, 2.75]
    assert end[0].tolist() == [[2.75]]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), size=st.floats(0.01, 1e6), m=st.integers(1, 40))
def test_feedback_is_bounded_however_large_its_weights_are(seed, size, m):
    torch.manual_seed(seed)
    layer = RecurrentLinear(3, m)
    with torch.no_grad():
        layer.recurrent_weight.normal_(0, size)
        x = torch.randn(2, 400, 3).sign()
        y, _ = layer(x, layer.initial_state(2))
        from_x = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert y.abs().max() <= 100 * from_x.abs().max() * 1.0001


def test_rows_of_the_feedback_beyond_the_limit_are_scaled_down():
    layer = RecurrentLinear(2, 2)
    with torch.no_grad():
        layer.recurrent_weight.copy_(torch.tensor([[0.5, -0.4], [3.0, -1.0]]))
        torch.testing.assert_close(layer.scale(), torch.tensor([1.0, 0.99 / 4]))
        layer.weight.zero_()
        layer.bias.zero_()
        y, _ = layer(torch.zeros(1, 1, 2), (torch.tensor([[1.0, 1.0]]),))
    torch.testing.assert_close(y[0, 0], torch.tensor([0.1, 0.99 / 4 * 2]))


def test_frozen_parameters_are_zero_and_have_no_gradient():
    for name in MAKERS:
        cell, x, state = case(name)
        y, _ = cell(x, state)
        y.square().sum().backward()
        frozen = {key for key, p in cell.named_parameters() if not p.requires_grad}
        assert frozen == set(getattr(cell, "FROZEN", ()))
        assert not any(cell.get_parameter(key).any() for key in frozen)
        assert all(cell.get_parameter(key).grad is None for key in frozen)
        assert all(p.grad is not None for p in trained(cell))


def test_a_second_bias_is_frozen_if_its_gradient_would_be_that_of_the_first():
    cell, x, state = case("lstm")
    cell.bias_hh_l0.requires_grad_(True)
    cell(x, state)[0].square().sum().backward()
    torch.testing.assert_close(cell.bias_hh_l0.grad, cell.bias_ih_l0.grad)
    cell, x, state = case("gru")
    cell(x, state)[0].square().sum().backward()
    first, second = cell.bias_ih_l0.grad.split([12, 6]), cell.bias_hh_l0.grad.split([12, 6])
    torch.testing.assert_close(first[0], second[0])  # of reset and update
    assert not torch.allclose(first[1], second[1])  # of the candidate
