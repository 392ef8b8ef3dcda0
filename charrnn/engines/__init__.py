"""Ways to run a trained network one symbol at a time.

Every engine is a plain function of (weights, state, u): given the same uniform numbers, all of them choose the
same symbols, but for rounding at a border between two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import say
from bytecodec.errors import InputError

if TYPE_CHECKING:
    from charrnn.model import CharRNN

ENGINES = ("auto", "cpu", "onnx", "cuda", "eager")
NOTHING = -1  # the last symbol of a stream that has none: its first one is drawn uniformly
FEW = 4  # streams, up to which onnxruntime, which takes them one by one, is as fast as the eager engine
SLOWER = {
    "onnx": "onnxruntime, which is several times slower",
    "eager": "the eager engine, which is many times slower",
}  # in words, what there is in place of the compiled engine

EngineState = tuple[tuple[NDArray[np.float32], ...], ...]  # per layer, a tuple of (N, ·)


class Engine(Protocol):
    """N streams of a network, each in a state of its own. Speaks numpy.

    A stream is its hidden state and the last symbol, which the network has not read yet; before the first
    symbol that is `NOTHING`.
    """

    streams: int
    vocab_size: int

    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        """Read ids (N, P): the next symbol will follow them."""

    def run(self, u: NDArray[np.float32], temperature: float) -> NDArray[np.int64]:
        """The next symbols, ids (N, T), for uniform numbers u (T, N) in [0, 1).

        A symbol is drawn by inverse CDF from softmax(logits / temperature): it is the first one with which
        the sum of the probabilities exceeds u. Temperature 0 takes the likeliest.
        """

    def score(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Log-probabilities (N, T-1) in nats, from the zero state, of each symbol of ids (N, T) but the first
        given those before it. Leaves the streams as they are, and takes any N."""

    def get_state(self) -> tuple[EngineState, NDArray[np.int64]]:
        """Hidden state and last symbols (N,): all that a later `set_state` needs to go on."""

    def set_state(self, state: EngineState, last: NDArray[np.int64]) -> None:
        """Go on from what `get_state` gave."""

    def reset(self) -> None:
        """Back to the zero state with no last symbol."""


def engine(
    checkpoint: str | Path | Any,
    kind: str = "auto",
    streams: int = 1,
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """The engine of a kind for a checkpoint.

    Parameters
    ----------
    checkpoint
        A path, a run directory (its newest), or a loaded `charrnn.checkpoint.Checkpoint` or `charrnn.stored.Stored`.
    kind
        cpu (compiled), onnx (onnxruntime), cuda (an NVIDIA GPU), eager (the reference in torch), or auto: the fastest
        that there is for the network on the CPU. Where that is not the compiled one, it says so on stderr.
    streams
        N, 1 or more.
    precision
        fp32, bf16, of the compiled engine also int7, int6 or int4, of onnxruntime int8; auto: the engine's own best.
    threads
        On the CPU; 0: a core each.

    Raises
    ------
    InputError
        The checkpoint cannot be used, or there is no such engine.
    """
    from charrnn import stored

    if kind not in ENGINES:
        raise InputError(f"there is no engine {kind!r}: the engines are {', '.join(ENGINES)}.")
    if streams < 1:
        raise InputError(f"{streams} streams: it takes 1 or more.")
    loaded = stored.load(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    if kind in ("auto", "cpu"):
        from charrnn.engines.cpu import CpuEngine
        from charrnn.engines.cpu_library import UnavailableError
        from charrnn.engines.cpu_packed import INTEGERS

        try:
            weights = loaded.weights if isinstance(loaded, stored.Stored) else arrays(loaded.model)
            return CpuEngine(weights, loaded.config, streams, precision, threads)
        except UnavailableError as error:
            if kind == "cpu" or precision in INTEGERS:
                raise
            kind = _second_best(streams, precision)
            say(f"{error} Sampling with {SLOWER[kind]}.")
    if kind == "onnx":
        from charrnn.engines.onnx import OnnxEngine

        return OnnxEngine(arrays(loaded.model), loaded.model.config, streams, precision, threads)
    from charrnn.engines.eager import PRECISIONS, EagerEngine
    from charrnn.runtime import set_threads

    if precision not in PRECISIONS:
        raise InputError(f"the eager engine has no precision {precision}: it takes {', '.join(PRECISIONS)}.")
    set_threads(threads)
    if kind == "cuda":
        from charrnn.engines.cuda import CudaEngine

        return CudaEngine(loaded.model, streams, precision)
    return EagerEngine(loaded.model, streams, "fp32" if precision == "auto" else precision)


def _second_best(streams: int, precision: str) -> str:
    """The engine to take where the compiled one is not there."""
    from charrnn import onnx

    return "onnx" if precision == "auto" and streams <= FEW and onnx.installed() else "eager"


def arrays(model: CharRNN) -> dict[str, NDArray[np.float32]]:
    """A network's weights by their names, on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
