"""The reference engine: the network's own step in torch, for any cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.engines import NOTHING, EngineState
from charrnn.model import CharRNN

SCORE_STEPS = 512
BLOCK = 4  # rows that are computed together, at the least
LARGE = 1 << 18  # numbers in a matrix from which on laying it out anew pays


class EagerEngine:
    """Runs a network step by step in torch; see `charrnn.engines.Engine` for what it does.

    A stream's symbols do not hang on how many streams run beside it, to the last bit: the matrix products
    take a whole number of blocks of rows, so that a row is always added up in the same order.
    """

    def __init__(self, model: CharRNN, streams: int = 1, precision: str = "fp32") -> None:
        self.streams = streams
        self.vocab_size = model.config.vocab_size
        self._model = model.eval()
        self._linear = _PackedLinear(model, torch.bfloat16 if precision == "bf16" else torch.float32)
        self._rows = -(-streams // BLOCK) * BLOCK
        self.reset()

    def reset(self) -> None:
        """Back to the zero state with no last symbol."""
        self._state = self._model.initial_state(self._rows)
        self._last = torch.full((self._rows,), NOTHING)
        self._started = False

    @torch.inference_mode()
    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        """Read ids (N, P)."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.shape[0] != self.streams:
            raise ValueError(f"ids of {ids.shape[0]} streams for an engine of {self.streams}")
        for symbols in ids.T:
            self._read_last()
            self._last = self._padded(torch.from_numpy(symbols.copy()))
            self._started = True

    @torch.inference_mode()
    def run(self, u: NDArray[np.float32], temperature: float) -> NDArray[np.int64]:
        """The next symbols (N, T) for uniform numbers u (T, N)."""
        chosen = []
        for u_t in self._padded(torch.from_numpy(np.array(u, dtype=np.float64).T)).T:
            logits = self._read_last()
            if logits is None:
                self._last = (u_t * self.vocab_size).long()
            else:
                self._last = choose(logits, u_t, temperature)
            self._started = True
            chosen.append(self._last)
        return torch.stack(chosen, dim=1)[: self.streams].numpy() if chosen else np.empty((self.streams, 0), np.int64)

    @torch.inference_mode()
    def score(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Log-probabilities (N, T-1) of ids (N, T) after the first."""
        symbols = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        state = self._model.initial_state(symbols.shape[0])
        scores = []
        for start in range(0, symbols.shape[1] - 1, SCORE_STEPS):
            x, y = symbols[:, start : start + SCORE_STEPS], symbols[:, start + 1 : start + SCORE_STEPS + 1]
            logits, state = self._model(x[:, : y.shape[1]], state)
            scores.append(functional.log_softmax(logits.double(), dim=2).gather(2, y[:, :, None])[:, :, 0])
        return torch.cat(scores, dim=1).numpy() if scores else np.empty((symbols.shape[0], 0))

    def get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        """Hidden state and last symbols (N,)."""
        own = slice(self.streams)
        state = tuple(tuple(tensor[own].float().numpy().copy() for tensor in layer) for layer in self._state)
        return state, self._last[own].numpy().copy()

    def set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        """Go on from what `get_state` gave."""
        self._state = tuple(
            tuple(self._padded(torch.from_numpy(np.array(array, dtype=np.float32))) for array in layer)
            for layer in state
        )
        self._last = self._padded(torch.from_numpy(np.array(last, dtype=np.int64)))
        self._started = bool((self._last != NOTHING).all())

    def _read_last(self) -> Tensor | None:
        """Logits (rows, V) after the last symbols, or None where there are none yet."""
        if not self._started:
            return None
        logits, self._state = self._model.step(self._last, self._state, self._linear)
        return logits

    def _padded(self, tensor: Tensor) -> Tensor:
        """A tensor (N, ...) with rows added, copies of the last one, up to whole blocks."""
        missing = self._rows - self.streams
        return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor


def choose(logits: Tensor, u: Tensor, temperature: float) -> Tensor:
    """Symbols (N,) by inverse CDF: the first whose cumulated probability exceeds u.

    Parameters
    ----------
    logits
        (N, V).
    u
        (N,) float64 in [0, 1).
    temperature
        0: the likeliest symbol.
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    logits = logits.double()
    weights = torch.exp((logits - logits.amax(dim=1, keepdim=True)) / temperature)  # the largest is 1: no overflow
    cumulated = weights.cumsum(dim=1)
    border = (u * cumulated[:, -1])[:, None]
    return torch.searchsorted(cumulated, border, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


class _PackedLinear:
    """Matrix products of rows that come out the same to the last bit however many rows there are.

    Large matrices are laid out for oneDNN once, which is 2.5 times as fast at one row as torch's own product
    (docs/benchmarks.md): that one reads them in an order that suits many rows. Small ones, where the call
    itself is what costs, and those on other processors take torch's own. Both have kernels for a few rows that
    add in another order; from a multiple of `BLOCK` on, all rows were measured to come out the same.
    """

    def __init__(self, model: CharRNN, dtype: torch.dtype) -> None:
        self._dtype = dtype
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        large = [p for p in model.parameters() if p.dim() == 2 and p.numel() >= LARGE] if has_onednn else []
        self._packed: dict[Tensor, Tensor] = {
            p: torch.ops.mkldnn._reorder_linear_weight(p.detach().to(dtype), BLOCK) for p in large
        }

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.to(self._dtype)
        packed = self._packed.get(weight)
        if packed is None:
            return functional.linear(x.to(self._dtype), weight.to(self._dtype), bias).float()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), packed, bias, "none", [], "")
        return y.float()
