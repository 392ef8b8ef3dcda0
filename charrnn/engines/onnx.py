"""onnxruntime engine, for machines on which the compiled engine was not built."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.engines.base import NO_SYMBOL, Engine, EngineState, Ids, exponentials
from charrnn.models.config import ModelConfig, check_finite, named_state, state_of
from charrnn.storage import onnx_export

Floats = NDArray[np.float32]

PRECISIONS = ("auto", "int8", "fp32")


class OnnxEngine(Engine):
    """Engine that runs the step of a network in onnxruntime; see `charrnn.engines.base.Engine`.

    The network has any cell, and reads symbols alone.

    With int8, the default, inputs of products are rounded to 8 bits between the smallest and the largest number of an
    array. So that streams do not depend on each other, each is computed alone: N streams need N times as long as one.
    """

    def __init__(
        self,
        tensors: Mapping[str, Floats],
        config: ModelConfig,
        streams: int = 1,
        precision: str = "auto",
        threads: int = 0,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"the onnx engine has no precision {precision}: it has {', '.join(PRECISIONS)}.")
        if config.reads_samples:
            raise InputError("the onnx engine runs no networks that read samples as numbers: use --engine auto.")
        check_finite(tensors)
        super().__init__(config, streams)
        self._session = _session(tensors, config, precision, threads)
        names = [output.name for output in self._session.get_outputs()]
        self._state_names = [name.removeprefix(onnx_export.NEW) for name in names[1:]]  # after the logits
        self.reset()

    def _prime(self, ids: Ids) -> None:
        for symbols in ids.T:
            self._read_last()
            self._last = symbols.copy()

    def _run(self, u: Floats, temperatures: NDArray[np.float64]) -> Ids:
        ids = np.empty((self.streams, len(u)), dtype=np.int64)
        for t, u_t in enumerate(u.astype(np.float64)):
            logits = self._read_last()
            if logits is None:
                self._last = (u_t * self.vocab_size).astype(np.int64)
            else:
                self._last = choose_symbols(logits, u_t, temperatures)
            ids[:, t] = self._last
        return ids

    def _score(self, ids: Ids) -> NDArray[np.float64]:
        scores = np.empty((len(ids), ids.shape[1] - 1))
        for row, own in zip(scores, ids, strict=True):
            (feed,) = self._feeds(self._zero_state(1))
            for t in range(len(row)):
                logits = self._step(feed, own[t : t + 1])[0].astype(np.float64)
                logits -= logits.max()
                row[t] = logits[own[t + 1]] - np.log(np.exp(logits).sum())
        return scores

    def _logits(self) -> NDArray[np.float64]:
        logits = [self._step(dict(feed), self._last[k : k + 1]) for k, feed in enumerate(self._streams)]
        return np.concatenate(logits).astype(np.float64)

    def _get_state(self) -> tuple[EngineState, Ids]:
        arrays = {name: np.concatenate([feed[name] for feed in self._streams]) for name in self._state_names}
        return state_of(arrays, self._hidden_sizes), self._last.copy()

    def _set_state(self, state: EngineState, last: Ids) -> None:
        self._streams = self._feeds(state)
        self._last = last

    def _feeds(self, state: EngineState) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays (1, ·) of each stream's state by the model's names."""
        return [{name: array[k : k + 1] for name, array in named_state(state).items()} for k in range(len(state[0][0]))]

    def _read_last(self) -> Floats | None:
        """Return logits (N, V) after the last symbols, or None before the first symbol."""
        if (self._last == NO_SYMBOL).any():
            return None
        return np.concatenate([self._step(feed, self._last[k : k + 1]) for k, feed in enumerate(self._streams)])

    def _step(self, feed: dict[str, NDArray[Any]], ids: Ids) -> Floats:
        """Return logits (1, V) after a symbol (1,) of one stream, and update its state in the feed."""
        feed["ids"] = ids
        logits, *state = self._session.run(None, feed)
        feed.update(zip(self._state_names, state, strict=True))
        return np.asarray(logits)


def choose_symbols(logits: Floats, u: NDArray[np.float64], temperatures: NDArray[np.float64]) -> Ids:
    """Return symbols (N,) by inverse CDF, as `charrnn.engines.eager.choose_symbols` does, without torch."""
    if not temperatures.any():
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    cumulated = exponentials(logits.astype(np.float64), temperatures[:, None]).cumsum(axis=1)
    chosen = (cumulated <= (u * cumulated[:, -1])[:, None]).sum(axis=1)
    return np.asarray(np.minimum(chosen, logits.shape[1] - 1), dtype=np.int64)


def _session(tensors: Mapping[str, Floats], config: ModelConfig, precision: str, threads: int) -> Any:
    """Return a session of onnxruntime that runs the step."""
    onnx_export.require("onnx", "onnxruntime")
    import onnxruntime
    from onnx import helper

    model = onnx_export.step_model(tensors, config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:  # for quantize_dynamic, which writes a file
        data: str | bytes = str(Path(folder, "step.onnx"))
        if precision == "fp32":
            data = model.SerializeToString()
        else:
            from onnxruntime.quantization import quantize_dynamic

            helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # or it logs a warning
            quantize_dynamic(
                model,
                data,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,  # weights of 7 bits: without VNNI, sums of two products have 16 bits and saturate
                nodes_to_exclude=[onnx_export.RECURRENT_WEIGHT + onnx_export.PRODUCT],  # rounding would accumulate
            )
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
