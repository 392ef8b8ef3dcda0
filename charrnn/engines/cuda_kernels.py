"""Kernels in Triton for LSTM networks a symbol at a time: one a layer, one for the logits, one for the choice.

A program of `layer` computes some units of a layer whole, gates, cell and output, so that nothing but h passes between
kernels. What a kernel reads twice lies in the GPU's L2 cache: all weights of a network of 3 x 680 in bf16 are 19 MB.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from charrnn.model import CharRNN
from charrnn.padding import up

UNITS = 4  # of a program: with their four gates, the 16 columns that a product of tensor cores has at least
COLUMNS = 16
INPUTS = 128  # of a step of a program's loop
MOST_ROWS = 64  # streams of a program
MOST_SYMBOLS = 4096
DRAW, LIKELIEST, READ = 0, 1, 2
NUMBERS = {"draw": DRAW, "likeliest": LIKELIEST, "read": READ}


@triton.jit
def _moments(x, rows, n, size, ROWS: tl.constexpr, INPUTS: tl.constexpr, EPSILON: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Mean and 1 / deviation of rows (n, size)."""
    total = tl.zeros((ROWS, 1), tl.float32)
    for start in range(0, size, INPUTS):
        k = start + tl.arange(0, INPUTS)
        inside = (rows[:, None] < n) & (k[None, :] < size)
        total += tl.sum(tl.load(x + rows[:, None] * size + k[None, :], mask=inside, other=0.0), 1)[:, None]
    mean = total / size
    squares = tl.zeros((ROWS, 1), tl.float32)
    for start in range(0, size, INPUTS):
        k = start + tl.arange(0, INPUTS)
        inside = (rows[:, None] < n) & (k[None, :] < size)
        away = tl.where(inside, tl.load(x + rows[:, None] * size + k[None, :], mask=inside, other=0.0) - mean, 0.0)
        squares += tl.sum(away * away, 1)[:, None]
    return mean, 1 / tl.sqrt(squares / size + EPSILON)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    total,
    x,
    weight,
    rows,
    columns,
    n,
    size,
    pitch,
    width,
    mean,
    scale,
    ROWS: tl.constexpr,  # noqa: N803
    INPUTS: tl.constexpr,  # noqa: N803
):
    """Total (rows, columns) plus (x - mean) * scale (n, size) times weight (width, pitch)', zeros beyond size: so that
    weights, which are nearly all that is read, are read sixteen bytes at a time."""
    for start in range(0, size, INPUTS):
        k = start + tl.arange(0, INPUTS)
        inside = (rows[:, None] < n) & (k[None, :] < size)
        some = tl.load(x + rows[:, None] * size + k[None, :], mask=inside, other=0.0)
        some = tl.where(inside, (some - mean) * scale, 0.0)
        w = tl.load(weight + columns[None, :] * pitch + k[:, None], mask=columns[None, :] < width, other=0.0)
        total = tl.dot(some.to(w.dtype), w, total, input_precision="ieee")
    return total


@triton.jit
def _layer(  # type: ignore[no-untyped-def]
    base,  # (·, 4H) fp32: of each symbol its gates, or one row, the biases
    base_stride,
    last,  # (n,)
    x,  # (n, H) fp32
    w,  # (4H, pitch), a unit's four gates one after another
    h,  # (n, H) fp32
    u,  # (4H, pitch)
    h_new,
    c,  # (n, H) fp32, in place
    n,
    units,
    pitch,
    EPSILON: tl.constexpr,  # noqa: N803
    NORMED: tl.constexpr,  # noqa: N803
    BELOW: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    INPUTS: tl.constexpr,  # noqa: N803
):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * 4 * UNITS + tl.arange(0, 4 * UNITS)
    here = (rows[:, None] < n) & (columns[None, :] < 4 * units)
    symbols = tl.load(last + rows, mask=rows < n, other=0)
    gates = tl.load(base + symbols[:, None] * base_stride + columns[None, :], mask=here, other=0.0)
    mean, scale = tl.zeros((ROWS, 1), tl.float32), tl.full((ROWS, 1), 1.0, tl.float32)
    gates = _product(gates, h, u, rows, columns, n, units, pitch, 4 * units, mean, scale, ROWS, INPUTS)
    if BELOW:
        if NORMED:
            mean, scale = _moments(x, rows, n, units, ROWS, INPUTS, EPSILON)
        gates = _product(gates, x, w, rows, columns, n, units, pitch, 4 * units, mean, scale, ROWS, INPUTS)
    even, odd = tl.split(tl.reshape(gates, (ROWS, UNITS, 2, 2)))  # i and g; f and o
    i, g = tl.split(even)
    f, o = tl.split(odd)
    own = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    inside = (rows[:, None] < n) & (own[None, :] < units)
    place = rows[:, None] * units + own[None, :]
    cell = tl.sigmoid(f) * tl.load(c + place, mask=inside, other=0.0) + tl.sigmoid(i) * (2 * tl.sigmoid(2 * g) - 1)
    tl.store(c + place, cell, mask=inside)
    tl.store(h_new + place, tl.sigmoid(o) * (2 * tl.sigmoid(2 * cell) - 1), mask=inside)


@triton.jit
def _logits(  # type: ignore[no-untyped-def]
    x,  # (n, H) fp32
    weight,  # (V, pitch)
    bias,  # (V,) fp32
    logits,  # (n, V) fp32
    n,
    units,
    pitch,
    symbols,
    EPSILON: tl.constexpr,  # noqa: N803
    NORMED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    INPUTS: tl.constexpr,  # noqa: N803
):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mean, scale = tl.zeros((ROWS, 1), tl.float32), tl.full((ROWS, 1), 1.0, tl.float32)
    if NORMED:
        mean, scale = _moments(x, rows, n, units, ROWS, INPUTS, EPSILON)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total += tl.load(bias + columns, mask=columns < symbols, other=0.0)[None, :]
    total = _product(total, x, weight, rows, columns, n, units, pitch, symbols, mean, scale, ROWS, INPUTS)
    inside = (rows[:, None] < n) & (columns[None, :] < symbols)
    tl.store(logits + rows[:, None] * symbols + columns[None, :], total, mask=inside)


@triton.jit
def _choice(  # type: ignore[no-untyped-def]
    logits,  # (n, V) fp32
    feed,  # (n,) float64 numbers in [0, 1), or int64 symbols
    temperature,  # one, float64
    last,  # (n,) int64
    ids,  # (n,) int64
    scores,  # (n,) float64
    symbols,
    KIND: tl.constexpr,  # noqa: N803
    SYMBOLS: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    k = tl.arange(0, SYMBOLS)
    x = tl.load(logits + row * symbols + k, mask=k < symbols, other=-float("inf")).to(tl.float64)
    x = x - tl.max(x, 0)
    if KIND == 0:
        p = tl.where(k < symbols, tl.exp(x / tl.load(temperature)), 0.0)
        totals = tl.cumsum(p, 0)
        border = tl.load(feed + row) * tl.max(totals, 0)
        symbol = tl.sum((totals <= border).to(tl.int64), 0)
        symbol = tl.minimum(symbol, symbols - 1)
    elif KIND == 1:
        symbol = tl.min(tl.where(x == 0.0, k, symbols), 0).to(tl.int64)
    else:
        symbol = tl.load(feed + row)
        p = tl.where(k < symbols, tl.exp(x), 0.0)
        score = tl.sum(tl.where(k == symbol, x, 0.0), 0) - tl.log(tl.sum(p, 0))
        tl.store(scores + row, score)
    tl.store(last + row, symbol)
    tl.store(ids + row, symbol)


def suits(model: CharRNN) -> bool:
    """Whether the kernels run such a network."""
    return model.config.cell == "lstm" and model.config.vocab_size <= MOST_SYMBOLS


class Kernels:
    """A network packed for the kernels, and the memory that they work in.

    Normalisation is folded into what reads it: W (gamma * z + beta) + b = (W gamma) z + (W beta + b). So is the
    embedding into the first layer: E W' + b has the gates of every symbol.

    Parameters
    ----------
    model
        On its device.
    dtype
        Of the weights: bf16 or fp32.
    """

    def __init__(self, model: CharRNN, streams: int, dtype: torch.dtype) -> None:
        config = model.config
        self._n, self._units, self._symbols = streams, config.rnn_size, config.vocab_size
        self._pitch = up(config.rnn_size, INPUTS)
        self._normed = config.layer_norm
        self._epsilon = model.norms[0].eps if self._normed else 0.0
        self._rows = min(MOST_ROWS, max(16, triton.next_power_of_2(streams)))
        self._layers = [self._packed(model, i, dtype) for i in range(config.layers)]
        weight, bias = self._folded(model, model.output.weight, model.output.bias, config.layers)
        self._output = _wide(weight, dtype), bias
        device = bias.device
        self._logits = torch.empty(streams, config.vocab_size, device=device)
        self._beside = [torch.empty(streams, config.rnn_size, device=device) for _ in range(config.layers)]

    def _folded(self, model: CharRNN, weight: Tensor, bias: Tensor, above: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of what reads the layer below number ``above``, with its normalisation."""
        if not self._normed:
            return weight.detach(), bias.detach().clone()
        norm: Any = model.norms[above - 1]
        return (weight * norm.weight).detach(), (bias + weight @ norm.bias).detach()

    def _packed(self, model: CharRNN, i: int, dtype: torch.dtype) -> tuple[Tensor, int, Tensor, Tensor]:
        """Of a layer: where its gates start from, the distance of its rows there, and W and U."""
        layer: Any = model.layers[i]
        w, u, bias = layer.weight_ih_l0.detach(), layer.weight_hh_l0.detach(), layer.bias_ih_l0
        if i == 0:
            base = (model.embedding.weight @ w.T + bias).detach()
            return _by_unit(base.T).T.contiguous(), base.shape[1], u[:0], _wide(_by_unit(u), dtype)
        w, bias = self._folded(model, w, bias, i)
        return _by_unit(bias[:, None])[:, 0].contiguous(), 0, _wide(_by_unit(w), dtype), _wide(_by_unit(u), dtype)

    def step(self, state: Any, last: Tensor, beside: bool = False) -> Tensor:
        """Read the last symbols (n,); returns logits (n, V).

        Cells change in place. Outputs must not, while others still read them: ``beside`` says whether the last ones are
        in the kernels' own memory, and the new ones go to the state, or the other way round.
        """
        blocks = triton.cdiv(self._n, self._rows)
        x = self._beside[0]  # of which the first layer reads nothing
        for (base, stride, w, u), (h, c), other in zip(self._layers, state, self._beside, strict=True):
            old, new = (other, h) if beside else (h, other)
            below = w.shape[0] > 0
            _layer[(triton.cdiv(self._units, UNITS), blocks)](
                *(base, stride, last, x, w, old, u, new, c, self._n, self._units, self._pitch, self._epsilon),
                *(self._normed, below, self._rows, UNITS, INPUTS),
            )
            x = new
        weight, bias = self._output
        _logits[(triton.cdiv(self._symbols, COLUMNS), blocks)](
            *(x, weight, bias, self._logits, self._n, self._units, self._pitch, self._symbols),
            *(self._epsilon, self._normed),
            *(self._rows, COLUMNS, INPUTS),
        )
        return self._logits

    def settle(self, state: Any) -> None:
        """Bring outputs that are in the kernels' own memory into the state."""
        for (h, _), other in zip(state, self._beside, strict=True):
            h.copy_(other)

    def choose(
        self, kind: str, logits: Tensor, feed: Tensor, temperature: Tensor, last: Tensor, ids: Tensor, scores: Tensor
    ) -> None:
        """The next symbols to ``last`` and ``ids`` (n,): drawn by numbers, the likeliest, or those of the feed."""
        _choice[(self._n,)](
            *(logits, feed, temperature, last, ids, scores, self._symbols),
            *(NUMBERS[kind], triton.next_power_of_2(self._symbols)),
        )


def _by_unit(gates: Tensor) -> Tensor:
    """Rows (4H, ·), gate after gate, as unit after unit."""
    return gates.view(4, -1, gates.shape[1]).transpose(0, 1).reshape(gates.shape).contiguous()


def _wide(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows end in zeros, up to where a loop's last step ends."""
    more = up(weight.shape[1], INPUTS) - weight.shape[1]
    return functional.pad(weight.to(dtype), (0, more)).contiguous()
