"""The function that makes an engine of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_choice, check_whole
from bytecodec.console import log
from bytecodec.errors import InputError
from charrnn.engines.base import Engine
from charrnn.engines.level import LevelControl
from charrnn.runtime import MAX_THREADS

if TYPE_CHECKING:
    from charrnn.models.char_rnn import CharRNN
    from charrnn.models.config import ModelConfig
    from charrnn.storage.checkpoint import Checkpoint
    from charrnn.storage.checkpoint_format import StoredCheckpoint

ENGINES = ("auto", "cpu", "onnx", "cuda", "eager")
ONNX_STREAMS = 4  # limit up to which onnxruntime, one stream at a time, is as fast as the eager engine
SUBSTITUTES = {  # descriptions in messages of the engines that replace the compiled one
    "onnx": "onnxruntime, which is several times slower",
    "eager": "the eager engine, which is many times slower",
}


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
        A path, a run directory (its newest checkpoint is loaded), or a loaded
        `charrnn.storage.checkpoint.Checkpoint` or `charrnn.storage.checkpoint_format.StoredCheckpoint`.
    kind
        cpu (compiled), onnx (onnxruntime), cuda (an NVIDIA GPU), eager (the reference in torch), or auto: the fastest
        one on the CPU that supports the network. If that is not the compiled one, a message on stderr gives the reason.
    streams
        N, 1 or more.
    precision
        fp32 or bf16; int7, int6, int5, int4.5 or int4 for the compiled engine; int8 or fp32 for onnxruntime; auto: the
        engine's default.
    threads
        Number of CPU threads, 0 to 1024. With 0 the compiled engine measures which number up to 8 is the fastest, and
        others use one per core.

    Raises
    ------
    InputError
        The checkpoint cannot be used, an argument is out of range, or the engine is not available.
    """
    check_choice("kind", kind, ENGINES)
    check_whole("streams", streams, 1)
    check_whole("threads", threads, 0, MAX_THREADS)
    loaded = _load(checkpoint)
    made = _engine(loaded, kind, streams, precision, threads)
    made.calibration = loaded.calibration or 1.0
    if loaded.config.predictors and loaded.level and loaded.rate:
        made.level_control = LevelControl(streams, loaded.level, loaded.loudest, loaded.rate)
    return made


def _engine(loaded: Checkpoint | StoredCheckpoint, kind: str, streams: int, precision: str, threads: int) -> Engine:
    if kind in ("auto", "cpu"):
        from charrnn.engines.cpu.engine import CpuEngine
        from charrnn.engines.cpu.library import UnavailableError
        from charrnn.engines.cpu.pack import INTEGERS

        try:
            return CpuEngine(_weights(loaded), loaded.config, streams, precision, threads)
        except UnavailableError as error:
            if kind == "cpu" or precision in INTEGERS:
                raise
            kind = _substitute(loaded.config, streams, precision)
            log(f"{error} Sampling with {SUBSTITUTES[kind]}.")
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


def _load(checkpoint: Any) -> Checkpoint | StoredCheckpoint:
    from charrnn.storage import checkpoint_format

    if isinstance(checkpoint, str | os.PathLike):
        return checkpoint_format.load(Path(checkpoint))
    if not isinstance(checkpoint, checkpoint_format.CheckpointMeta):
        kind = type(checkpoint).__name__
        raise InputError(f"checkpoint is a {kind}; it must be a path or a checkpoint of a network of symbols.")
    return cast("Checkpoint | StoredCheckpoint", checkpoint)


def _weights(loaded: Checkpoint | StoredCheckpoint) -> Mapping[str, NDArray[np.float32]]:
    """Return the network's weights by name, without torch if they were loaded without it."""
    from charrnn.storage.checkpoint_format import StoredCheckpoint

    return loaded.weights if isinstance(loaded, StoredCheckpoint) else arrays(loaded.model)


def _network(loaded: Checkpoint | StoredCheckpoint) -> CharRNN:
    from charrnn.storage.checkpoint import to_torch
    from charrnn.storage.checkpoint_format import StoredCheckpoint

    return to_torch(loaded).model if isinstance(loaded, StoredCheckpoint) else loaded.model


def _substitute(config: ModelConfig, streams: int, precision: str) -> str:
    """Return the kind of engine to use if the compiled one is not available."""
    fits = precision == "auto" and streams <= ONNX_STREAMS and not config.reads_samples
    can_use_onnx = fits and all(map(find_spec, ("onnx", "onnxruntime")))
    return "onnx" if can_use_onnx else "eager"


def arrays(model: CharRNN) -> dict[str, NDArray[np.float32]]:
    """Return a network's weights by name, on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
