"""A network learns in one of several ways, which are the same network."""

import dataclasses
from functools import partial

import pytest
import torch
from kernel_stand_in import put_kernel

from charrnn.config import ModelConfig
from charrnn.gpu_layers import set_way, ways_of
from charrnn.model import build
from charrnn.padding import padded_lstm
from charrnn.recipe import GPU_LAYERS, Settings
from charrnn.step import Step, make_optimizer

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)
N, T = 3, 8
SETTINGS = Settings(batch_size=N, seq_length=T)
BATCH = tuple(torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def kernel(monkeypatch):
    """``kernel(function)`` puts a kernel in place; there is one already."""
    put_kernel(monkeypatch)
    return partial(put_kernel, monkeypatch)


# The ways


@pytest.mark.parametrize("way", GPU_LAYERS)
@pytest.mark.parametrize("cell", ["lstm", "lstmor"])
def test_whatever_the_way_loss_state_and_gradients_are_the_same(kernel, way, cell):
    results = []
    for name in ("torch", way):
        model = build(dataclasses.replace(CONFIG, cell=cell, layer_norm=True), seed=0)
        set_way(model, name)
        loss, state = model.loss(*BATCH, model.initial_state(N))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([loss, *(t for layer in state for t in layer), *gradients])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


def test_only_lstms_are_padded_or_in_a_kernel_and_one_layer_has_nothing_to_overlap_with(kernel):
    for cell in ("gru", "rnn", "lstmp"):
        assert ways_of(build(dataclasses.replace(CONFIG, cell=cell), 0)) == ("torch", "overlapped")
        assert ways_of(build(dataclasses.replace(CONFIG, cell=cell, layers=1), 0)) == ("torch",)
    for cell in ("lstm", "lstmor"):
        assert ways_of(build(dataclasses.replace(CONFIG, cell=cell), 0)) == GPU_LAYERS
        assert ways_of(build(dataclasses.replace(CONFIG, cell=cell, layers=1), 0)) == ("torch", "padded", "kernel")
    with pytest.raises(ValueError, match="a network of 2 x gru has no layers that are kernel"):
        set_way(build(dataclasses.replace(CONFIG, cell="gru"), 0), "kernel")


def test_a_way_replaces_the_one_before_it(kernel):
    model, module = build(CONFIG, 0), kernel()
    set_way(model, "kernel-overlapped")
    assert model.layers[1].way.func == module.kernel_lstm
    assert model.wavefront
    assert model.failures("cpu") is module.flag
    set_way(model, "padded")
    assert model.layers[1].way.func is padded_lstm
    assert model.layers[1].way.keywords == {"multiple": 128}
    assert model.wavefront is model.failures is None
    set_way(model, "torch")
    assert model.layers[0].way is None


def test_kernels_that_run_side_by_side_know_of_each_other(kernel):
    model, module = build(dataclasses.replace(CONFIG, layers=3), 0), kernel()
    for way, beside in (("kernel", 0), ("kernel-overlapped", 2)):
        set_way(model, way)
        model.loss(*BATCH, model.initial_state(N))
        assert module.beside == beside


def test_validation_is_torchs_whatever_the_way(kernel):
    def wrong(lstm, x, h, c):
        raise ValueError

    kernel(wrong)
    model = build(CONFIG, 0).eval()
    plain = model.loss(*BATCH, model.initial_state(N))[0]
    set_way(model, "kernel-overlapped")
    assert torch.equal(model.loss(*BATCH, model.initial_state(N))[0], plain)


# A kernel that gave up


def test_where_a_kernel_gave_up_nothing_is_learnt_and_the_loss_says_so(kernel):
    module, model = kernel(), build(CONFIG, 0)
    set_way(model, "kernel")
    step = Step(model, make_optimizer(model, SETTINGS), SETTINGS)
    outcome, state = step(*BATCH, model.initial_state(N), 0.01)
    assert outcome.isfinite().all()
    module.flag.fill_(1)
    before = [p.detach().clone() for p in model.parameters()]
    outcome, _ = step(*BATCH, state, 0.01)
    assert outcome[0].isnan()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
