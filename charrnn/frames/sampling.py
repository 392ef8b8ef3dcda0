"""Sampling from a frame predictor with the interface of `charrnn.sampling.task`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from charrnn.frames.generate import FrameStream, save_streams
from charrnn.frames.model import FrameCheckpoint
from charrnn.sampling.task import Pieces, SamplingTask
from charrnn.sampling.writers import Output, open_samples


class FrameSampling(SamplingTask):
    """Streams of a frame predictor, all at the same position; ``as_float`` writes 32-bit floating-point WAV files."""

    unit = "samples"

    def __init__(self, checkpoint: FrameCheckpoint, streams: Sequence[FrameStream], as_float: bool = False) -> None:
        self.path, self.rate, self.streams = checkpoint.path, checkpoint.rate, len(streams)
        self._streams, self._as_float = streams, as_float
        self._starts = [(stream.state, stream.position) for stream in streams]

    def restart(self, temperature: float) -> None:
        for stream, start in zip(self._streams, self._starts, strict=True):
            stream.seek(*start)
            stream.temperature = temperature

    def pieces(self, segments: int, length: int | None) -> Pieces:
        done = 0
        while length is None or done < segments * length:
            number, offset = divmod(done, length) if length else (0, 0)
            left = length - offset if length else self._streams[0].model.config.spacing
            pieces = [stream.read(left) for stream in self._streams]
            done += len(pieces[0])
            yield number, pieces

    def save_state(self, path: str) -> None:
        save_streams(path, self._streams)

    def open_output(self, path: str) -> AbstractContextManager[Output]:
        return open_samples(path, self.rate or 0, self._as_float)

    def summary(self) -> str:
        limited = sum(stream.limited for stream in self._streams)
        done = sum(s.position - start[1] for s, start in zip(self._streams, self._starts, strict=True))
        return f"{limited:,} of {done:,} samples were beyond full scale, and were limited to it." if limited else ""
