"""LSTM layers with a projection on a CPU equal the reference, forward and backward."""

import pytest
import torch
from unrolled import unrolled

from charrnn.models.cells import LSTMP
from charrnn.models.projected_lstm import projected_lstm

N, T, D, H, P = 3, 5, 4, 6, 2  # rows, steps, inputs, units, outputs


def layer_and_inputs(dtype=torch.float64, steps=T):
    torch.manual_seed(0)
    layer = LSTMP(D, H, P).to(dtype)
    layer.bias_ih_l0.data.normal_()
    x, r, c = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((N, steps, D), (N, P), (N, H)))
    return layer, x, (r, c)


def weights(layer):
    return layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.weight_hr_l0


def gradients(run, layer, x, state):
    """Return the gradients of a loss of all outputs and both final states."""
    y, (r, c) = run(x, state)
    loss = (y * torch.arange(y.numel()).view(y.shape).sin()).sum() + r.cos().sum() + (c * c).sum()
    return torch.autograd.grad(loss, [*weights(layer), x, *state])


@pytest.mark.parametrize("steps", [1, T])
def test_the_gradients_are_the_numerical_ones(steps):
    layer, x, state = layer_and_inputs(steps=steps)

    def run(x, r, c, *weights):
        y, after = projected_lstm(x, (r, c), weights)
        return y, *after

    assert torch.autograd.gradcheck(run, (x, *state, *weights(layer)))


def test_outputs_states_and_gradients_equal_those_of_single_steps():
    layer, x, state = layer_and_inputs()
    y, after = projected_lstm(x, state, weights(layer))
    expected, expected_after = unrolled(layer, x, state)
    torch.testing.assert_close((y, *after), (expected, *expected_after))
    found = gradients(lambda x, s: projected_lstm(x, s, weights(layer)), layer, x, state)
    torch.testing.assert_close(found, gradients(lambda x, s: unrolled(layer, x, s), layer, x, state))


def test_training_and_sampling_give_the_same_results():
    layer, x, state = layer_and_inputs(torch.float32)
    trained, trained_after = layer(x, state)
    assert trained.requires_grad
    with torch.no_grad():
        sampled, sampled_after = layer(x, state)
    torch.testing.assert_close((trained, *trained_after), (sampled, *sampled_after))


def test_under_autocast_products_are_in_bf16_and_sums_over_the_steps_are_not():
    layer, x, state = layer_and_inputs(torch.float32, 200)
    exact, exact_after = layer(x, state)
    with torch.autocast("cpu", torch.bfloat16):
        y, after = layer(x, state)
    assert y.dtype == torch.bfloat16
    assert [s.dtype for s in after] == [torch.float32] * 2
    torch.testing.assert_close((y.float(), *after), (exact, *exact_after), atol=0.03, rtol=0.03)
    (y.float() - exact).square().sum().backward()
    assert all(w.grad.dtype == torch.float32 and w.grad.isfinite().all() for w in weights(layer))


def test_inputs_without_gradients_get_none():
    layer, x, state = layer_and_inputs()
    y, _ = layer(x.detach(), tuple(s.detach() for s in state))
    y.sum().backward()
    assert x.grad is None
    assert all(w.grad is not None for w in weights(layer))


def test_each_thread_of_the_pool_uses_one_thread_and_torchs_number_is_unchanged(monkeypatch):
    layer, x, state = layer_and_inputs()
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("charrnn.models.projected_lstm._forward", lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        layer(x, state)
        assert seen == [1, 1]
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        layer(x, state)
        assert seen == [1, 1, 1]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [2, 8])
def test_gradients_are_the_same_for_any_number_of_threads(threads):
    layer, x, state = layer_and_inputs()
    before = torch.get_num_threads()
    found = []
    for count in (1, threads):
        torch.set_num_threads(count)
        found.append(gradients(layer, layer, x, state))
    torch.set_num_threads(before)
    torch.testing.assert_close(*found)
