"""The fast cells compute what their equations say, forward and backward, and start as torch-rnn's did."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.models.cells import CELLS, GRU, LSTM, LSTMP, OUTPUTS, RNN, RecurrentLinear, unrolled
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
    """A cell whose parameters are all at work, inputs and a state that is not zero, all asking for gradients."""
    torch.manual_seed(1)
    cell = MAKERS[name](d, h)
    with torch.no_grad():
        for parameter in learnt(cell):  # biases and feedback that begin at zero could be left out unseen
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    cell = cell.to(dtype)
    x = torch.randn(n, t, d, dtype=dtype, requires_grad=True)
    state = tuple(torch.randn(s.shape, dtype=dtype, requires_grad=True) for s in cell.initial_state(n))
    return cell, x, state


def learnt(cell):
    return [p for p in cell.parameters() if p.requires_grad]


# The equations, each written down once more in numpy


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_memory(p, x, fed_back, c):
    z = x @ p["weight_ih_l0"].T + fed_back @ p["weight_hh_l0"].T + p["bias_ih_l0"]
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


def test_every_cell_that_can_be_asked_for_is_tested_here():
    made = {type(make(4, 6)) for make in MAKERS.values()}
    assert made == {*CELLS.values(), *OUTPUTS.values()}


@every_cell
def test_a_step_is_the_published_equations(name):
    cell, x, state = case(name, t=1)
    numbers = {key: p.detach().double().numpy() for key, p in cell.named_parameters()}
    want = EQUATIONS[name](numbers, *(tensor.detach().double().numpy() for tensor in (x[:, 0], *state)))
    y, new_state = cell.step(x[:, 0], state)
    for got, expected in zip((y, *new_state), want, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-6)


@every_cell
def test_every_matrix_product_of_a_step_can_be_brought_along(name):
    """An engine computes them its own way; a product that went past it would be slow or in another precision."""
    cell, x, state = case(name)
    used = []

    def linear(x, weight, bias=None):
        used.append(weight)
        return torch.nn.functional.linear(x, weight, bias)

    cell.step(x[:, 0], state, linear)
    matrices = [p for p in learnt(cell) if p.dim() == 2]
    assert len(used) == len(matrices)
    assert all(any(p is weight for weight in used) for p in matrices)


# The fast forward


@every_cell
def test_the_fast_forward_equals_the_unrolled_one_and_so_do_its_gradients(name):
    cell, x, state = case(name)
    inputs = [x, *state, *learnt(cell)]
    results = []
    for run in (cell, lambda x, state: unrolled(cell, x, state)):
        y, end = run(x, state)
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        loss = (y * weights).sum() + sum(tensor.sin().sum() for tensor in end)
        results.append([y, *end, *torch.autograd.grad(loss, inputs)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@every_cell
@pytest.mark.parametrize("how", ["fast", "unrolled"])
def test_the_gradient_is_the_slope(name, how):
    cell, x, state = case(name, n=2, t=3, d=2, h=2, dtype=torch.float64)

    def run(x, *others):
        y, end = cell(x, others[: len(state)]) if how == "fast" else unrolled(cell, x, others[: len(state)])
        return y, *end

    assert torch.autograd.gradcheck(run, (x, *state, *learnt(cell)))


@every_cell
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 19), max_size=4))
def test_a_split_run_with_the_state_carried_is_the_whole_run(name, cuts):
    cell, _, state = case(name)
    x = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, end = cell(x, state)
        pieces, carried = [], state
        for piece in torch.tensor_split(x, sorted(set(cuts)), dim=1):
            y, carried = cell(piece, carried)
            pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(carried, end, atol=1e-6, rtol=1e-5)


@every_cell
def test_streams_do_not_touch_each_other(name):
    cell, x, state = case(name)
    whole, _ = cell(x, state)
    for k in range(3):
        alone, _ = cell(x[k : k + 1], tuple(s[k : k + 1] for s in state))
        torch.testing.assert_close(alone[0], whole[k], atol=1e-6, rtol=1e-5)


@every_cell
def test_the_state_is_an_argument_and_is_left_as_it_is(name):
    cell, x, state = case(name)
    before = [s.detach().clone() for s in state]
    first, _ = cell(x, state)
    again, _ = cell(x, state)
    torch.testing.assert_close(again, first, atol=0, rtol=0)
    assert all(torch.equal(s, b) for s, b in zip(state, before, strict=True))


@pytest.mark.parametrize(
    ("name", "shapes", "output_size"),
    [
        ("lstm", [(3, 6), (3, 6)], 6),
        ("lstmp", [(3, 3), (3, 6)], 3),
        ("gru", [(3, 6)], 6),
        ("rnn", [(3, 6)], 6),
        ("recurrent linear", [(3, 6)], 6),
    ],
)
def test_states_and_outputs_have_the_shapes_that_the_docs_name(name, shapes, output_size):
    cell = MAKERS[name](4, 6).double()
    state = cell.initial_state(3)
    assert [tuple(s.shape) for s in state] == shapes
    assert all(s.dtype == torch.float64 and not s.any() for s in state)
    y, end = cell(torch.zeros(3, 5, 4).double(), state)
    assert y.shape == (3, 5, output_size)
    assert cell.output_size == output_size
    assert [tuple(s.shape) for s in end] == shapes


# Low precision


@every_cell
def test_in_bf16_it_stays_close_to_fp32(name):
    cell, x, state = case(name, n=8, t=30, d=32, h=32)
    with torch.no_grad():
        exact, _ = cell(x, state)
        with autocast("bf16", "cpu"):
            rough, _ = cell(x, state)
    scale = exact.abs().max().item()
    assert 0 < (rough.float() - exact).abs().max().item() < 0.03 * scale  # 8 bits of each number, over and over


@every_cell
def test_gradients_in_bf16_point_where_those_in_fp32_do(name):
    cell, x, state = case(name, n=8, t=30, d=32, h=32)
    inputs = [x, *learnt(cell)]
    gradients = []
    for precision in ("fp32", "bf16"):
        carried = state
        with autocast(precision, "cpu"):
            for piece in x.split(10, dim=1):  # the state comes back in the precision in which it went out
                y, carried = cell(piece, carried)
        gradients.append(torch.autograd.grad(y.float().square().mean(), inputs))
    for exact, rough in zip(*gradients, strict=True):
        assert exact.dtype == rough.dtype == torch.float32
        assert torch.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999
        assert rough.norm() / exact.norm() == pytest.approx(1, abs=0.02)


# Initial values


@with_forget_gates
@pytest.mark.parametrize("forget_bias", [1.0, 0.0, -2.5])
def test_only_the_forget_gates_have_a_bias_at_first_and_it_is_exact_in_sum(name, forget_bias):
    cell = seeded(lambda: MAKERS[name](4, 6, forget_bias=forget_bias))
    total = (cell.bias_ih_l0 + cell.bias_hh_l0).tolist()
    assert total == [0.0] * 6 + [forget_bias] * 6 + [0.0] * 12
    assert MAKERS[name](4, 6).bias_ih_l0[6:12].tolist() == [1.0] * 6


@with_forget_gates
def test_a_uniform_forget_bias_is_another_one_for_each_unit(name):
    cell = seeded(lambda: MAKERS[name](4, 2000, forget_bias="uniform"))
    before, forget, after = cell.bias_ih_l0.detach().split([2000, 2000, 4000])
    assert not before.any()
    assert not after.any()
    assert 0 <= forget.min().item() < 0.01
    assert 0.99 < forget.max().item() < 1
    assert forget.mean().item() == pytest.approx(0.5, abs=0.02)
    assert forget.std().item() == pytest.approx(12**-0.5, rel=0.03)


@pytest.mark.parametrize("name", ["gru", "rnn"])
def test_biases_without_a_forget_gate_begin_at_zero(name):
    cell = MAKERS[name](4, 6)
    assert not cell.bias_ih_l0.any()
    assert not cell.bias_hh_l0.any()


@pytest.mark.parametrize(("name", "fed_back"), [("lstm", 200), ("lstmp", 100), ("gru", 200), ("rnn", 200)])
def test_initial_weights_have_torch_rnns_deviation(name, fed_back):
    cell = seeded(lambda: MAKERS[name](300, 200))
    deviation = (300 + fed_back) ** -0.5
    for weight in (cell.weight_ih_l0, cell.weight_hh_l0):
        assert weight.std().item() == pytest.approx(deviation, rel=0.01)
        assert weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert weight.abs().max().item() > 3.8 * deviation  # normal, not uniform


def test_a_projection_begins_with_the_deviation_of_what_it_adds_up():
    weight = seeded(lambda: LSTMP(30, 400, 100)).weight_hr_l0
    assert weight.std().item() == pytest.approx(400**-0.5, rel=0.01)


def test_a_recurrent_output_layer_begins_as_an_ordinary_one_and_learns_its_feedback_at_once():
    layer = seeded(lambda: RecurrentLinear(5, 3))
    plain = seeded(lambda: torch.nn.Linear(5, 3))
    x = torch.randn(2, 7, 5)
    y, _ = layer(x, layer.initial_state(2))
    torch.testing.assert_close(y, plain(x), atol=1e-6, rtol=1e-6)
    y.square().sum().backward()
    assert layer.recurrent_weight.grad.abs().min() > 0


def test_a_recurrent_output_of_one_number_adds_up_with_a_factor():
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
def test_no_feedback_runs_away_however_large_its_weights_are(seed, size, m):
    torch.manual_seed(seed)
    layer = RecurrentLinear(3, m)
    with torch.no_grad():
        layer.recurrent_weight.normal_(0, size)
        x = torch.randn(2, 400, 3).sign()
        y, _ = layer(x, layer.initial_state(2))
        fresh = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert y.abs().max() <= 100 * fresh.abs().max() * 1.0001


def test_a_feedback_within_the_limit_is_taken_as_it_is_and_one_beyond_it_is_scaled_row_by_row():
    layer = RecurrentLinear(2, 2)
    with torch.no_grad():
        layer.recurrent_weight.copy_(torch.tensor([[0.5, -0.4], [3.0, -1.0]]))
        torch.testing.assert_close(layer.scale(), torch.tensor([1.0, 0.99 / 4]))
        layer.weight.zero_()
        layer.bias.zero_()
        y, _ = layer(torch.zeros(1, 1, 2), (torch.tensor([[1.0, 1.0]]),))
    torch.testing.assert_close(y[0, 0], torch.tensor([0.1, 0.99 / 4 * 2]))


@every_cell
def test_second_biases_are_zero_and_frozen_where_they_would_learn_nothing_new(name):
    cell, x, state = case(name)
    y, _ = cell(x, state)
    y.square().sum().backward()
    frozen = {key for key, p in cell.named_parameters() if not p.requires_grad}
    assert frozen == set(cell.FROZEN)
    assert not any(cell.get_parameter(key).any() for key in frozen)
    assert all(cell.get_parameter(key).grad is None for key in frozen)
    assert all(p.grad is not None for p in learnt(cell))
    assert len(learnt(cell)) == {"lstm": 3, "lstmp": 4, "gru": 4, "rnn": 3, "recurrent linear": 3}[name]


@pytest.mark.parametrize("name", ["lstm", "rnn"])
def test_a_frozen_bias_would_have_learnt_the_other_ones_gradient(name):
    cell, x, state = case(name)
    cell.bias_hh_l0.requires_grad_(True)
    cell(x, state)[0].square().sum().backward()
    torch.testing.assert_close(cell.bias_hh_l0.grad, cell.bias_ih_l0.grad)


def test_the_second_bias_of_a_gru_learns_what_the_first_cannot():
    cell, x, state = case("gru")
    cell(x, state)[0].square().sum().backward()
    one, two = cell.bias_ih_l0.grad.split([12, 6]), cell.bias_hh_l0.grad.split([12, 6])
    torch.testing.assert_close(one[0], two[0])  # of reset and update
    assert not torch.allclose(one[1], two[1])  # of the candidate
