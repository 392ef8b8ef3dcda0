"""LSTM layers by persistent kernels, run by Triton's interpreter, against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run_together, unevenly
from unrolled import unrolled

from charrnn.cuda.lstm_layout import divide
from charrnn.models.cells import LSTM

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")
import triton.language as tl  # noqa: E402

from charrnn.cuda import lstm as module  # noqa: E402
from charrnn.cuda.lstm import failures, kernel_lstm  # noqa: E402

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
NAMES = ("y", "h", "c", "x'", "h0'", "c0'", "W'", "U'", "b'")


@pytest.fixture(autouse=True)
def _no_failures():
    failures(CPU).zero_()
    yield
    assert failures(CPU).item() == 0


@pytest.fixture
def concurrent(monkeypatch):
    """Run each program in a process of its own, so that they synchronise at their barriers."""

    def launch(kernel, layout, units, *arguments):
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument.share_memory_()
        run_together(
            kernel,
            layout.programs,
            *arguments,
            units,
            layout.pitch,
            layout.units,
            layout.rows,
            layout.pieces,
            layout.register_pieces,
        )

    monkeypatch.setattr(module, "launch", launch)


@pytest.fixture(autouse=True)
def _round_to_nearest(monkeypatch):
    """Round to bf16 as a GPU does; the interpreter truncates."""
    from triton.runtime import interpreter

    truncate = interpreter._convert_float

    def convert(x, from_type, to_type, mode):
        if (from_type, to_type) != (tl.float32, tl.bfloat16):
            return truncate(x, from_type, to_type, mode)
        return torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.int16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def layer(n, steps, inputs, units):
    """Return a layer with inputs and state."""
    torch.manual_seed(0)
    lstm = LSTM(inputs, units)
    with torch.no_grad():
        lstm.bias_ih_l0.normal_()
    x, h, c = torch.randn(n, steps, inputs), torch.randn(n, units) / 2, torch.randn(n, units)
    return lstm, x.requires_grad_(), h.requires_grad_(), c.requires_grad_()


def torch_lstm(lstm, x, h, c):
    y, (h, c) = lstm(x, (h, c))
    return y, h, c


def stepwise(lstm, x, h, c):
    y, (h, c) = unrolled(lstm, x, (h, c))
    return y, h, c


def results(run, lstm, x, h, c):
    """Return outputs and state, and all gradients of a random weighted sum of them."""
    outputs = run(lstm, x, h, c)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, generator=generator) for output in outputs]
    loss = sum((output.float() * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(loss, [x, h, c, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0])]


def assert_equal(found, expected):
    for name, ours, theirs in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# In single precision


@pytest.mark.parametrize(("n", "steps", "inputs", "units"), [(1, 1, 1, 1), (3, 5, 8, 6), (17, 3, 7, 133)])
def test_outputs_state_and_gradients_equal_those_of_torch(n, steps, inputs, units):
    case = layer(n, steps, inputs, units)
    assert_equal(results(kernel_lstm, *case), results(torch_lstm, *case))


@pytest.mark.usefixtures("concurrent")
@pytest.mark.parametrize(
    ("n", "steps", "inputs", "units", "shape", "programs"),
    [
        (3, 4, 5, 40, (32, 16), 2),
        (17, 3, 8, 70, (64, 16), 4),
        pytest.param(*(17, 6, 7, 133, (32, 8), 18), marks=pytest.mark.slow),
    ],
)
def test_several_programs_give_the_results_of_torch(n, steps, inputs, units, shape, programs):
    case = layer(n, steps, inputs, units)
    layout = divide(n, units, shape)
    assert layout.programs == programs
    assert_equal(results(lambda *args: kernel_lstm(*args, layout=layout), *case), results(torch_lstm, *case))


@settings(max_examples=15)
@given(n=st.integers(1, 9), steps=st.integers(1, 4), inputs=st.integers(1, 9), units=st.integers(1, 80))
def test_any_size_gives_the_results_of_torch(n, steps, inputs, units):
    case = layer(n, steps, inputs, units)
    assert_equal(results(kernel_lstm, *case), results(torch_lstm, *case))


def test_two_halves_with_the_state_carried_equal_the_whole():
    lstm, x, h, c = layer(3, 6, 5, 9)
    y, *state = kernel_lstm(lstm, x, h, c)
    first, *between = kernel_lstm(lstm, x[:, :2], h, c)
    second, *after = kernel_lstm(lstm, x[:, 2:], *between)
    assert torch.equal(torch.cat((first, second), dim=1), y)
    assert all(torch.equal(one, other) for one, other in zip(after, state, strict=True))
    assert all(tensor.is_contiguous() for tensor in state)


@pytest.mark.parametrize("used", ["y", "c"])
def test_outputs_that_the_loss_does_not_use_give_no_gradient(used):
    lstm, x, h, c = layer(3, 4, 5, 9)
    grads = []
    for run in (kernel_lstm, torch_lstm):
        output = dict(zip("yhc", run(lstm, x, h, c), strict=True))[used]
        grads.append(torch.autograd.grad(output.sin().sum(), [x, h, c, *lstm.parameters()][:6]))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_frozen_inputs_and_no_grad_give_the_same_results():
    lstm, x, h, c = layer(3, 4, 5, 9)
    y, *_ = kernel_lstm(lstm, x.detach(), h.detach(), c.detach())
    y.sum().backward()
    expected = lstm.weight_hh_l0.grad.clone()
    torch_lstm(lstm, x, h, c)[0].sum().backward()
    torch.testing.assert_close(expected * 2, lstm.weight_hh_l0.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(kernel_lstm(lstm, x, h, c)[0], y)


# In bf16


def stacked(run):
    """Return a function of two layers, the second of which reads the output of the first."""

    def two(lstm, x, h, c):
        y, h, c = run(lstm, x, h, c)
        return run(lstm, y, h, c)

    return two


@pytest.mark.parametrize(("units", "depth"), [(24, 1), (133, 2)])
def test_in_bf16_errors_are_at_most_twice_those_of_plain_torch(units, depth):
    """This is the rule of flash-attention's tests; errors are relative to single precision."""
    case = layer(5, 12, units, units)
    deep = stacked if depth == 2 else lambda run: run
    exact = results(deep(torch_lstm), *case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, low = (results(deep(run), *case) for run in (kernel_lstm, stepwise))
    assert [t.dtype for t in found] == [torch.bfloat16, *[torch.float32] * 8]
    for name, ours, theirs, right in zip(NAMES, found, low, exact, strict=True):
        ours, theirs = (t.float() - right for t in (ours, theirs))
        assert ours.abs().max() <= 2 * theirs.abs().max() + 1e-6, name
        assert ours.norm() <= 2 * theirs.norm() + 1e-6, name


@pytest.mark.slow
@pytest.mark.usefixtures("concurrent")
@pytest.mark.parametrize(
    ("n", "units", "shape", "seed"), [(3, 40, (32, 16), 0), (17, 70, (32, 16), 1), (5, 120, (32, 8), 2)]
)
def test_programs_of_uneven_speed_give_the_results_of_torch(n, units, shape, seed):
    case = layer(n, 6, 5, units)
    layout = divide(n, units, shape)
    assert layout.programs > 1
    with unevenly(seed):
        found = results(lambda *args: kernel_lstm(*args, layout=layout), *case)
    assert_equal(found, results(torch_lstm, *case))


@pytest.mark.usefixtures("concurrent")
@pytest.mark.parametrize(
    ("sizes", "shape", "programs"),
    [
        ((5, 6, 8, 70), (64, 4), 4),
        # Pieces, units and rows of a program as for 50 rows on a Hopper GPU, but one block of the four.
        pytest.param((13, 3, 8, 680), (32, 16), 22, marks=pytest.mark.slow),
    ],
)
def test_in_bf16_errors_of_several_programs_are_at_most_twice_those_of_plain_torch(sizes, shape, programs):
    case = layer(*sizes)
    layout = divide(sizes[0], sizes[-1], shape)
    assert layout.programs == programs
    exact = results(torch_lstm, *case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, low = results(lambda *args: kernel_lstm(*args, layout=layout), *case), results(stepwise, *case)
    for name, ours, theirs, right in zip(NAMES, found, low, exact, strict=True):
        assert (ours.float() - right).norm() <= 2 * (theirs.float() - right).norm() + 1e-6, name


def test_results_are_reproducible():
    case = layer(3, 4, 5, 9)
    one, other = results(kernel_lstm, *case), results(kernel_lstm, *case)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Barriers


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of uninitialised numbers
def test_programs_that_reach_the_limit_of_spins_end_and_are_counted(monkeypatch):
    """The interpreter runs one program after the other, so that the first would never end."""
    monkeypatch.setattr(module, "SPIN_LIMIT", 3)
    y, *_ = kernel_lstm(*layer(2, 3, 4, 70), layout=divide(2, 70, (64, 16)))
    assert failures(CPU).item() == 2  # after a failure, the second program does not wait
    y.sum().backward()
    assert failures(CPU).item() == 4
    failures(CPU).zero_()


def test_programs_within_the_limit_are_not_counted(monkeypatch):
    monkeypatch.setattr(module, "SPIN_LIMIT", 1)
    kernel_lstm(*layer(2, 3, 4, 70))[0].sum().backward()
    assert failures(CPU).item() == 0
