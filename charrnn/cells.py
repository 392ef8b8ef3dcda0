"""Recurrent cells behind one signature.

Every cell has

    forward(x: (N, T, D), state) -> (y: (N, T, H), state)      a sequence at once, as fast as torch can
    step(x: (N, D), state)       -> (y: (N, H), state)         one step, as its equations are written
    initial_state(n)             -> state                      zeros

and ``state`` is a tuple of (N, ·) tensors that is passed in and handed back, never kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CellState = tuple[Tensor, ...]
Linear = Callable[..., Tensor]  # (x: (N, D), weight: (M, D), bias: (M,) = None) -> (N, M)


class LSTM(nn.LSTM):
    """Long short-term memory without peepholes, as torch-rnn has it: state (h: (N, H), c: (N, H)).

        i, f, g, o = split(W x_t + U h_(t-1) + b)
        c_t = sigmoid(f) * c_(t-1) + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The gates lie
    in torch.nn's order, in ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, H) and ``bias_ih_l0`` (4H,).
    torch.nn.LSTM has a second bias, which would only learn the first one's gradient again: it stays zero.
    """

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.bias_hh_l0.requires_grad_(False)
        self.initialise(forget_bias)

    def initialise(self, forget_bias: float) -> None:
        """torch-rnn's initial values: one (D+H) x 4H matrix from normal(0, 1/sqrt(D+H)), the biases zero but
        the forget gate's."""
        deviation = (self.input_size + self.hidden_size) ** -0.5
        with torch.no_grad():
            self.weight_ih_l0.normal_(0, deviation)
            self.weight_hh_l0.normal_(0, deviation)
            self.bias_ih_l0.zero_()
            self.bias_hh_l0.zero_()
            self.bias_ih_l0[self.hidden_size : 2 * self.hidden_size] = forget_bias

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return (self.weight_hh_l0.new_zeros(n, self.hidden_size), self.weight_hh_l0.new_zeros(n, self.hidden_size))

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns y (N, T, H) and the state after the last step."""
        h, c = state
        y, (h, c) = super().forward(x, (h[None], c[None]))
        return y, (h[0], c[0])

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """One step for x (N, D). ``linear`` does the matrix products, so that an engine can bring its own."""
        h, c = state
        gates = linear(x, self.weight_ih_l0, self.bias_ih_l0) + linear(h, self.weight_hh_l0)
        i, f, g, o = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


def unrolled(cell: LSTM, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """``cell.forward`` step by step: slow, readable, and what the fast ones are tested against."""
    outputs = []
    for x_t in x.unbind(dim=1):
        y_t, state = cell.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


CELLS = {"lstm": LSTM}
