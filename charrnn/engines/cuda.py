"""One NVIDIA GPU: many steps at a time as one CUDA graph, in plain torch or by kernels of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn import graphs
from charrnn.engines import NOTHING, EngineState
from charrnn.engines.eager import draw
from charrnn.graphs import Work
from charrnn.model import CharRNN

STEPS = 64  # of a graph; even, see `Kernels.step`
SCORE_ROWS = 256
PRECISIONS = ("auto", "fp32", "bf16")
WAYS = ("auto", "torch", "kernels")


class CudaEngine:
    """Runs a network on a GPU; see `charrnn.engines.Engine` for what it does.

    Symbols, state and choice stay on the GPU: it is given a block of uniform numbers and gives a block of symbols. A
    stream's symbols can hang on how many streams run beside it, at borders between two, because products of different
    shapes add up in different orders.

    Parameters
    ----------
    precision
        Of weights and products, bf16 or fp32 (auto: bf16); the state and the choice are exact as in the eager engine.
    way
        kernels (`charrnn.engines.cuda_kernels`, for lstm), torch (any cell), or auto: kernels where there are any.
    device, aside, record
        Where it runs, and how work is recorded there; for tests.

    Raises
    ------
    InputError
        There is no GPU, or the kernels cannot run such a network.
    """

    def __init__(
        self,
        model: CharRNN,
        streams: int = 1,
        precision: str = "auto",
        way: str = "auto",
        *,
        device: str = "cuda",
        aside: Callable[[Work], None] = graphs.aside,
        record: Callable[[Work], Work] = graphs.recorded,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch finds no NVIDIA GPU here, which --engine cuda runs on: use --engine auto.")
        if precision not in PRECISIONS:
            raise InputError(f"the cuda engine has no precision {precision}: it takes {', '.join(PRECISIONS)}.")
        self.streams, self.vocab_size = streams, model.config.vocab_size
        self._options: dict[str, Any] = {"device": device, "aside": aside, "record": record}
        self._precision = "bf16" if precision == "auto" else precision
        self._model = copy.deepcopy(model).to(device).eval()
        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        self._kernels = self._made_kernels(way, dtype)
        self.way = "kernels" if self._kernels else "torch"
        self._weights: dict[Tensor, Tensor] = {p: p.detach().to(dtype) for p in self._model.parameters()}
        self._aside, self._record = aside, record
        self._replays: dict[tuple[str, int], Work] = {}
        self._state = self._model.initial_state(streams)
        self._last = torch.full((streams,), NOTHING, device=device)
        self._numbers = torch.zeros(STEPS, streams, dtype=torch.float64, device=device)
        self._symbols, self._ids = (torch.zeros(STEPS, streams, dtype=torch.int64, device=device) for _ in range(2))
        self._scores = torch.zeros_like(self._numbers)
        self._temperature = torch.ones((), dtype=torch.float64, device=device)
        self._started = False

    def _made_kernels(self, way: str, dtype: torch.dtype) -> Any:
        if way == "torch":
            return None
        try:
            from charrnn.engines import cuda_kernels
        except ImportError:
            if way == "kernels":
                raise InputError("the kernels are written in Triton, which is not installed here.") from None
            return None
        if cuda_kernels.suits(self._model):
            return cuda_kernels.Kernels(self._model, self.streams, dtype)
        if way == "kernels":
            raise InputError(f"the kernels run no such network as this one of {self._model.config.cell} layers.")
        return None

    def reset(self) -> None:
        """Back to the zero state with no last symbol."""
        for layer in self._state:
            for tensor in layer:
                tensor.zero_()
        self._last.fill_(NOTHING)
        self._started = False

    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        """Read ids (N, P)."""
        self._check("ids", len(ids))
        self._read(ids)

    def run(self, u: NDArray[np.float32], temperature: float) -> NDArray[np.int64]:
        """The next symbols (N, T) for uniform numbers u (T, N)."""
        self._check("numbers", u.shape[1])
        if not len(u):
            return np.empty((self.streams, 0), dtype=np.int64)
        numbers = self._there(u, np.float64)
        ids = torch.empty(numbers.shape, dtype=torch.int64, device=numbers.device)
        first = int(not self._started)
        if first:
            self._begin((numbers[0] * self.vocab_size).long())
            ids[0] = self._last
        self._temperature.fill_(temperature or 1.0)
        self._advance("draw" if temperature else "likeliest", numbers[first:], self._numbers, self._ids, ids[first:])
        return np.ascontiguousarray(ids.T.cpu().numpy())

    def score(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Log-probabilities (N, T-1) of ids (N, T) after the first, by the same products as those that symbols are
        chosen by."""
        scores = np.empty((len(ids), max(0, ids.shape[1] - 1)))
        for start in range(0, len(ids), SCORE_ROWS):
            some = ids[start : start + SCORE_ROWS]
            engine = CudaEngine(self._model, len(some), self._precision, self.way, **self._options)
            scores[start : start + SCORE_ROWS] = engine._read(some)
        return scores

    def get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        """Hidden state and last symbols (N,)."""
        state = tuple(tuple(np.array(tensor.cpu().numpy()) for tensor in layer) for layer in self._state)
        return state, np.array(self._last.cpu().numpy())

    def set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        """Go on from what `get_state` gave."""
        self._check("a state", len(last))
        for layer, arrays in zip(self._state, state, strict=True):
            for tensor, array in zip(layer, arrays, strict=True):
                tensor.copy_(self._there(array, np.float32))
        self._last.copy_(self._there(last, np.int64))
        self._started = bool((np.asarray(last) != NOTHING).all())

    def _begin(self, symbols: Tensor) -> None:
        self._last.copy_(symbols)
        self._started = True

    def _read(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Read ids (N, P); returns the log-probabilities of all but a first one that nothing comes before."""
        if not ids.shape[1]:
            return np.empty((self.streams, 0))
        symbols = self._there(ids.T, np.int64)
        first = int(not self._started)
        if first:
            self._begin(symbols[0])
        scores = torch.empty(len(symbols) - first, self.streams, dtype=torch.float64, device=symbols.device)
        self._advance("read", symbols[first:], self._symbols, self._scores, scores)
        return np.asarray(scores.T.cpu().numpy())

    @torch.no_grad()
    def _advance(self, kind: str, feed: Tensor, place: Tensor, found: Tensor, results: Tensor) -> None:
        """A step for each row of what it is fed: by graphs of many steps as long as there are so many."""
        done = 0
        while done < len(feed):
            count = STEPS if len(feed) - done >= STEPS else 1
            place[:count].copy_(feed[done : done + count])
            self._replay(kind, count)()
            results[done : done + count].copy_(found[:count])
            done += count

    def _replay(self, kind: str, count: int) -> Work:
        """What does so many steps; it is recorded when it is first asked for."""
        if (kind, count) not in self._replays:

            def work() -> None:
                self._steps(kind, count)

            kept = [tensor.clone() for tensor in self._changing()]
            self._aside(work)  # which spoils what the streams are
            for tensor, value in zip(self._changing(), kept, strict=True):
                tensor.copy_(value)
            self._replays[kind, count] = self._record(work)
        return self._replays[kind, count]

    def _changing(self) -> list[Tensor]:
        return [*(tensor for layer in self._state for tensor in layer), self._last]

    def _steps(self, kind: str, count: int) -> None:
        feed = self._symbols if kind == "read" else self._numbers
        for t in range(count):
            if self._kernels:
                logits = self._kernels.step(self._state, self._last, beside=t % 2 == 1)
                outputs = self._ids[t], self._scores[t]
                self._kernels.choose(kind, logits, feed[t], self._temperature, self._last, *outputs)
            else:
                self._step(kind, t)
        if self._kernels and count % 2:
            self._kernels.settle(self._state)

    def _step(self, kind: str, t: int) -> None:
        logits, state = self._model.step(self._last, self._state, self._linear)
        for layer, new in zip(self._state, state, strict=True):
            for tensor, value in zip(layer, new, strict=True):
                tensor.copy_(value)
        if kind == "read":
            symbols = self._symbols[t]
            log_p = functional.log_softmax(logits.double(), dim=1)
            self._scores[t].copy_(log_p.gather(1, symbols[:, None])[:, 0])
        else:
            likeliest = kind == "likeliest"
            symbols = logits.argmax(dim=1) if likeliest else draw(logits, self._numbers[t], self._temperature)
            self._ids[t].copy_(symbols)
        self._last.copy_(symbols)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        own = self._weights[weight]
        return functional.linear(x.to(own.dtype), own, None if bias is None else self._weights[bias]).float()

    def _there(self, array: NDArray[Any], dtype: type[np.number[Any]]) -> Tensor:
        """An array on the device."""
        return torch.from_numpy(np.array(array, dtype=dtype)).to(self._options["device"])

    def _check(self, what: str, n: int) -> None:
        if n != self.streams:
            raise ValueError(f"{what} of {n} streams for an engine of {self.streams}")
