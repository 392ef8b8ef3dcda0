"""A network trains with one of two backends, which are the same network, and none that does not work is taken."""

import dataclasses
import sys
from functools import partial

import pytest
import torch
from kernel_stand_in import exact, put_kernel

from bytecodec.errors import InputError
from charrnn.cuda.backends import choose, set_backend
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.training.recipe import GPU_LAYERS, Settings
from charrnn.training.step import Step, make_optimizer

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)
N, T = 3, 8
SETTINGS = Settings(batch_size=N, seq_length=T)
BATCH = tuple(torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def kernel(monkeypatch):
    """``kernel(function)`` replaces the kernel; a correct one is there already."""
    put_kernel(monkeypatch)
    return partial(put_kernel, monkeypatch)


@pytest.mark.parametrize("backend", GPU_LAYERS)
@pytest.mark.parametrize("cell", ["lstm", "lstmor"])
def test_loss_state_and_gradients_do_not_depend_on_the_backend(kernel, backend, cell):
    results = []
    for name in ("torch", backend):
        model = build(dataclasses.replace(CONFIG, cell=cell, layer_norm=True), seed=0)
        set_backend(model, name)
        loss, state = model.loss(*BATCH, model.initial_state(N))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([loss, *(t for layer in state for t in layer), *gradients])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


def test_a_backend_replaces_the_one_before_it(kernel):
    model, module = build(CONFIG, 0), kernel()
    set_backend(model, "kernel")
    assert model.layers[1].backend is module.kernel_lstm
    assert model.failures("cpu") is module.flag
    set_backend(model, "torch")
    assert model.layers[0].backend is model.failures is None


def test_validation_always_uses_torchs_layers(kernel):
    def wrong(lstm, x, h, c):
        raise ValueError

    kernel(wrong)
    model = build(CONFIG, 0).eval()
    plain = model.loss(*BATCH, model.initial_state(N))[0]
    set_backend(model, "kernel")
    assert torch.equal(model.loss(*BATCH, model.initial_state(N))[0], plain)


def test_a_step_in_which_the_kernel_fails_changes_no_weight(kernel):
    module, model = kernel(), build(CONFIG, 0)
    set_backend(model, "kernel")
    step = Step(model, make_optimizer(model, SETTINGS), SETTINGS)
    outcome, state = step(*BATCH, model.initial_state(N), 0.01)
    assert outcome.isfinite().all()
    module.flag.fill_(1)
    before = [p.detach().clone() for p in model.parameters()]
    outcome, _ = step(*BATCH, state, 0.01)
    assert outcome[0].isnan()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# The choice


def chosen(asked, monkeypatch, *, device="cuda", cell="lstm", precision="bf16", processes=1, kept="torch"):
    """Return the choice for a network on the CPU that stands for one on a device."""
    monkeypatch.setattr("charrnn.cuda.backends._loss_and_gradient", partial(on_cpu, device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = build(dataclasses.replace(CONFIG, cell=cell, dropout=0.5), 0)
    before = [p.clone() for p in model.parameters()]
    settings = dataclasses.replace(SETTINGS, device=device, precision=precision, gpu_layers=kept)
    try:
        return choose(asked, model, lambda: BATCH, settings, processes, False)
    finally:
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert all(p.grad is None for p in model.parameters())


def on_cpu(device, backend, model, batch, settings):
    return LOSS_AND_GRADIENT(backend, model, batch, dataclasses.replace(settings, device="cpu"))


from charrnn.cuda.backends import _loss_and_gradient as LOSS_AND_GRADIENT  # noqa: E402


def test_auto_is_the_kernel_where_it_computes_what_torch_does(kernel, monkeypatch, capsys):
    state = torch.get_rng_state()
    assert chosen("auto", monkeypatch) == "kernel"
    assert "kernel" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "case",
    [{"device": "cpu"}, {"device": "mps"}, {"processes": 2}, {"cell": "gru"}, {"cell": "lstmp"}, {"precision": "fp32"}],
)
def test_auto_is_torch_and_silent_for_what_the_kernel_does_not_support(kernel, monkeypatch, capsys, case):
    assert chosen("auto", monkeypatch, **case) == "torch"
    assert capsys.readouterr().err == ""


def test_a_size_that_does_not_fit_on_the_gpu_is_reported_and_torch_is_used(kernel, monkeypatch, capsys):
    def full(n, units, device):
        raise InputError("no room")

    kernel().check_size = full
    assert chosen("auto", monkeypatch) == "torch"
    assert "no room" in capsys.readouterr().err


def raises(lstm, x, h, c):
    raise RuntimeError("no such instruction\nand more")


def wrong(lstm, x, h, c):
    y, h, c = exact(lstm, x, h, c)
    return y * 2, h, c


def forgets_its_state(lstm, x, h, c):
    return exact(lstm, x, h * 0, c * 0)


class Flipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def learns_the_opposite(lstm, x, h, c):
    y, h, c = exact(lstm, x, h, c)
    return Flipped.apply(y), h, c


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (raises, "no such instruction"),
        (wrong, "its loss is"),
        (forgets_its_state, "its loss is"),
        (learns_the_opposite, "its gradient differs"),
    ],
)
@pytest.mark.parametrize("asked", ["auto", None])
def test_a_kernel_that_does_not_work_is_reported_and_torch_is_used(
    kernel, monkeypatch, capsys, function, reason, asked
):
    kernel(function)
    assert chosen(asked, monkeypatch, kept="kernel") == "torch"
    assert reason in capsys.readouterr().err


def test_a_kernel_that_gives_up_is_reported_and_may_be_tried_again(kernel, monkeypatch, capsys):
    def gives_up(lstm, x, h, c):
        module.flag.fill_(1)
        return exact(lstm, x, h, c)

    module = kernel(gives_up)
    assert chosen("auto", monkeypatch) == "torch"
    assert "timed out" in capsys.readouterr().err
    assert module.flag.item() == 0


@pytest.mark.parametrize(
    ("case", "reason"),
    [({"device": "cpu"}, "on cpu"), ({"cell": "gru"}, "gru"), ({"precision": "fp32"}, "fp32")],
)
def test_a_kernel_that_was_asked_for_and_is_not_possible_is_refused(kernel, monkeypatch, case, reason):
    with pytest.raises(InputError, match=f"^--gpu-layers kernel is not possible here .*{reason}"):
        chosen("kernel", monkeypatch, **case)


def test_without_triton_the_kernel_is_refused_and_auto_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "charrnn.cuda.lstm", None)
    with pytest.raises(InputError, match=r"^--gpu-layers kernel is not possible here"):
        chosen("kernel", monkeypatch)
    assert chosen("auto", monkeypatch) == "torch"
    assert "cannot be used here" in capsys.readouterr().err


def test_a_gpu_that_the_kernel_broke_ends_the_run(kernel, monkeypatch):
    def dead():
        raise RuntimeError("CUDA error")

    def breaks(lstm, x, h, c):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", dead)
        raise RuntimeError("an illegal address")

    kernel(breaks)
    with pytest.raises(InputError, match=r"an illegal address.*--gpu-layers torch"):
        chosen("auto", monkeypatch)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_resumed_run_keeps_its_backend(kernel, monkeypatch, device):
    for kept in GPU_LAYERS:
        assert chosen(None, monkeypatch, device=device, kept=kept) == kept


@pytest.mark.parametrize(
    ("kept", "backend"),
    [
        ({"pad_units": 1}, "torch"),
        ({"pad_units": 128}, "torch"),
        ({"gpu_layers": "padded"}, "torch"),
        ({"gpu_layers": "overlapped"}, "torch"),
        ({"gpu_layers": "kernel-overlapped"}, "kernel"),
    ],
)
def test_backends_of_older_versions_are_replaced(kept, backend):
    old = SETTINGS.to_json()
    del old["gpu_layers"]
    assert Settings.from_json(old | kept).gpu_layers == backend
