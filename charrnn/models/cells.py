"""Recurrent cells behind one signature.

Every cell has

    forward(x: (N, T, D), state) -> (y: (N, T, output_size), state)    a sequence at once, as fast as torch can
    step(x: (N, D), state)       -> (y: (N, output_size), state)       one step, as its equations are written
    initial_state(n)             -> state                              zeros

and ``state`` is a tuple of (N, ·) tensors that is passed in and handed back, never kept. The equations below have
x_t (D,) and H units, and * multiplies element by element.

Weights begin as torch-rnn's do: normal with deviation 1/sqrt(D + the length of what is fed back), biases zero.
Where torch.nn has a second bias that would only learn the first one's gradient again, it stays zero and frozen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.models.config import FEEDBACK_LIMIT, UNIFORM
from charrnn.models.projected_lstm import projected_lstm

CellState = tuple[Tensor, ...]
Backend = Callable[..., tuple[Tensor, Tensor, Tensor]]  # (an LSTM, x: (N, T, D), h, c) -> y: (N, T, H), h, c
Linear = Callable[..., Tensor]  # (x: (N, D), weight: (M, D), bias: (M,) = None) -> (N, M)


class LSTM(nn.LSTM):
    """Long short-term memory without peepholes, as torch-rnn has it: state (h: (N, H), c: (N, H)).

        i, f, g, o = split(W x_t + U h_(t-1) + b)
        c_t = sigmoid(f) * c_(t-1) + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The gates lie
    in torch.nn's order, in ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, H) and ``bias_ih_l0`` (4H,).

    Parameters
    ----------
    forget_bias
        The forget gates' initial bias; "uniform": of each unit its own, from U(0, 1).
    """

    OPTIONS: tuple[str, ...] = ("forget_bias",)  # what it takes of a ModelConfig beside its sizes
    FROZEN: tuple[str, ...] = ("bias_hh_l0",)  # parameters that stay zero

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(
        self, input_size: int, hidden_size: int, forget_bias: float | str = 1.0, *, proj_size: int = 0
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, proj_size=proj_size)
        self.backend: Backend | None = None  # computes it in training; None: torch does (`charrnn.cuda.backends`)
        self.bias_hh_l0.requires_grad_(False)
        self.initialise(forget_bias)

    @property
    def output_size(self) -> int:
        """The length of an output, which is also what is fed back."""
        return self.proj_size or self.hidden_size

    def initialise(self, forget_bias: float | str) -> None:
        """torch-rnn's initial values: one (D+H) x 4H matrix from normal(0, 1/sqrt(D+H)), the biases zero but
        the forget gate's."""
        _initialise(self, self.output_size)
        with torch.no_grad():
            forget = self.bias_ih_l0[self.hidden_size : 2 * self.hidden_size]
            if forget_bias == UNIFORM:
                forget.uniform_(0, 1)
            else:
                forget.fill_(float(forget_bias))

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return (self.weight_hh_l0.new_zeros(n, self.output_size), self.weight_hh_l0.new_zeros(n, self.hidden_size))

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns y (N, T, output_size) and the state after the last step."""
        h, c = state
        if self.backend and self.training:
            y, h, c = self.backend(self, x, h, c)
            return y, (h, c)
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


class LSTMP(LSTM):
    """LSTM with a recurrent projection: state (r: (N, P), c: (N, H)), output r.

        i, f, g, o = split(W x_t + U r_(t-1) + b)
        c_t = sigmoid(f) * c_(t-1) + sigmoid(i) * tanh(g)
        r_t = R (sigmoid(o) * tanh(c_t))

    Sak, Senior and Beaufays 2014, without its peepholes and its second, non-recurrent projection: only P < H numbers
    go back and up, so that for the same parameters and work there are more memory cells.
    ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, P), ``weight_hr_l0`` (P, H), ``bias_ih_l0`` (4H,).
    W and U begin with deviation 1/sqrt(D + P), R with 1/sqrt(H), what it adds up.
    """

    OPTIONS = ("proj_size", "forget_bias")

    weight_hr_l0: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int, proj_size: int, forget_bias: float | str = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias, proj_size=proj_size)

    def initialise(self, forget_bias: float | str) -> None:
        """The LSTM's initial values, and the projection's."""
        super().initialise(forget_bias)
        with torch.no_grad():
            self.weight_hr_l0.normal_(0, self.hidden_size**-0.5)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns r (N, T, P) and the state after the last step."""
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return projected_lstm(x, state, (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.weight_hr_l0))
        with warnings.catch_warnings():  # on a CPU torch takes its own kernel instead of oneDNN's, and says so
            warnings.filterwarnings("ignore", "LSTM with projections is not supported")
            return super().forward(x, state)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """One step for x (N, D)."""
        h, (_, c) = super().step(x, state, linear)
        r = linear(h, self.weight_hr_l0)
        return r, (r, c)


class GRU(nn.GRU):
    """Gated recurrent unit in torch.nn's variant: state (h: (N, H),).

        r, z = sigmoid(split(W_rz x_t + b_rz + U_rz h_(t-1) + d_rz))
        n = tanh(W_n x_t + b_n + r * (U_n h_(t-1) + d_n))
        h_t = (1 - z) * n + z * h_(t-1)

    Cho, van Merriënboer, Gulcehre et al. 2014 reset before the product, U_n (r * h_(t-1)); after it, as here, U is one
    product with h. ``weight_ih_l0`` (3H, D), ``weight_hh_l0`` (3H, H), ``bias_ih_l0`` (3H,) and ``bias_hh_l0``
    (3H,), in the order r, z, n. Both biases learn: d_n stands within the reset and is no second b_n, and one
    that is half frozen would be neither torch's nor simpler.
    """

    OPTIONS: tuple[str, ...] = ()
    FROZEN: tuple[str, ...] = ()

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.output_size = hidden_size
        _initialise(self, hidden_size)

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return (self.weight_hh_l0.new_zeros(n, self.hidden_size),)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns h (N, T, H) and the state after the last step."""
        y, h = super().forward(x, state[0][None])
        return y, (h[0],)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """One step for x (N, D)."""
        (h,) = state
        from_x = linear(x, self.weight_ih_l0, self.bias_ih_l0).chunk(3, dim=1)
        from_h = linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk(3, dim=1)
        r = torch.sigmoid(from_x[0] + from_h[0])
        z = torch.sigmoid(from_x[1] + from_h[1])
        n = torch.tanh(from_x[2] + r * from_h[2])
        h = (1 - z) * n + z * h
        return h, (h,)


class RNN(nn.RNN):
    """The plain recurrent layer of torch-rnn's ``-model_type rnn``: state (h: (N, H),).

        h_t = tanh(W x_t + U h_(t-1) + b)

    Elman 1990. ``weight_ih_l0`` (H, D), ``weight_hh_l0`` (H, H) and ``bias_ih_l0`` (H,).
    """

    OPTIONS: tuple[str, ...] = ()
    FROZEN: tuple[str, ...] = ("bias_hh_l0",)

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="tanh", batch_first=True)
        self.output_size = hidden_size
        self.bias_hh_l0.requires_grad_(False)
        _initialise(self, hidden_size)

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return (self.weight_hh_l0.new_zeros(n, self.hidden_size),)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns h (N, T, H) and the state after the last step."""
        y, h = super().forward(x, state[0][None])
        return y, (h[0],)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """One step for x (N, D)."""
        h = torch.tanh(linear(x, self.weight_ih_l0, self.bias_ih_l0) + linear(state[0], self.weight_hh_l0))
        return h, (h,)


class RecurrentLinear(nn.Linear):
    """A linear layer that hears its own last output: state (y: (N, M),).

        y_t = W x_t + U y_(t-1) + b

    The recurrent output layer of Zen and Sak 2015; on top of LSTM layers it makes LSTMOR. ``weight`` (M, D), ``bias``
    (M,) and ``recurrent_weight`` (M, M), which is U but for rows whose absolute values add up to more than 0.99:
    those are scaled down to it.

    Without that limit nothing bounds y: Adam moves the M elements of a row by about its rate each, so that at 256
    symbols two iterations at 2e-3 make a U that grows with every step, and training ends in numbers without end.
    With it, no output ever comes to more than 100 times the largest of W x + b, however long one samples.

    W and b begin as any linear layer's, and U at zero, so that training starts from the same network as without
    it. U learns from the first iteration all the same: its gradient is the sum of (dL/dy_t) y_(t-1)'.
    """

    OPTIONS: tuple[str, ...] = ()
    FROZEN: tuple[str, ...] = ()

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.output_size = output_size
        self.recurrent_weight = nn.Parameter(torch.zeros(output_size, output_size))

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return (self.weight.new_zeros(n, self.output_size),)

    def scale(self) -> Tensor:
        """The factors (M,) of the rows of ``recurrent_weight`` that make it U."""
        return 1 / (self.recurrent_weight.abs().sum(dim=1) / FEEDBACK_LIMIT).clamp(min=1)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Run over x (N, T, D); returns y (N, T, M) and the state after the last step.

        W x + b is one product, only U is in the loop. Outputs add up in the state's precision also where the
        products are in bf16, whose rounding would otherwise go round with them.
        """
        (y,) = state
        scale = self.scale()
        outputs = []
        for fresh in super().forward(x).to(y.dtype).unbind(dim=1):
            y = fresh + functional.linear(y, self.recurrent_weight) * scale
            outputs.append(y)
        return torch.stack(outputs, dim=1), (y,)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """One step for x (N, D)."""
        y = linear(x, self.weight, self.bias) + linear(state[0], self.recurrent_weight) * self.scale()
        return y, (y,)


def _initialise(cell: nn.RNNBase, fed_back: int) -> None:
    """torch-rnn's initial values of a layer: weights from normal(0, 1/sqrt(D + what is fed back)), biases zero."""
    deviation = (cell.input_size + fed_back) ** -0.5
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0, deviation)


class Cell(Protocol):
    """What runs a step at a time."""

    def step(self, x: Tensor, state: CellState, linear: Linear = ...) -> tuple[Tensor, CellState]:
        """One step for x (N, D)."""


def unrolled(cell: Cell, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """``cell.forward`` step by step: slow, readable, and what the fast ones are tested against."""
    outputs = []
    for x_t in x.unbind(dim=1):
        y_t, state = cell.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


# By the names of --cell: the class of the recurrent layers. lstmor is LSTM layers under a RecurrentLinear.
CELLS: dict[str, type[LSTM | GRU | RNN]] = {"lstm": LSTM, "lstmp": LSTMP, "lstmor": LSTM, "gru": GRU, "rnn": RNN}
OUTPUTS = {"lstmor": RecurrentLinear}  # where the output layer is another than nn.Linear
