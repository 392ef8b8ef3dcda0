"""LSTM layers by resident kernels, run by Triton's interpreter, against torch's own."""

import os
import subprocess
import sys

import hopper
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run_together, unevenly

from bytecodec.errors import InputError
from charrnn.cuda.lstm_layout import MULTIPLE, PIECE, divide, layout_for, single_program
from charrnn.models.cells import LSTM, unrolled

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")
import triton.language as tl  # noqa: E402

from charrnn.cuda import lstm as module  # noqa: E402
from charrnn.cuda.lstm import failures, kernel_lstm  # noqa: E402

CPU = torch.device("cpu")
NAMES = ("y", "h", "c", "x'", "h0'", "c0'", "W'", "U'", "b'")


@pytest.fixture(autouse=True)
def _no_failures():
    failures(CPU).zero_()
    yield
    assert failures(CPU).item() == 0


@pytest.fixture
def _together(monkeypatch):
    """Each program a process of its own, so that they meet at their barriers."""

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
            layout.held,
        )

    monkeypatch.setattr(module, "launch", launch)


@pytest.fixture(autouse=True)
def _round_to_nearest(monkeypatch):
    """As a GPU does; the interpreter cuts bits off on the way to bf16."""
    from triton.runtime import interpreter

    cut = interpreter._convert_float

    def convert(x, from_type, to_type, mode):
        if (from_type, to_type) != (tl.float32, tl.bfloat16):
            return cut(x, from_type, to_type, mode)
        return torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.int16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def layer(n, steps, inputs, units):
    """A layer with its x and state."""
    torch.manual_seed(0)
    lstm = LSTM(inputs, units)
    with torch.no_grad():
        lstm.bias_ih_l0.normal_()
    x, h, c = torch.randn(n, steps, inputs), torch.randn(n, units) / 2, torch.randn(n, units)
    return lstm, x.requires_grad_(), h.requires_grad_(), c.requires_grad_()


def torchs(lstm, x, h, c):
    y, (h, c) = lstm(x, (h, c))
    return y, h, c


def plain(lstm, x, h, c):
    y, (h, c) = unrolled(lstm, x, (h, c))
    return y, h, c


def everything(run, lstm, x, h, c):
    """Outputs and state, and all gradients of some sum of them."""
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
def test_outputs_state_and_gradients_are_torchs(n, steps, inputs, units):
    case = layer(n, steps, inputs, units)
    assert_equal(everything(kernel_lstm, *case), everything(torchs, *case))


@pytest.mark.usefixtures("_together")
@pytest.mark.parametrize(
    ("n", "steps", "inputs", "units", "shape", "programs"),
    [
        (3, 4, 5, 40, (32, 16), 2),
        (17, 3, 8, 70, (64, 16), 4),
        pytest.param(*(17, 6, 7, 133, (32, 8), 18), marks=pytest.mark.slow),
    ],
)
def test_programs_that_meet_at_barriers_compute_what_torch_does(n, steps, inputs, units, shape, programs):
    case = layer(n, steps, inputs, units)
    layout = divide(n, units, shape)
    assert layout.programs == programs
    assert_equal(everything(lambda *some: kernel_lstm(*some, layout=layout), *case), everything(torchs, *case))


@settings(max_examples=15)
@given(n=st.integers(1, 9), steps=st.integers(1, 4), inputs=st.integers(1, 9), units=st.integers(1, 80))
def test_any_size_gives_what_torch_does(n, steps, inputs, units):
    case = layer(n, steps, inputs, units)
    assert_equal(everything(kernel_lstm, *case), everything(torchs, *case))


def test_two_halves_with_the_state_carried_over_are_the_whole():
    lstm, x, h, c = layer(3, 6, 5, 9)
    y, *state = kernel_lstm(lstm, x, h, c)
    first, *between = kernel_lstm(lstm, x[:, :2], h, c)
    second, *after = kernel_lstm(lstm, x[:, 2:], *between)
    assert torch.equal(torch.cat((first, second), dim=1), y)
    assert all(torch.equal(one, other) for one, other in zip(after, state, strict=True))
    assert all(tensor.is_contiguous() for tensor in state)  # as what is stored has to be


def test_gradients_are_differences_of_the_loss():
    lstm, x, h, c = layer(2, 4, 3, 5)
    *_, x_grad, h_grad, c_grad, _, u_grad, _ = everything(kernel_lstm, lstm, x, h, c)

    def loss(x, h, c):
        generator = torch.Generator().manual_seed(1)
        outputs = kernel_lstm(lstm, x, h, c)
        return sum((output * torch.randn(output.shape, generator=generator)).sum().double() for output in outputs)

    with torch.no_grad():
        for number, grad in enumerate((x_grad, h_grad, c_grad)):
            way = torch.randn(grad.shape) * 1e-2
            ends = [[t + side * way if k == number else t for k, t in enumerate((x, h, c))] for side in (1, -1)]
            assert (loss(*ends[0]) - loss(*ends[1])).item() / 2 == pytest.approx((grad * way).sum().item(), rel=2e-3)
        way, u = torch.randn(u_grad.shape) * 1e-2, lstm.weight_hh_l0.clone()
        ends = [loss(x, h, c) for side in (1, -1) if lstm.weight_hh_l0.copy_(u + side * way) is not None]
        assert (ends[0] - ends[1]).item() / 2 == pytest.approx((u_grad * way).sum().item(), rel=2e-3)


@pytest.mark.parametrize("used", ["y", "h", "c"])
def test_what_the_loss_does_not_use_gives_no_gradient(used):
    lstm, x, h, c = layer(3, 4, 5, 9)
    grads = []
    for run in (kernel_lstm, torchs):
        output = dict(zip("yhc", run(lstm, x, h, c), strict=True))[used]
        grads.append(torch.autograd.grad(output.sin().sum(), [x, h, c, *lstm.parameters()][:6]))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_frozen_inputs_and_a_run_without_gradients_are_the_same_function():
    lstm, x, h, c = layer(3, 4, 5, 9)
    y, *_ = kernel_lstm(lstm, x.detach(), h.detach(), c.detach())
    y.sum().backward()
    expected = lstm.weight_hh_l0.grad.clone()
    torchs(lstm, x, h, c)[0].sum().backward()
    torch.testing.assert_close(expected * 2, lstm.weight_hh_l0.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(kernel_lstm(lstm, x, h, c)[0], y)


# In bf16


def stacked(run):
    """Two layers, of which the second reads what the first's kernel wrote."""

    def two(lstm, x, h, c):
        y, h, c = run(lstm, x, h, c)
        return run(lstm, y, h, c)

    return two


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("units", [24, 133])
def test_in_bf16_errors_are_at_most_twice_those_of_plain_torch(units, depth):
    """The rule of flash-attention's tests: all errors are against single precision."""
    case = layer(5, 12, units, units)
    deep = stacked if depth == 2 else lambda run: run
    exact = everything(deep(torchs), *case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, low = (everything(deep(run), *case) for run in (kernel_lstm, plain))
    assert [t.dtype for t in found] == [torch.bfloat16, *[torch.float32] * 8]
    for name, ours, theirs, right in zip(NAMES, found, low, exact, strict=True):
        ours, theirs = (t.float() - right for t in (ours, theirs))
        assert ours.abs().max() <= 2 * theirs.abs().max() + 1e-6, name
        assert ours.norm() <= 2 * theirs.norm() + 1e-6, name


@pytest.mark.slow
@pytest.mark.usefixtures("_together")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "units", "shape"), [(3, 40, (32, 16)), (17, 70, (32, 16)), (5, 120, (32, 8))])
def test_programs_of_uneven_speed_compute_what_torch_does(n, units, shape, seed):
    case = layer(n, 6, 5, units)
    layout = divide(n, units, shape)
    assert layout.programs > 1
    with unevenly(seed):
        found = everything(lambda *some: kernel_lstm(*some, layout=layout), *case)
    assert_equal(found, everything(torchs, *case))


@pytest.mark.usefixtures("_together")
@pytest.mark.parametrize(
    ("sizes", "shape", "programs"),
    [
        ((5, 6, 8, 70), (64, 4), 4),
        # Pieces, units and rows of a program as for 50 rows on a Hopper GPU, but one block of the four.
        pytest.param((13, 3, 8, 680), (32, 16), 22, marks=pytest.mark.slow),
    ],
)
def test_in_bf16_several_programs_are_as_good(sizes, shape, programs):
    case = layer(*sizes)
    layout = divide(sizes[0], sizes[-1], shape)
    assert layout.programs == programs
    exact = everything(torchs, *case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, low = everything(lambda *some: kernel_lstm(*some, layout=layout), *case), everything(plain, *case)
    for name, ours, theirs, right in zip(NAMES, found, low, exact, strict=True):
        assert (ours.float() - right).norm() <= 2 * (theirs.float() - right).norm() + 1e-6, name


def test_every_run_gives_the_same_numbers():
    case = layer(3, 4, 5, 9)
    one, other = everything(kernel_lstm, *case), everything(kernel_lstm, *case)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Barriers and layouts


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that they read where nothing was written
def test_programs_that_wait_in_vain_go_on_and_are_counted(monkeypatch):
    """The interpreter runs one program after the other, so that the first would wait for ever."""
    monkeypatch.setattr(module, "SPIN_LIMIT", 3)
    y, *_ = kernel_lstm(*layer(2, 3, 4, 70), layout=divide(2, 70, (64, 16)))
    assert failures(CPU).item() == 2  # the second one has no spins with who failed before
    y.sum().backward()
    assert failures(CPU).item() == 4
    failures(CPU).zero_()


def test_spins_that_suffices_is_not_counted(monkeypatch):
    monkeypatch.setattr(module, "SPIN_LIMIT", 1)
    kernel_lstm(*layer(2, 3, 4, 70))[0].sum().backward()
    assert failures(CPU).item() == 0


@given(
    n=st.integers(1, 600),
    units=st.integers(1, 2048),
    itemsize=st.sampled_from([2, 4]),
    multiprocessors=st.integers(1, 200),
)
def test_a_layout_has_all_rows_and_units_and_fits(n, units, itemsize, multiprocessors):
    try:
        layout = layout_for(n, units, itemsize, multiprocessors)
    except ValueError:
        return
    assert layout.programs <= multiprocessors
    assert layout.blocks * layout.each >= n > (layout.blocks - 1) * layout.each
    assert layout.each <= layout.rows
    assert layout.pitch - MULTIPLE < units <= layout.pitch == sum(layout.pieces)
    assert layout.pitch % layout.units == 0
    assert all(piece.bit_count() == 1 and piece * layout.rows <= PIECE for piece in layout.pieces)


def test_the_layouts_of_a_hopper_gpu():
    assert layout_for(50, 680, 2, 132) == (32, 16, 13, 4, 704, 8)
    assert layout_for(50, 680, 2, 132).programs == 88
    assert layout_for(50, 680, 2, 132).pieces == (128, 128, 64, 256, 128)
    assert layout_for(50, 680, 2, 132).held == 3
    assert layout_for(50, 680, 2, 132 // 3) == (32, 32, 25, 2, 704, 8)
    assert layout_for(50, 680, 2, 132 // 3).programs == 44
    assert layout_for(50, 256, 2, 132) == (16, 16, 13, 4, 256, 4)
    assert layout_for(50, 1024, 2, 132).programs == 128
    assert single_program(50, 680) == (1024, 64, 50, 1, 1024, 8)


@pytest.mark.parametrize(("n", "units", "itemsize", "bits"), [(2048, 680, 2, 16), (50, 2048, 2, 16), (50, 680, 4, 32)])
def test_more_than_fits_on_a_gpu_is_rejected(n, units, itemsize, bits):
    with pytest.raises(InputError, match=f"^{n} rows of {units} units in {bits} bits do not fit"):
        layout_for(n, units, itemsize, 132)


COMPILE = """
import json, sys, torch
from hopper import pretend, usage
from charrnn.cuda import lstm as module
from charrnn.models.cells import LSTM
from charrnn.cuda.lstm_layout import layout_for

pretend()
made = {}

def launch(kernel, layout, units, *arguments):
    constants, options = module.compiled_for(layout, units)
    compiled = kernel.warmup(*arguments, *constants, grid=(layout.programs,), **options)
    made[kernel.__name__] = usage(compiled)

module.launch = launch
x, state = torch.zeros(50, 50, 680, requires_grad=True), torch.zeros(50, 680)
with torch.autocast("cpu", torch.bfloat16):
    y, h, c = module.kernel_lstm(LSTM(680, 680), x, state, state, layout_for(50, 680, 2, 132))
y.sum().backward()
print(json.dumps(made))
"""


@pytest.mark.slow
def test_for_a_hopper_gpu_nothing_is_spilled_and_u_stays_in_shared_memory():
    made = hopper.run(COMPILE)
    assert made.keys() == {"forward_kernel", "backward_kernel"}
    in_shared_memory = 4 * 32 * (256 + 128) * 2  # bytes; the other columns are in registers
    for found in made.values():
        assert found["STACK"] <= 16, "more than a few numbers that are needed before and after all steps"
        assert in_shared_memory < found["shared"] <= 227 * 1024
        assert found["wgmma.mma_async"] >= 44
        assert found["ld.acquire.gpu"] >= 1


ON_A_GPU = """
import sys
import torch
from charrnn.models.cells import LSTM
from charrnn.cuda.lstm import failures, kernel_lstm

device, n, steps, units = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(0)
lstm = LSTM(units, units).to(device)
x, h, c = (torch.randn(*shape, units, device=device, requires_grad=True) for shape in ((n, steps), (n,), (n,)))

def everything(low, run):
    with torch.autocast(device, torch.bfloat16, enabled=low):
        outputs = run()
    loss = sum((output.float() * torch.ones_like(output).cumsum(0).sin()).sum() for output in outputs)
    grads = torch.autograd.grad(loss, [x, h, c, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0])
    return [tensor.detach().float() for tensor in (*outputs, *grads)]

def torchs():
    y, (h_last, c_last) = lstm(x, (h, c))
    return y, h_last, c_last

def steps_of_torch():
    state, outputs = (h, c), []
    for x_t in x.unbind(dim=1):
        y, state = lstm.step(x_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), *state

torch.backends.cudnn.allow_tf32 = False
exact, low = everything(False, torchs), everything(True, steps_of_torch)
for _ in range(20):
    for ours, theirs, right in zip(everything(True, lambda: kernel_lstm(lstm, x, h, c)), low, exact, strict=True):
        assert (ours - right).norm() <= 2 * (theirs - right).norm() + 1e-6
assert failures(torch.device(device)).item() == 0
"""


def on_a_gpu(device, *sizes, **more):
    command = [sys.executable, "-c", ON_A_GPU, device, *map(str, sizes)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | more
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")
@pytest.mark.parametrize("sizes", [(50, 50, 680), (3, 7, 64), (17, 20, 133), (64, 30, 1024), (256, 10, 512)])
def test_on_a_gpu_errors_are_at_most_twice_those_of_plain_torch(sizes):
    on_a_gpu("cuda", *sizes)
