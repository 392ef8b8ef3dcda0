"""Engine for one NVIDIA GPU: many steps at a time, by a persistent kernel or by torch's operations in a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bytecodec.arguments import check_choice
from bytecodec.console import log
from bytecodec.errors import InputError, first_line
from charrnn.cuda import graphs
from charrnn.cuda.graphs import Work
from charrnn.engines.base import NO_SYMBOL, Engine, EngineState, first_symbols, score_every_symbol
from charrnn.engines.cuda.graph_sampler import GraphSampler
from charrnn.models.char_rnn import CharRNN, copy_state
from charrnn.models.config import map_state
from charrnn.runtime import choose_precision

SCORE_ROWS = 256
PRECISIONS = ("auto", "fp32", "bf16")
BACKENDS = ("auto", "torch", "persistent")
SMOKE_TEST = 16  # symbols that the kernel must score as torch does before it is used
TOLERANCE = 0.05  # mean relative difference of 1 + |score|, many times that of rounding to bf16


class CudaEngine(Engine):
    """Engine that runs a network on a GPU; see `charrnn.engines.base.Engine`.

    Symbols, state and choice stay on the GPU, which receives a block of uniform numbers and returns a block of symbols.
    A stream's symbols can depend on the number of streams, at borders between two symbols, because products of
    different shapes add up in different orders.

    Weights and products are bf16 or fp32; auto is bf16 if the GPU multiplies it in hardware. Cells are fp32, and
    symbols are sampled in double precision.

    The backend is persistent (a kernel for lstm), torch (torch's operations in a CUDA graph, for any cell), or auto:
    persistent if it runs and scores a few symbols as torch does; otherwise a message gives the reason. Tests replace
    the device and the functions that run work before it is captured, and capture it.
    """

    def __init__(
        self,
        model: CharRNN,
        streams: int = 1,
        precision: str = "auto",
        backend: str = "auto",
        *,
        device: str = "cuda",
        warm_up: Callable[[Work], None] = graphs.warm_up_on_side_stream,
        capture: Callable[[Work], Work] = graphs.capture,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch finds no NVIDIA GPU here, which --engine cuda runs on: use --engine auto.")
        check_choice("backend", backend, BACKENDS)
        if precision not in PRECISIONS:
            raise InputError(f"the cuda engine has no precision {precision}: it has {', '.join(PRECISIONS)}.")
        super().__init__(model.config, streams)
        self._options: dict[str, Any] = {"device": device, "warm_up": warm_up, "capture": capture}
        self._precision = choose_precision(precision, "cuda")
        self._model = copy.deepcopy(model).to(device).eval()
        self._last = torch.full((self.streams,), NO_SYMBOL, device=device)
        self._temperatures = torch.ones(self.streams, dtype=torch.float64, device=device)
        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        self._arguments = (self._model, dtype, self._last, self._temperatures)  # of a sampler
        if backend == "auto" and model.config.reads_samples:
            backend = "torch"  # the persistent kernel is for networks that read symbols alone
        self._sampler: Any = self._persistent_or_none(backend) if backend != "torch" else None
        self.backend = "persistent" if self._sampler else "torch"
        self._sampler = self._sampler or GraphSampler(*self._arguments, warm_up, capture)
        self._state = self._sampler.state
        self.reset()

    def _persistent_or_none(self, backend: str) -> Any:
        """Return the kernel with this network, or None if auto cannot use it."""
        try:
            return self._persistent(smoke_test=backend == "auto")
        except InputError as error:
            if backend != "auto":
                raise
            log(f"{error} Sampling with torch's operations, which is several times slower.")
            return None

    def _persistent(self, smoke_test: bool) -> Any:
        try:
            from charrnn.engines.cuda import persistent
        except ImportError:
            raise InputError("the persistent kernel is written in Triton, which is not installed here.") from None
        except Exception as error:  # a Triton that is too old or too new
            raise InputError(f"the persistent kernel does not run with this Triton ({first_line(error)}).") from error
        config = self._model.config
        if not persistent.supports(self._model):
            size = f"{config.layers} {config.cell} layers of {config.rnn_size} and {config.vocab_size} symbols"
            if config.reads_samples:
                size += " that reads samples as numbers"
            raise InputError(f"the persistent kernel does not support a network of {size}.")
        if not smoke_test:
            return persistent.PersistentSampler(*self._arguments)
        try:
            sampler = persistent.PersistentSampler(*self._arguments)
            difference = self._difference(sampler)
        except Exception as error:  # any error of a compiler or a driver
            raise InputError(f"the persistent kernel does not run here ({first_line(error)}).") from error
        if not difference <= TOLERANCE:
            raise InputError(f"the persistent kernel's scores differ from torch's by {difference:.2g}.")
        return sampler

    def _difference(self, persistent: Any) -> float:
        """Return the mean relative difference of the kernel's scores from torch's; the streams change."""
        numbers = torch.arange(SMOKE_TEST * self.streams, device=self._last.device)
        symbols = numbers.view(SMOKE_TEST, -1) * 37 % self.vocab_size
        scores = []
        reference = GraphSampler(*self._arguments, warm_up=lambda work: None, capture=lambda work: work)
        for sampler in (reference, persistent):
            self._last.copy_(symbols[0])
            scores.append(sampler.run("read", symbols[1:]))
            sampler.check()
        return float(((scores[1] - scores[0]).abs() / (1 + scores[0].abs())).mean())

    def _prime(self, ids: NDArray[np.int64]) -> None:
        self._read(ids)

    def _run(self, u: NDArray[np.float32], temperatures: NDArray[np.float64]) -> NDArray[np.int64]:
        if not len(u):
            return np.empty((self.streams, 0), dtype=np.int64)
        numbers = self._to_device(u, np.float64)
        kind = "draw" if temperatures.any() else "likeliest"
        self._temperatures.copy_(torch.from_numpy(temperatures))
        first = []
        if not self._started:
            self._begin(self._to_device(first_symbols(self._config, u[0]), np.int64))
            first.append(self._last[None].clone())
        ids = self._sampler.run(kind, numbers[len(first) :])
        symbols = np.ascontiguousarray(torch.cat([*first, ids]).T.cpu().numpy())
        self._sampler.check()
        return symbols

    def _score(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute the scores by the same products as when sampling."""
        scores = np.empty((len(ids), ids.shape[1] - 1))
        for start in range(0, len(ids), SCORE_ROWS):
            rows = ids[start : start + SCORE_ROWS]
            scores[start : start + SCORE_ROWS] = self._with_streams(len(rows))._read(rows)
        return scores

    def _logits(self) -> NDArray[np.float64]:
        return score_every_symbol(self._score_after, *self._get_state(), self.vocab_size)

    def _score_after(self, state: EngineState, last: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        engine = self._with_streams(len(ids))
        engine._set_state(state, last)
        return engine._read(ids)

    def _with_streams(self, streams: int) -> CudaEngine:
        """Return another engine with the same network and settings and its own streams."""
        return CudaEngine(self._model, streams, self._precision, self.backend, **self._options)

    def _get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        return map_state(lambda tensor: np.array(tensor.cpu().numpy()), self._state), np.array(self._last.cpu().numpy())

    def _set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        copy_state(map_state(lambda array: self._to_device(array, np.float32), state), self._state)
        self._last.copy_(self._to_device(last, np.int64))
        self._started = bool((np.asarray(last) != NO_SYMBOL).all())

    def _begin(self, symbols: Tensor) -> None:
        self._last.copy_(symbols)
        self._started = True

    def _read(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Read ids (N, P); return their log-probabilities, except for the first one if no symbol precedes it."""
        if not ids.shape[1]:
            return np.empty((self.streams, 0))
        symbols = self._to_device(ids.T, np.int64)
        first = int(not self._started)
        if first:
            self._begin(symbols[0])
        scores = np.asarray(self._sampler.run("read", symbols[first:]).T.cpu().numpy())
        self._sampler.check()
        return scores

    def _to_device(self, array: NDArray[Any], dtype: type[np.number[Any]]) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=dtype)).to(self._options["device"])
