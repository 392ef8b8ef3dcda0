"""Reference engine: the network's own step in torch, for any cell."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn.engines.base import NO_SYMBOL, Engine, EngineState, first_symbols
from charrnn.engines.cpu.predictor import use_compiled
from charrnn.models.char_rnn import CharRNN
from charrnn.models.config import map_state

PRECISIONS = ("auto", "fp32", "bf16")
SCORE_STEPS = 512
LARGE = 1 << 18  # numbers in a matrix from which on it is packed for oneDNN

# Rows of the first blocks of streams, and of all further ones: streams 0-3, 4-15, 16-63, 64-127, 128-191 ... Each
# block reads all weights and computes all its rows: many small blocks repeat reads, and large ones waste products on
# unused rows. At 3x680, 4 rows need as long as one; with 64, reading is a fifth of the time (fp32; bf16: two fifths).
FIRST_BLOCKS = (4, 12, 48)
FURTHER_BLOCKS = 64


class EagerEngine(Engine):
    """Engine that runs a network step by step in torch; see `charrnn.engines.base.Engine`.

    A stream's symbols do not depend on the number of streams, to the last bit. The order in which a library adds up
    a matrix product depends on the number of rows, on alignment and on the number of threads. So stream k is always
    the same row of the same block, and a block has the same number of rows for any number of streams. Weights and state
    are in memory that torch allocates, which is aligned to 64 bytes.
    """

    def __init__(self, model: CharRNN, streams: int = 1, precision: str = "fp32") -> None:
        super().__init__(model.config, streams)
        self._model = model.eval()
        use_compiled(model)
        if precision not in PRECISIONS:
            raise InputError(f"the eager engine has no precision {precision}: it has {', '.join(PRECISIONS)}.")
        linear = _Linear(model, torch.bfloat16 if precision == "bf16" else torch.float32)
        self._blocks = [_Block(model, linear, own, rows) for own, rows in _shares(self.streams)]
        self.reset()

    @torch.inference_mode()
    def _prime(self, ids: NDArray[np.int64]) -> None:
        for block in self._blocks:
            block.prime(ids[block.own])

    @torch.inference_mode()
    def _run(self, u: NDArray[np.float32], temperatures: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.concatenate([block.run(u[:, block.own], temperatures[block.own]) for block in self._blocks])

    @torch.inference_mode()
    def _score(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        symbols = torch.from_numpy(np.array(ids))
        scores = torch.empty(symbols.shape[0], symbols.shape[1] - 1, dtype=torch.float64)
        max_symbols = self._model.max_symbols()
        for first in range(0, len(symbols), max_symbols):
            rows, own = symbols[first : first + max_symbols], scores[first : first + max_symbols]
            steps = max(1, min(SCORE_STEPS, max_symbols // len(rows)))
            state = self._model.initial_state(len(rows))
            for start in range(0, own.shape[1], steps):
                y = rows[:, start + 1 : start + 1 + steps]
                logits, state = self._model(rows[:, start : start + y.shape[1]], state)
                logs = functional.log_softmax(logits.double(), dim=2)
                own[:, start : start + steps] = logs.gather(2, y[:, :, None])[:, :, 0]
        return scores.numpy()

    @torch.inference_mode()
    def _logits(self) -> NDArray[np.float64]:
        return np.concatenate([block.logits() for block in self._blocks])

    def _get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        states, last = zip(*(block.get_state() for block in self._blocks), strict=True)
        return map_state(lambda *arrays: np.concatenate(arrays), *states), np.concatenate(last)

    def _set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        for block in self._blocks:
            block.set_state(map_state(operator.itemgetter(block.own), state), last[block.own])


def choose_symbols(logits: Tensor, u: Tensor, temperatures: Tensor) -> Tensor:
    """Return symbols (N,) for logits (N, V) by inverse CDF: the first ones whose cumulated probability exceeds u.

    u (N,) is float64 in [0, 1). Temperatures (N,), all 0, select the likeliest symbols.
    """
    return draw(logits, u, temperatures) if temperatures.any() else logits.argmax(dim=1)


def draw(logits: Tensor, u: Tensor, temperatures: Tensor) -> Tensor:
    """Draw symbols (N,) as `choose_symbols` does, at temperatures (N,) above 0."""
    logits = logits.double()
    weights = torch.exp(
        (logits - logits.amax(dim=1, keepdim=True)) / temperatures[:, None]
    )  # the largest is 1: no overflow
    cumulated = weights.cumsum(dim=1)
    border = (u * cumulated[:, -1])[:, None]
    return torch.searchsorted(cumulated, border, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def _shares(streams: int) -> Iterator[tuple[slice, int]]:
    """Return the streams and the number of rows of each block."""
    start, sizes = 0, chain(FIRST_BLOCKS, repeat(FURTHER_BLOCKS))
    while start < streams:
        rows = next(sizes)
        yield slice(start, min(start + rows, streams)), rows
        start += rows


class _Block:
    """n of an engine's streams in a fixed number of rows; unused rows repeat the last stream."""

    def __init__(self, model: CharRNN, linear: _Linear, own: slice, rows: int) -> None:
        self.own = own  # their indices among the engine's streams
        self._n = own.stop - own.start
        self._rows = rows
        self._model = model
        self._linear = linear

    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        for symbols in self._pad(ids, np.int64).T:
            self._read_last()
            self._last = symbols
            self._started = True

    def run(self, u: NDArray[np.float32], temperatures: NDArray[np.float64]) -> NDArray[np.int64]:
        own = self._pad(temperatures, np.float64)
        ids = torch.empty(self._rows, len(u), dtype=torch.int64)
        for t, u_t in enumerate(self._pad(u.T, np.float64).T):
            logits = self._read_last()
            if logits is None:
                self._last = torch.from_numpy(first_symbols(self._model.config, u_t.numpy()))
            else:
                self._last = choose_symbols(logits, u_t, own)
            self._started = True
            ids[:, t] = self._last
        return ids[: self._n].numpy()

    def logits(self) -> NDArray[np.float64]:
        """Return logits (n, V) after the last symbols; keep the state."""
        logits, _ = self._model.step(self._last, self._state, self._linear)
        return logits[: self._n].double().numpy()

    def get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        return map_state(lambda tensor: tensor[: self._n].float().numpy(), self._state), self._last[: self._n].numpy()

    def set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        self._state = map_state(lambda array: self._pad(array, np.float32), state)
        self._last = self._pad(last, np.int64)
        self._started = bool((self._last != NO_SYMBOL).all())

    def _read_last(self) -> Tensor | None:
        """Return logits (rows, V) after the last symbols, or None before the first symbol."""
        if not self._started:
            return None
        logits, self._state = self._model.step(self._last, self._state, self._linear)
        return logits

    def _pad(self, array: NDArray[Any], dtype: type[np.number[Any]]) -> Tensor:
        """Return an array (n, ...) as a tensor (rows, ...) in memory that torch allocates."""
        own = torch.from_numpy(np.array(array, dtype=dtype))
        return torch.cat([own, own[-1:].expand(self._rows - self._n, *own.shape[1:])])


class _Linear:
    """Matrix products in a precision, with copies of the weights.

    Large matrices are packed for oneDNN once, which makes products with one row faster than torch's. Small ones,
    and all on processors on which oneDNN has no such products, use torch's product. Those are copied, because tensors
    from a file may not be aligned.
    """

    def __init__(self, model: CharRNN, dtype: torch.dtype) -> None:
        self._dtype = dtype
        packs = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if packs and dtype == torch.bfloat16:
            packs = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        large = [p for p in model.parameters() if p.dim() == 2 and p.numel() >= LARGE] if packs else []
        self._packed: dict[Tensor, Tensor] = {
            p: torch.ops.mkldnn._reorder_linear_weight(p.detach().to(dtype), FIRST_BLOCKS[0]) for p in large
        }
        self._copied: dict[Tensor, Tensor] = {
            p: p.detach().to(dtype, copy=True) for p in model.parameters() if p not in self._packed
        }

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x.to(self._dtype)
        bias = None if bias is None else self._copied[bias]
        packed = self._packed.get(weight)
        if packed is None:
            return functional.linear(x, self._copied[weight], bias).float()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return y.float()
