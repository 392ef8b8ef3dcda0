"""Both backends compute the same network, and a kernel that does not work is never used."""

import dataclasses
import sys
from functools import partial

import pytest
import torch
from kernel_stand_in import exact, put_kernel

from bytecodec.errors import InputError
from charrnn.cuda.backends import Backend, choose_backend, smoke_test
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.training.recipe import GPU_LAYERS, Settings
from charrnn.training.step import Step, make_optimizer

pytestmark = pytest.mark.usefixtures("bf16")

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)
N, T = 3, 8
SETTINGS = Settings(batch_size=N, seq_length=T)
BATCH = tuple(torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def kernel(monkeypatch):
    """``kernel(function)`` replaces the kernel; a correct one is installed already."""
    put_kernel(monkeypatch)
    return partial(put_kernel, monkeypatch)


def install(name, model):
    backend = Backend(name)
    backend.install(model)
    return backend


@pytest.mark.parametrize("cell", ["lstm", "lstmor"])
def test_loss_state_and_gradients_do_not_depend_on_the_backend(kernel, cell):
    results = []
    for name in GPU_LAYERS:
        model = build(dataclasses.replace(CONFIG, cell=cell, layer_norm=True), seed=0)
        install(name, model)
        loss, state = model.loss(*BATCH, model.initial_state(N))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([loss, *(t for layer in state for t in layer), *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_a_backend_replaces_the_one_before_it(kernel):
    model, module = build(CONFIG, 0), kernel()
    install("kernel", model)
    assert model.layers[1].training_function is module.kernel_lstm
    install("torch", model)
    assert model.layers[0].training_function is None


def test_validation_always_uses_torchs_layers(kernel):
    def fail(lstm, x, h, c):
        raise ValueError

    kernel(fail)
    model = build(CONFIG, 0).eval()
    plain = model.loss(*BATCH, model.initial_state(N))[0]
    install("kernel", model)
    assert torch.equal(model.loss(*BATCH, model.initial_state(N))[0], plain)


def test_a_step_in_which_the_kernel_fails_changes_no_weight(kernel):
    module, model = kernel(), build(CONFIG, 0)
    backend = install("kernel", model)
    step = Step(model, make_optimizer(model, SETTINGS), SETTINGS, backend=backend)
    outcome, state = step(*BATCH, model.initial_state(N), 0.01)
    assert outcome.isfinite().all()
    assert not backend.failed()
    module.flag.fill_(1)
    before = [p.detach().clone() for p in model.parameters()]
    outcome, _ = step(*BATCH, state, 0.01)
    assert outcome[0].isnan()
    assert backend.failed()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# Choice of a backend


def chosen(requested, *, device="cuda", cell="lstm", precision="bf16", processes=1, previous="torch"):
    """Return the choice for a network on the CPU that stands for one on a device."""
    model = build(dataclasses.replace(CONFIG, cell=cell, dropout=0.5), 0)
    before = [p.clone() for p in model.parameters()]
    options = {"device": device, "precision": precision, "processes": processes, "quiet": False}
    try:
        return choose_backend(requested, previous, model, lambda: BATCH, **options)
    finally:
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert all(p.grad is None for p in model.parameters())


def test_auto_is_the_kernel_if_its_results_are_those_of_torch(kernel, capsys):
    state = torch.get_rng_state()
    assert chosen("auto") == "kernel"
    assert "kernel" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)


def test_disturbances_of_samples_are_the_same_with_both_backends(kernel):
    model = build(ModelConfig(256, 5, 6, 2, context=3, prediction="lpc", noise=100.0), seed=0)
    batch = tuple(torch.randint(256, (2, N, T), generator=torch.Generator().manual_seed(1)))
    options = {"device": "cuda", "precision": "fp32", "processes": 1, "quiet": True}
    assert smoke_test(model, batch, "fp32") == ""
    assert choose_backend("auto", "torch", model, lambda: batch, **options | {"precision": "bf16"}) == "kernel"


@pytest.mark.parametrize("case", [{"device": "cpu"}, {"processes": 2}, {"cell": "lstmp"}])
def test_auto_is_silently_torch_for_runs_that_the_kernel_does_not_support(kernel, capsys, case):
    assert chosen("auto", **case) == "torch"
    assert capsys.readouterr().err == ""


def test_a_size_that_does_not_fit_on_the_gpu_is_reported_and_torch_is_used(kernel, capsys):
    def full(n, units, device):
        raise InputError("no room")

    kernel().check_size = full
    assert chosen("auto") == "torch"
    assert "no room" in capsys.readouterr().err


def fails(lstm, x, h, c):
    raise RuntimeError("no such instruction\nand more")


def forgets_its_state(lstm, x, h, c):
    return exact(lstm, x, h * 0, c * 0)


class Negated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def has_a_wrong_gradient(lstm, x, h, c):
    y, h, c = exact(lstm, x, h, c)
    return Negated.apply(y), h, c


@pytest.mark.parametrize(
    ("function", "requested", "reason"),
    [
        (fails, "auto", "no such instruction"),
        (forgets_its_state, "auto", "loss"),
        (has_a_wrong_gradient, "auto", "gradient"),
        (fails, None, "no such instruction"),
    ],
)
def test_a_kernel_that_does_not_work_is_reported_and_torch_is_used(kernel, capsys, function, requested, reason):
    kernel(function)
    assert chosen(requested, previous="kernel") == "torch"
    assert reason in capsys.readouterr().err


def test_a_kernel_that_times_out_is_reported_and_may_be_tried_again(kernel, capsys):
    def times_out(lstm, x, h, c):
        module.flag.fill_(1)
        return exact(lstm, x, h, c)

    module = kernel(times_out)
    assert chosen("auto") == "torch"
    assert "timed out" in capsys.readouterr().err
    assert module.flag.item() == 0


@pytest.mark.parametrize(
    ("case", "reason"), [({"device": "cpu"}, "on cpu"), ({"precision": "fp32"}, "fp32"), ({"processes": 2}, "process")]
)
def test_a_kernel_that_is_requested_and_not_possible_is_rejected(kernel, case, reason):
    with pytest.raises(InputError, match=rf"^--gpu-layers kernel .*{reason}"):
        chosen("kernel", **case)


def test_without_triton_the_kernel_is_rejected_and_auto_reports_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "charrnn.cuda.lstm", None)
    with pytest.raises(InputError, match=r"^--gpu-layers kernel"):
        chosen("kernel")
    assert chosen("auto") == "torch"
    assert "cannot be used here" in capsys.readouterr().err


def test_a_gpu_that_the_kernel_broke_ends_the_run(kernel, monkeypatch):
    def synchronize():
        raise RuntimeError("CUDA error")

    def breaks(lstm, x, h, c):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        raise RuntimeError("an illegal address")

    kernel(breaks)
    with pytest.raises(InputError, match=r"an illegal address.*--gpu-layers torch"):
        chosen("auto")


def test_a_resumed_run_keeps_its_backend_also_on_a_cpu(kernel):
    for device in ("cpu", "cuda"):
        for name in GPU_LAYERS:
            assert chosen(None, device=device, previous=name) == name
