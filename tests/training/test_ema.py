"""Averaged weights are the average that they are said to be, and trade places with the trained ones."""

import pytest
import torch
from torch import nn

from charrnn.training.ema import EMA


def weights(*values):
    return {"w": nn.Parameter(torch.tensor(values, dtype=torch.float64))}


def test_it_is_the_exponential_average_written_out():
    parameters = weights(0.0, 1.0)
    average = EMA(parameters, 0.5)
    wanted = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for t in range(1, 30):
        parameters["w"].data.copy_(torch.tensor([t, t * t], dtype=torch.float64))
        average.update(t)
        decay = min(0.5, t / (t + 9))
        wanted = decay * wanted + (1 - decay) * torch.tensor([t, t * t], dtype=torch.float64)
        torch.testing.assert_close(average.tensors["w"], wanted)


def test_the_initial_weights_are_soon_forgotten_however_far_it_reaches_back():
    parameters = weights(1000.0)
    average = EMA(parameters, 0.9999)
    parameters["w"].data.zero_()
    for t in range(1, 100):
        average.update(t)
    assert average.tensors["w"].item() < 1e-6


def test_weights_that_stand_still_are_their_own_average():
    parameters = weights(3.0, -4.0)
    average = EMA(parameters, 0.9)
    for t in range(1, 20):
        average.update(t)
    torch.testing.assert_close(average.tensors["w"], parameters["w"].detach())


def test_within_the_block_the_network_has_the_averaged_weights_and_after_it_its_own():
    parameters = weights(2.0)
    average = EMA(parameters, 0.9)
    parameters["w"].data.fill_(5.0)
    own = parameters["w"]
    with average.in_place():
        assert parameters["w"] is own
        assert own.item() == 2
    assert own.item() == 5
    assert average.tensors["w"].item() == 2
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert own.item() == 5
