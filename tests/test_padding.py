"""Layers padded with zero units compute what they compute without them, and the zeros stay zeros."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from charrnn import checkpoint as files
from charrnn.cells import LSTM
from charrnn.model import ModelConfig, build
from charrnn.padding import padded_lstm, padded_weights, up

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)
N, T = 3, 9
NEAR = {"atol": 2e-6, "rtol": 1e-5}


def pad_layers(model, multiple):
    for layer in model.layers:
        layer.way = partial(padded_lstm, multiple=multiple)


def pair(config=CONFIG, multiple=16):
    """The same network twice: as it is, and padded."""
    plain, padded = build(config, seed=0), build(config, seed=0)
    pad_layers(padded, multiple)
    return plain, padded


def batch(seed=0, n=N):
    return torch.randint(7, (2, n, T), generator=torch.Generator().manual_seed(seed))


def random_state(model, n=N):
    generator = torch.Generator().manual_seed(9)
    return tuple(tuple(torch.randn(t.shape, generator=generator) for t in layer) for layer in model.initial_state(n))


def tensors(state):
    return [tensor for layer in state for tensor in layer]


def is_pad(weight, lstm, multiple):
    """Where a padded tensor is not the layer's own: a mask of its shape."""
    units, inputs = up(lstm.hidden_size, multiple), up(lstm.input_size, multiple)
    rows = torch.arange(weight.shape[0]) % units >= lstm.hidden_size
    if weight.dim() == 1:
        return rows
    own = lstm.input_size if weight.shape[1] == inputs and weight.shape[1] != units else lstm.hidden_size
    return rows[:, None] | (torch.arange(weight.shape[1]) >= own)


@pytest.mark.parametrize(("size", "multiple", "least"), [(680, 128, 768), (768, 128, 768), (1, 128, 128), (5, 1, 5)])
def test_sizes_are_rounded_up(size, multiple, least):
    assert up(size, multiple) == least


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, layer_norm=True), replace(CONFIG, cell="lstmor")])
def test_logits_loss_state_and_gradients_are_those_of_the_network_as_it_is(config):
    x, y = batch()
    results = []
    for model in pair(config):
        logits, state = model(x, random_state(model))
        loss, _ = model.loss(x, y, random_state(model))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)
        results.append([logits, loss, *tensors(state), *gradients])
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, **NEAR)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([2, 8, 128]), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_whatever_the_sizes_the_function_is_the_same(n, inputs, units, multiple, seed):
    torch.manual_seed(seed)
    lstm = LSTM(inputs, units)
    x, h, c = torch.randn(n, 4, inputs), torch.rand(n, units) * 2 - 1, torch.randn(n, units)
    y, (h_end, c_end) = lstm(x, (h, c))
    for found, wanted in zip(padded_lstm(lstm, x, h, c, multiple), (y, h_end, c_end), strict=True):
        torch.testing.assert_close(found, wanted, **NEAR)


def test_padded_units_their_states_and_all_gradients_of_them_are_exactly_zero():
    lstm = LSTM(5, 6)
    weights = [weight.detach().requires_grad_() for weight in padded_weights(lstm, 16)]
    x = functional.pad(torch.randn(N, 50, 5), (0, 11)).requires_grad_()
    state = [functional.pad(s, (0, 10))[None].requires_grad_() for s in (torch.rand(N, 6) - 0.5, torch.randn(N, 6))]
    y, h, c = torch.lstm(x, state, weights, True, 1, 0.0, True, False, True)
    for tensor in (y, h, c):
        assert (tensor[..., 6:] == 0).all()
        assert (tensor[..., :6] != 0).all()
    out = torch.randn(16)  # even what reads the padded outputs with other weights than zero finds nothing there
    (functional.pad(out[:6], (0, 10)) * y).sum().backward()
    for weight in weights:
        pad = is_pad(weight, lstm, 16)
        assert (weight[pad] == 0).all()
        assert (weight.grad[pad] == 0).all()
        assert (weight.grad[~pad] != 0).any()
    for tensor in (x, *state):
        assert (tensor.grad[..., 6:] == 0).all() or tensor is x
    assert (x.grad[..., 5:] == 0).all()


@pytest.mark.parametrize("clip", ["value", "norm"])
def test_units_that_were_padded_once_and_for_all_stay_zero_under_adam_and_clipping(clip):
    """The same with the padding as part of the weights: a whole network of such layers, trained."""
    torch.manual_seed(0)
    own, padded = nn.ModuleList([LSTM(5, 6), LSTM(6, 6)]), nn.ModuleList([LSTM(16, 16), LSTM(16, 16)])
    for lstm, wide in zip(own, padded, strict=True):
        for p, weight in zip(wide.parameters(), padded_weights(lstm, 16), strict=True):
            p.data = weight.detach().clone()
    x, y = torch.randn(N, T, 5), torch.randn(N, T, 6)
    losses = []
    for layers, width in ((own, 6), (padded, 16)):
        learnt = [p for p in layers.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        for _ in range(30):
            z = functional.pad(x, (0, width - 5)) if width > 6 else x
            for layer in layers:
                z, _ = layer(z, layer.initial_state(N))
            loss = functional.mse_loss(z[..., :6], y)
            optimizer.zero_grad()
            loss.backward()
            if clip == "value":
                nn.utils.clip_grad_value_(learnt, 1e-3)
            else:
                nn.utils.clip_grad_norm_(learnt, 1e-2)
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for lstm, wide in zip(own, padded, strict=True):
        for name, p in wide.named_parameters():
            pad = is_pad(p, lstm, 16)
            assert (p[pad] == 0).all(), name
            if p.requires_grad:
                assert (optimizer.state[p]["exp_avg_sq"][pad] == 0).all(), name
                assert (p[~pad] != 0).any(), name


@pytest.mark.parametrize("clip", ["value", "norm"])
def test_thirty_adam_steps_with_the_state_carried_are_those_of_the_network_as_it_is(clip):
    losses, models = [], pair()
    for model in models:
        learnt = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=0.003, fused=True)
        state = model.initial_state(N)
        for i in range(30):
            loss, state = model.loss(*batch(i), state)
            state = tuple(tuple(t.detach() for t in layer) for layer in state)
            optimizer.zero_grad()
            loss.backward()
            if clip == "value":
                nn.utils.clip_grad_value_(learnt, 0.02)
            else:
                nn.utils.clip_grad_norm_(learnt, 0.1)
            optimizer.step()
            losses.append(loss.item())
    assert losses[30:] == pytest.approx(losses[:30], rel=1e-4)
    assert math.isfinite(losses[-1])
    for plain, padded in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(padded, plain, atol=1e-3, rtol=1e-3)


def test_in_bf16_it_is_as_near_to_fp32_as_the_network_as_it_is():
    """flash-attention's rule: at most twice the error of plain low precision."""
    x, _ = batch()
    plain, padded = pair()
    exact = plain(x, plain.initial_state(N))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = [(model(x, model.initial_state(N))[0] - exact).abs().max() for model in (plain, padded)]
    assert 0 < errors[1] <= 2 * errors[0]


def test_a_checkpoint_of_a_padded_network_holds_the_weights_as_they_are(tmp_path, tiny_checkpoint):
    pad_layers(tiny_checkpoint.model, 128)
    files.save(tmp_path / "padded", tiny_checkpoint)
    shapes = {name: tuple(t.shape) for name, t in files.model_tensors(files.load(tmp_path / "padded").model).items()}
    assert shapes["layers.0.weight_ih_l0"] == (24, 5)
    assert shapes["layers.1.weight_hh_l0"] == (24, 6)
