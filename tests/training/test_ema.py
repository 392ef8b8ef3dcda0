"""The moving average of weights."""

import pytest
import torch
from torch import nn

from charrnn.training.ema import EMA


def weights(*values):
    return {"w": nn.Parameter(torch.tensor(values, dtype=torch.float64))}


def test_it_is_the_exponential_average_written_out():
    parameters = weights(0.0, 1.0)
    ema = EMA(parameters, 0.5)
    expected = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for t in range(1, 30):
        parameters["w"].data.copy_(torch.tensor([t, t * t], dtype=torch.float64))
        ema.update(t)
        decay = min(0.5, t / (t + 9))
        expected = decay * expected + (1 - decay) * torch.tensor([t, t * t], dtype=torch.float64)
        torch.testing.assert_close(ema.tensors["w"], expected)


def test_the_initial_weights_soon_lose_their_influence_however_high_the_decay_is():
    parameters = weights(1000.0)
    ema = EMA(parameters, 0.9999)
    parameters["w"].data.zero_()
    for t in range(1, 100):
        ema.update(t)
    assert ema.tensors["w"].item() < 1e-6


def test_the_network_has_the_averaged_weights_within_the_block_and_its_own_after_it():
    parameters = weights(2.0)
    ema = EMA(parameters, 0.9)
    parameters["w"].data.fill_(5.0)
    own = parameters["w"]
    with ema.applied():
        assert parameters["w"] is own
        assert own.item() == 2
    assert own.item() == 5
    assert ema.tensors["w"].item() == 2
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert own.item() == 5
