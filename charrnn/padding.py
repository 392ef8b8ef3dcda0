"""LSTM layers computed with more units than they have: zeros, which stay zeros, where a GPU's kernels want round sizes.

A padded unit has zero weights in and out, a zero bias and a zero state, so that i = f = o = 1/2 and g = 0 in it: its
c_t = c_(t-1) / 2 + 0 / 2 and its h_t = tanh(c_t) / 2 are exactly zero at every step. Nothing that is exact changes for
the units beside it, and no gradient reaches it: what flows into h_t is multiplied by zero weights, and the gradient
of a weight out of it is multiplied by h_t. A padded row, a stream of zeros, does compute something, but nothing is
read from it, so that the gradient of everything in it is zero.

The padding is made anew from the weights in every iteration, and is no part of them: weights, Adam's moments, gradients
and files are those of the network as it is.

Why: torch (aten/src/ATen/native/cudnn/RNN.cpp, get_algo) takes cuDNN's persistent LSTM only for one layer in fp16 whose
inputs and units are multiples of 128, 1024 units at most, and for rows that are a multiple of 8, 128 at most. In fp16
they are: under autocast torch casts what cuDNN's recurrent layers get to fp16 (aten/src/ATen/cudnn/AutocastRNN.cpp).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from charrnn.cells import LSTM

GATES = 4
ROWS = 8  # to a multiple of which the rows are padded, as well


def up(size: int, multiple: int) -> int:
    """The least multiple that is not less than a size."""
    return -(-size // multiple) * multiple


def padded_weights(lstm: LSTM, multiple: int) -> list[Tensor]:
    """Weights and biases of a layer with padded inputs D' and units H': (4H', D'), (4H', H'), (4H',), (4H',)."""
    units = up(lstm.hidden_size, multiple) - lstm.hidden_size
    inputs = up(lstm.input_size, multiple) - lstm.input_size
    weights: list[Tensor] = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]
    padded = []
    for weight, columns in zip(weights, (inputs, units, None, None), strict=True):
        gates = weight.view(GATES, lstm.hidden_size, *weight.shape[1:])  # each gate's rows lie together
        ends = (0, units) if columns is None else (0, columns, 0, units)
        padded.append(functional.pad(gates, ends).flatten(0, 1))
    return padded


def padded_lstm(lstm: LSTM, x: Tensor, h: Tensor, c: Tensor, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (N, T, H) of a layer for x (N, T, D), and its state (h, c) after them, (N, H), by way of a padded one."""
    n, units = h.shape
    more = up(n, ROWS) - n
    x = functional.pad(x, (0, up(lstm.input_size, multiple) - lstm.input_size, 0, 0, 0, more))
    state = [functional.pad(s, (0, up(units, multiple) - units, 0, more))[None] for s in (h, c)]
    with warnings.catch_warnings():  # on a GPU, that the weights do not lie end to end: they are new ones each time
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        y, h, c = torch.lstm(
            x, state, padded_weights(lstm, multiple), True, 1, 0.0, lstm.training, False, lstm.batch_first
        )
    return y[:n, :, :units], h[0, :n, :units], c[0, :n, :units]
