"""Ways to run a trained network one symbol at a time.

Every engine is a plain function of (weights, state, u): given the same uniform numbers, all of them choose the
same symbols, but for rounding at a border between two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_choice, check_whole
from bytecodec.console import log
from bytecodec.errors import InputError
from charrnn.engines.base import NOTHING, Engine, EngineState
from charrnn.runtime import MOST_THREADS

if TYPE_CHECKING:
    from charrnn.models.char_rnn import CharRNN
    from charrnn.storage.checkpoint import Checkpoint
    from charrnn.storage.checkpoint_format import StoredCheckpoint

ENGINES = ("auto", "cpu", "onnx", "cuda", "eager")
FEW = 4  # streams, up to which onnxruntime, which takes them one by one, is as fast as the eager engine
SLOWER = {
    "onnx": "onnxruntime, which is several times slower",
    "eager": "the eager engine, which is many times slower",
}  # in words, what there is in place of the compiled engine

__all__ = ["ENGINES", "FEW", "NOTHING", "Engine", "EngineState", "arrays", "engine"]


def engine(
    checkpoint: str | Path | Checkpoint | StoredCheckpoint,
    kind: str = "auto",
    streams: int = 1,
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """Return an engine of a kind for a checkpoint.

    Parameters
    ----------
    checkpoint
        A path, a run directory (its newest), or a loaded `charrnn.storage.checkpoint.Checkpoint` or
        `charrnn.storage.checkpoint_format.StoredCheckpoint`.
    kind
        cpu (compiled), onnx (onnxruntime), cuda (an NVIDIA GPU), eager (the reference in torch), or auto: the fastest
        that there is for the network on the CPU. Where that is not the compiled one, it says so on stderr.
    streams
        N, 1 or more.
    precision
        fp32, bf16, of the compiled engine also int7, int6 or int4, of onnxruntime int8; auto: the engine's own best.
    threads
        Number of CPU threads, 0 to 1024; 0 for one per core.

    Raises
    ------
    InputError
        The checkpoint cannot be used, an argument is out of range, or the engine is not available.
    """
    check_choice("kind", kind, ENGINES)
    check_whole("streams", streams, 1)
    check_whole("threads", threads, 0, MOST_THREADS)
    loaded = _loaded(checkpoint)
    if kind in ("auto", "cpu"):
        from charrnn.engines.cpu.engine import CpuEngine
        from charrnn.engines.cpu.library import UnavailableError
        from charrnn.engines.cpu.pack import INTEGERS

        try:
            return CpuEngine(_weights(loaded), loaded.config, streams, precision, threads)
        except UnavailableError as error:
            if kind == "cpu" or precision in INTEGERS:
                raise
            kind = _second_best(streams, precision)
            log(f"{error} Sampling with {SLOWER[kind]}.")
    if kind == "onnx":
        from charrnn.engines.onnx import OnnxEngine

        return OnnxEngine(_weights(loaded), loaded.config, streams, precision, threads)
    from charrnn.runtime import set_threads

    set_threads(threads)
    if kind == "cuda":
        from charrnn.engines.cuda.engine import CudaEngine

        return CudaEngine(_network(loaded), streams, precision)
    from charrnn.engines.eager import EagerEngine

    return EagerEngine(_network(loaded), streams, precision)


def _loaded(checkpoint: Any) -> Checkpoint | StoredCheckpoint:
    """Return a checkpoint of a network of symbols, which is read if it is a path."""
    from charrnn.storage import checkpoint_format

    if isinstance(checkpoint, str | os.PathLike):
        return checkpoint_format.load(Path(checkpoint))
    if not isinstance(checkpoint, checkpoint_format.CheckpointMeta):
        kind = type(checkpoint).__name__
        raise InputError(f"checkpoint is a {kind}; it must be a path or a checkpoint of a network of symbols.")
    return cast("Checkpoint | StoredCheckpoint", checkpoint)


def _weights(loaded: Checkpoint | StoredCheckpoint) -> Mapping[str, NDArray[np.float32]]:
    """Return the network's weights by name, without torch if they were read without it."""
    from charrnn.storage.checkpoint_format import StoredCheckpoint

    return loaded.weights if isinstance(loaded, StoredCheckpoint) else arrays(loaded.model)


def _network(loaded: Checkpoint | StoredCheckpoint) -> CharRNN:
    """Return the network as a torch module."""
    from charrnn.storage.checkpoint import to_torch
    from charrnn.storage.checkpoint_format import StoredCheckpoint

    return to_torch(loaded).model if isinstance(loaded, StoredCheckpoint) else loaded.model


def _second_best(streams: int, precision: str) -> str:
    """The engine to take where the compiled one is not there."""
    from charrnn.storage import onnx_export

    return "onnx" if precision == "auto" and streams <= FEW and onnx_export.is_installed() else "eager"


def arrays(model: CharRNN) -> dict[str, NDArray[np.float32]]:
    """A network's weights by their names, on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
