"""Sources that a sampler plays: networks of sound, networks of text, and frame predictors."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.pcm import bytes_to_int16, floats_to_int16

if TYPE_CHECKING:
    from charrnn.storage.checkpoint_format import StoredCheckpoint

LEAD = 0.3  # seconds, the delay until a new temperature has an effect
TEXT_RATE = 100  # characters per second at which the page writes a text


class Source(ABC):
    """Stream of a network from its start."""

    rate: int  # samples or characters per second of playback
    step: int  # iteration of the checkpoint
    is_text = False
    lead = LEAD  # seconds that are drawn ahead of playback

    def prime(self, ids: NDArray[np.int64]) -> None:
        """Feed symbols (P,) that are not played."""
        raise InputError("A frame predictor cannot start from a recording here: use charrnn-sample --start-file.")

    @abstractmethod
    def draw(self, count: int, temperature: float) -> NDArray[np.int16] | str:
        """Return the next samples or characters, at least one and at most ``count``."""


class SymbolSource(Source):
    """Stream of a network of symbols."""

    def __init__(self, checkpoint: StoredCheckpoint, seed: int, threads: int) -> None:
        from charrnn.engines import engine

        self._network = engine(checkpoint, "auto", 1, threads=threads)
        self._seed, self._position, self._checkpoint = seed, 0, checkpoint
        self.is_text = checkpoint.rate is None
        self.rate, self.step = checkpoint.rate or TEXT_RATE, checkpoint.step

    def prime(self, ids: NDArray[np.int64]) -> None:
        from charrnn.sampling.generate import prime

        prime(self._network, ids)

    def draw(self, count: int, temperature: float) -> NDArray[np.int16] | str:
        from charrnn.sampling.generate import uniforms

        ids = self._network.run(uniforms(self._seed, 0, self._position, count)[:, None], temperature)[0]
        self._position += count
        if self.is_text:
            return self._checkpoint.vocab.decode(ids)
        return bytes_to_int16(ids.astype(np.uint8), self._checkpoint.encoding == "mulaw")


class FrameSource(Source):
    """Stream of a frame predictor, which needs torch."""

    def __init__(self, file: Path, seed: int, threads: int) -> None:
        from charrnn.engines.cpu.layer import compile_layers
        from charrnn.engines.cpu.library import UnavailableError
        from charrnn.frames.generate import FrameStream
        from charrnn.frames.model import load
        from charrnn.runtime import set_threads

        checkpoint = load(file)
        set_threads(threads)
        with contextlib.suppress(UnavailableError):  # without the kernel, torch computes the layers
            compile_layers(checkpoint.model, threads)
        self._stream = FrameStream(checkpoint.model, seed=seed)
        self.rate, self.step = checkpoint.rate, checkpoint.step
        self.lead = max(
            LEAD, 2 * checkpoint.model.config.spacing / self.rate
        )  # a pass computes as many samples at once

    def draw(self, count: int, temperature: float) -> NDArray[np.int16]:
        self._stream.temperature = temperature
        return floats_to_int16(self._stream.read(count))


def open_source(file: Path, seed: int, threads: int, prime_format: tuple[int, str] | None) -> Source:
    """Load a checkpoint; ``prime_format`` is the rate and the encoding of the symbols that it will be primed with.

    Raise InputError if the checkpoint cannot be used, or if these symbols were read for another network.
    """
    from charrnn.storage.checkpoint_format import kind_of, load

    if kind_of(file) == "frames":
        return FrameSource(file, seed, threads)
    checkpoint = load(file)
    given: Any = (checkpoint.rate, checkpoint.encoding or "linear")
    if prime_format is not None and prime_format != given:
        raise InputError("The recording to start from was read for another network: drop it again.")
    return SymbolSource(checkpoint, seed, threads)
