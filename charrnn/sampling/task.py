"""The interface of a network that is sampled, and its implementation for networks of symbols."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.pcm import bytes_to_int16, floats_to_int16
from charrnn.data.recordings import SoundOptions
from charrnn.engines import Engine
from charrnn.sampling.generate import CHUNK, prime
from charrnn.sampling.stitch import stitch
from charrnn.sampling.writers import Output, open_sound, open_text
from charrnn.storage.checkpoint_format import StoredCheckpoint, Streams, save_streams

DEFAULT_SECONDS = 10
DEFAULT_SYMBOLS = 2000

Pieces = Iterator[tuple[int, list[NDArray[Any]]]]


class SamplingTask(ABC):
    """Streams of one network, which are sampled in parallel. Call `restart` before anything else."""

    path: str  # of the checkpoint
    rate: int | None  # of the sound in Hz; None for a network of text
    streams: int  # number of streams, N
    unit: str  # "symbols" or "samples"

    @property
    def default_length(self) -> int:
        """Number of symbols or samples per stream if no length is given."""
        return DEFAULT_SYMBOLS if self.rate is None else DEFAULT_SECONDS * self.rate

    @abstractmethod
    def restart(self, temperature: float, seed: int | None = None) -> None:
        """Reset all streams to their start, and set the temperature and, unless it is None, the seed."""

    @abstractmethod
    def pieces(self, segments: int, length: int | None) -> Pieces:
        """Sample segments of a length, or one without an end.

        Yield the number of the segment, from 0, and the next symbols or samples (n,) of each of the N streams.
        """

    @abstractmethod
    def save_state(self, path: str) -> None:
        """Write the state of the streams to a file, to resume from."""

    @abstractmethod
    def open_output(self, path: str) -> AbstractContextManager[Output]:
        """Open a file, or for ``-`` standard output, for the pieces of a stream."""

    def suffix(self, output: str, several: bool) -> str:
        """Return the suffix of the files of several streams, or of the segments of an output."""
        return ".wav"

    def as_int16(self, piece: NDArray[Any]) -> NDArray[np.int16]:
        """Return a piece of a stream of sound as 16-bit samples."""
        return floats_to_int16(piece)

    def summary(self) -> list[str]:
        """Return messages to report after sampling."""
        return []


class SymbolSampling(SamplingTask):
    """Streams of a network of symbols in an engine.

    They resume from the state ``saved``, and are then primed with the symbols ``start`` (P,). The seed is by default
    that of the state, or 0. Segments are joined as by `charrnn.sampling.stitch.stitch`, and a piece has at most
    ``chunk`` symbols per stream. ``temperature`` and ``start`` can be changed: the former has an effect from the next
    call of `pieces` on, the latter from the next `restart` on.
    """

    unit = "symbols"

    def __init__(
        self,
        checkpoint: StoredCheckpoint,
        engine: Engine,
        start: NDArray[np.integer[Any]],
        saved: Streams | None = None,
        seed: int | None = None,
        join: str = "carry",
        chunk: int = CHUNK,
    ) -> None:
        self.path, self.rate, self.streams = checkpoint.path, checkpoint.rate, engine.streams
        self.checkpoint, self.engine = checkpoint, engine
        self.start, self.chunk, self._saved, self._join = start, chunk, saved, join
        self._seed = seed if seed is not None else saved.seed if saved else 0
        self.temperature, self._position, self._restarts_before = 1.0, 0, 0
        self._writes_text = False

    def restart(self, temperature: float, seed: int | None = None) -> None:
        self.temperature = temperature
        self._seed = self._seed if seed is None else seed
        self._position = self._saved.position if self._saved else 0
        self._restarts_before = self.engine.restarts
        self.engine.reset()
        if self._saved:
            self.engine.set_state(self._saved.state, self._saved.last)
        if len(self.start):
            prime(self.engine, self.start)

    def pieces(self, segments: int, length: int | None) -> Pieces:
        options = (self.temperature, self._seed, self._join, self.start, self._position)
        chunks = stitch(self.engine, segments, length, *options, chunk=self.chunk)
        for number, ids in chunks:
            self._position += ids.shape[1]
            yield number, list(ids)

    def save_state(self, path: str) -> None:
        save_streams(path, Streams(*self.engine.get_state(), self._seed, self._position))

    def suffix(self, output: str, several: bool) -> str:
        return ".wav" if _is_wav(output) or (several and self.rate is not None) else ".txt"

    def open_output(self, path: str) -> AbstractContextManager[Output]:
        if _is_wav(path):
            return open_sound(path, self.checkpoint)
        self._writes_text |= path != os.devnull
        return open_text(path, self.checkpoint.vocab)

    def summary(self) -> list[str]:
        messages = []
        if restarts := self.engine.restarts - self._restarts_before:
            times = "once" if restarts == 1 else f"{restarts:,} times"
            messages.append(f"{times} a stream was louder than the recording ever is, and restarted from silence.")
        flags = [f"--rate {self.rate}"] if self.rate not in (None, SoundOptions.rate) else []
        flags += ["--mulaw"] if self.checkpoint.encoding == "mulaw" else []
        if flags and self._writes_text:
            messages.append(f"the text contains neither rate nor encoding: convert it with utf82wav {' '.join(flags)}.")
        return messages

    def as_int16(self, piece: NDArray[Any]) -> NDArray[np.int16]:
        return bytes_to_int16(piece.astype(np.uint8), self.checkpoint.encoding == "mulaw")


def _is_wav(path: str) -> bool:
    return Path(path).suffix.lower() == ".wav"
