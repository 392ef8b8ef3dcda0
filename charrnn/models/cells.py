"""Recurrent cells with one signature.

Every cell has

    forward(x: (N, T, D), state) -> (y: (N, T, output_size), state)    a sequence at once, by torch's fast kernels
    step(x: (N, D), state)       -> (y: (N, output_size), state)       one step, as its equations are written
    initial_state(n)             -> state                              zeros

The state is a tuple of (N, ·) tensors. It is an argument and a result, never an attribute. The equations below have
x_t (D,) and H units, and * multiplies element by element.

Weights are initialised as in torch-rnn: normal with standard deviation 1/sqrt(D + recurrent size), biases zero. A
second bias of torch.nn whose gradient would equal that of the first stays zero and frozen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.models.config import FEEDBACK_LIMIT, UNIFORM
from charrnn.models.projected_lstm import projected_lstm

CellState = tuple[Tensor, ...]
LayerFunction = Callable[..., tuple[Tensor, Tensor, Tensor]]  # (an LSTM, x: (N, T, D), h, c) -> y: (N, T, H), h, c
Linear = Callable[..., Tensor]  # (x: (N, D), weight: (M, D), bias: (M,) = None) -> (N, M)


class _TorchCell(nn.RNNBase):
    """Base class of the cells that use torch.nn. Its state is the last output alone, as of GRU and RNN."""

    OPTIONS: tuple[str, ...] = ()  # fields of a ModelConfig that it uses besides its sizes
    FROZEN: tuple[str, ...] = ("bias_hh_l0",)  # parameters that stay zero

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    @property
    def output_size(self) -> int:
        """The length of an output, which is also the recurrent size."""
        return self.proj_size or self.hidden_size

    def initialise(self) -> None:
        """Set torch-rnn's initial values: weights from normal(0, 1/sqrt(D + recurrent size)), biases zero."""
        std = (self.input_size + self.output_size) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name not in self.FROZEN)
                if name.startswith("bias"):
                    parameter.zero_()
                else:
                    parameter.normal_(0, std)

    def initial_state(self, n: int) -> CellState:
        """Return zeros for n streams."""
        return (self.weight_hh_l0.new_zeros(n, self.hidden_size),)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Return the outputs h (N, T, H) for x (N, T, D), and the state after them."""
        y, h = super().forward(x, state[0][None])
        return y, (h[0],)


class LSTM(_TorchCell, nn.LSTM):
    """Long short-term memory without peepholes, as in torch-rnn: state (h: (N, H), c: (N, H)).

        i, f, g, o = split(W x_t + U h_(t-1) + b)
        c_t = sigmoid(f) * c_(t-1) + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The gates are in
    torch.nn's order, in ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, H) and ``bias_ih_l0`` (4H,).
    The forget gates' initial bias is ``forget_bias``; "uniform" draws it from U(0, 1) for each unit.
    """

    OPTIONS: tuple[str, ...] = ("forget_bias",)

    def __init__(
        self, input_size: int, hidden_size: int, forget_bias: float | str = 1.0, *, proj_size: int = 0
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, proj_size=proj_size)
        self.training_function: LayerFunction | None = None  # computes it in training mode; None for torch
        self.forget_bias = forget_bias
        self.initialise()

    def initialise(self) -> None:
        super().initialise()
        with torch.no_grad():
            forget = self.bias_ih_l0[self.hidden_size : 2 * self.hidden_size]
            if self.forget_bias == UNIFORM:
                forget.uniform_(0, 1)
            else:
                forget.fill_(float(self.forget_bias))

    def initial_state(self, n: int) -> CellState:
        return (self.weight_hh_l0.new_zeros(n, self.output_size), self.weight_hh_l0.new_zeros(n, self.hidden_size))

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Return the outputs y (N, T, output_size) for x (N, T, D), and the state after them."""
        h, c = state
        if self.training_function and self.training:
            y, h, c = self.training_function(self, x, h, c)
            return y, (h, c)
        y, (h, c) = nn.LSTM.forward(self, x, (h[None], c[None]))
        return y, (h[0], c[0])

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        """Return y (N, output_size) and the state after one step for x (N, D), with ``linear`` for matrix products."""
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

    Sak, Senior and Beaufays 2014, without peepholes and the second, non-recurrent projection. Output and recurrent size
    are P < H, so that the same number of parameters gives more memory cells.
    ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, P), ``weight_hr_l0`` (P, H), ``bias_ih_l0`` (4H,).
    W and U are initialised with standard deviation 1/sqrt(D + P), R with 1/sqrt(H).
    """

    OPTIONS = ("proj_size", "forget_bias")

    weight_hr_l0: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int, proj_size: int, forget_bias: float | str = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias, proj_size=proj_size)

    def initialise(self) -> None:
        super().initialise()
        with torch.no_grad():
            self.weight_hr_l0.normal_(0, self.hidden_size**-0.5)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return projected_lstm(x, state, (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.weight_hr_l0))
        with warnings.catch_warnings():  # on a CPU torch warns that it does not use oneDNN
            warnings.filterwarnings("ignore", "LSTM with projections is not supported")
            return super().forward(x, state)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        h, (_, c) = super().step(x, state, linear)
        r = linear(h, self.weight_hr_l0)
        return r, (r, c)


class GRU(_TorchCell, nn.GRU):  # type: ignore[misc]
    """Gated recurrent unit in torch.nn's variant: state (h: (N, H),).

        r, z = sigmoid(split(W_rz x_t + b_rz + U_rz h_(t-1) + d_rz))
        n = tanh(W_n x_t + b_n + r * (U_n h_(t-1) + d_n))
        h_t = (1 - z) * n + z * h_(t-1)

    Cho, van Merriënboer, Gulcehre et al. 2014 apply the reset before the product, U_n (r * h_(t-1)). Here it is applied
    after it, so that U h is one product. ``weight_ih_l0`` (3H, D), ``weight_hh_l0`` (3H, H), ``bias_ih_l0`` (3H,) and
    ``bias_hh_l0`` (3H,), in the order r, z, n. Both biases are trained: d_n is inside the reset and differs from b_n.
    """

    FROZEN = ()

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.initialise()

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        (h,) = state
        from_x = linear(x, self.weight_ih_l0, self.bias_ih_l0).chunk(3, dim=1)
        from_h = linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk(3, dim=1)
        r = torch.sigmoid(from_x[0] + from_h[0])
        z = torch.sigmoid(from_x[1] + from_h[1])
        n = torch.tanh(from_x[2] + r * from_h[2])
        h = (1 - z) * n + z * h
        return h, (h,)


class RNN(_TorchCell, nn.RNN):  # type: ignore[misc]
    """The plain recurrent layer of torch-rnn's ``-model_type rnn``: state (h: (N, H),).

        h_t = tanh(W x_t + U h_(t-1) + b)

    Elman 1990. ``weight_ih_l0`` (H, D), ``weight_hh_l0`` (H, H) and ``bias_ih_l0`` (H,).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="tanh", batch_first=True)
        self.initialise()

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        h = torch.tanh(linear(x, self.weight_ih_l0, self.bias_ih_l0) + linear(state[0], self.weight_hh_l0))
        return h, (h,)


class RecurrentLinear(nn.Linear):
    """A linear layer whose last output is also an input: state (y: (N, M),).

        y_t = W x_t + U y_(t-1) + b

    The recurrent output layer of Zen and Sak 2015; on top of LSTM layers it makes LSTMOR. ``weight`` (M, D), ``bias``
    (M,) and ``recurrent_weight`` (M, M). U is ``recurrent_weight`` after rows whose absolute values add up to more than
    0.99 are scaled down to that sum.

    Without the limit y can diverge: Adam moves each of the M elements of a row by about its rate, so that with 256
    symbols two iterations at 2e-3 make an unstable U. With it, no output exceeds 100 times the maximum of W x + b.

    W and b are initialised as in any linear layer, and U is zero, so that training starts from the same network as
    without it. The gradient of U, the sum of (dL/dy_t) y_(t-1)', is not zero.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.output_size = output_size
        self.recurrent_weight = nn.Parameter(torch.zeros(output_size, output_size))

    def initial_state(self, n: int) -> CellState:
        return (self.weight.new_zeros(n, self.output_size),)

    def scale(self) -> Tensor:
        """Return the factors (M,) of the rows of ``recurrent_weight`` in U."""
        return 1 / (self.recurrent_weight.abs().sum(dim=1) / FEEDBACK_LIMIT).clamp(min=1)

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:  # type: ignore[override]
        """Return the outputs y (N, T, M) for x (N, T, D), and the state after them.

        W x + b is one product; only U is in the loop. Sums have the precision of the state even if the products are in
        bf16, whose rounding errors would accumulate.
        """
        (y,) = state
        scale = self.scale()
        outputs = []
        for from_x in super().forward(x).to(y.dtype).unbind(dim=1):
            y = from_x + functional.linear(y, self.recurrent_weight) * scale
            outputs.append(y)
        return torch.stack(outputs, dim=1), (y,)

    def step(self, x: Tensor, state: CellState, linear: Linear = functional.linear) -> tuple[Tensor, CellState]:
        y = linear(x, self.weight, self.bias) + linear(state[0], self.recurrent_weight) * self.scale()
        return y, (y,)


# Classes of the recurrent layers by the names of --cell. lstmor is LSTM layers with a RecurrentLinear.
CELLS: dict[str, type[LSTM | GRU | RNN]] = {"lstm": LSTM, "lstmp": LSTMP, "lstmor": LSTM, "gru": GRU, "rnn": RNN}
OUTPUTS = {"lstmor": RecurrentLinear}  # classes of output layers that are not nn.Linear
