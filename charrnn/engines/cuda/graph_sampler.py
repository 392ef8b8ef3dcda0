"""Sampling by torch's operations, many steps in one CUDA graph, for networks of any cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bytecodec.console import log
from bytecodec.errors import first_line
from charrnn.cuda import graphs
from charrnn.cuda.graphs import Work
from charrnn.engines.eager import draw
from charrnn.models.char_rnn import CharRNN, copy_state
from charrnn.models.samples import SampleReader

STEPS = 64  # per graph


class GraphSampler:
    """Network in torch's operations, with the state of its streams.

    ``dtype`` is that of weights and products. `run` updates ``last`` (n,). ``warm_up`` runs work before ``capture``
    captures it.
    """

    def __init__(
        self,
        model: CharRNN,
        dtype: torch.dtype,
        last: Tensor,
        temperatures: Tensor,
        warm_up: Callable[[Work], None] = graphs.warm_up_on_side_stream,
        capture: Callable[[Work], Work] = graphs.capture,
    ) -> None:
        self._model, self._last, self._temperatures = model, last, temperatures
        self._warm_up, self._capture = warm_up, capture
        self._weights: dict[Tensor, Tensor] = {p: p.detach().to(dtype) for p in model.parameters()}
        self._replays: dict[tuple[str, int], Work] = {}
        self.state = model.initial_state(len(last))
        self._numbers = torch.zeros(STEPS, len(last), dtype=torch.float64, device=last.device)
        self._symbols, self._ids = (torch.zeros_like(self._numbers, dtype=torch.int64) for _ in range(2))
        self._scores = torch.zeros_like(self._numbers)
        self._predictor = self._step_predictor()

    @torch.no_grad()
    def run(self, kind: str, feed: Tensor) -> Tensor:
        """Run a step for each row of the feed (T, n), by graphs of `STEPS` steps, and the rest one by one.

        See `charrnn.engines.cuda.persistent.PersistentSampler.run`.
        """
        inputs, outputs = (self._symbols, self._scores) if kind == "read" else (self._numbers, self._ids)
        results = torch.empty(feed.shape, dtype=outputs.dtype, device=feed.device)
        self._begin_predictions()
        done = 0
        while done < len(feed):
            count = STEPS if len(feed) - done >= STEPS else 1
            inputs[:count].copy_(feed[done : done + count])
            self._replay(kind, count)()
            results[done : done + count].copy_(outputs[:count])
            done += count
        return results

    def check(self) -> None:
        """Do nothing: torch itself raises errors of the GPU."""

    def _replay(self, kind: str, count: int) -> Work:
        """Return a function that runs `count` steps; it is captured at first use."""
        if (kind, count) not in self._replays:

            def work() -> None:
                for t in range(count):
                    self._step(kind, t)

            tensors = [*(tensor for layer in self.state for tensor in layer), self._last]
            saved = [tensor.clone() for tensor in tensors]
            self._warm_up(work)  # this changes the streams
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
            self._begin_predictions()
            self._replays[kind, count] = self._capture(work)
        return self._replays[kind, count]

    def _step_predictor(self) -> Any:
        """Return the kernel that predicts one sample at a time, or None if there is nothing to predict or no kernel."""
        predictors = self._model.config.predictors
        if not predictors:
            return None
        reader = self._model.samples = SampleReader(self._model.config)  # not another sampler's predictor
        samples, phase = self.state[-1][:2]
        try:
            from charrnn.cuda.predictor import StepPredictor

            predictor = StepPredictor(predictors, len(samples), samples.device)
            predictor.begin(samples, phase[:, 0])
        except Exception as error:  # no Triton, or any error of a compiler or a driver
            log(f"the kernel for linear prediction cannot be used here ({first_line(error)}): sampling is slower.")
            return None
        reader.predict = predictor
        return predictor

    def _begin_predictions(self) -> None:
        if self._predictor:
            samples, phase = self.state[-1][:2]
            self._predictor.begin(samples, phase[:, 0])

    def _step(self, kind: str, t: int) -> None:
        logits, state = self._model.step(self._last, self.state, self._linear)
        copy_state(state, self.state)
        if kind == "read":
            symbols = self._symbols[t]
            log_p = functional.log_softmax(logits.double(), dim=1)
            self._scores[t].copy_(log_p.gather(1, symbols[:, None])[:, 0])
        else:
            likeliest = kind == "likeliest"
            symbols = logits.argmax(dim=1) if likeliest else draw(logits, self._numbers[t], self._temperatures)
            self._ids[t].copy_(symbols)
        self._last.copy_(symbols)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        own = self._weights[weight]
        return functional.linear(x.to(own.dtype), own, None if bias is None else self._weights[bias]).float()
