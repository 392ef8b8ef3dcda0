"""Sampling from a frame predictor, which reads its own output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bytecodec.arguments import check_choice, check_number, check_real, check_whole
from bytecodec.errors import InputError
from charrnn.frames.model import MAX_SAMPLE, NOISE_TAPS, FrameCheckpoint, FrameRNN
from charrnn.models.char_rnn import State
from charrnn.sampling.generate import MAX_KEY, uniforms
from charrnn.sampling.stitch import JOINS
from charrnn.sampling.task import Pieces, SamplingTask
from charrnn.sampling.writers import Output, open_samples
from charrnn.storage import checkpoint as files

STREAMS_KIND = "frame-streams"
MIDDLE = 2.0**-25  # offset from a 24-bit number to the middle of its interval, so that no number is 0


@dataclass(frozen=True)
class GeneratorState:
    """The state of a stream before a pass."""

    state: State  # hidden state of one row
    window: Tensor  # (1, K T) samples that the pass reads
    noise_history: NDArray[np.float64]  # (NOISE_TAPS - 1,) last noise drawn, which the noise filter still needs


class FrameStream:
    """One stream of samples of full scale 1, generated pass by pass and read in pieces of any length.

    A pass predicts T samples from a window of K T in one call. These samples are appended to the window, and the oldest
    T are removed. Values beyond full scale are limited both in the output and in the window, so the network reads
    exactly what is played; levels are not changed otherwise.

    Parameters
    ----------
    window
        (K T,) first window, full scale 1 (None: the network's own).
    seed, number
        Seed of the noise, and number of the stream. The noise depends only on them and the position, so a stream is the
        same whatever other streams there are.
    join
        carry: a pass starts from the state after the last one; reset: from the zero state.

    Attributes
    ----------
    position : int
        Number of samples that have been read.
    limited : int
        Number of them that were beyond full scale.

    Raises
    ------
    InputError
        An argument has the wrong shape, type or range.
    """

    def __init__(
        self,
        model: FrameRNN,
        window: Tensor | None = None,
        seed: int = 0,
        number: int = 0,
        temperature: float = 1.0,
        join: str = "carry",
    ) -> None:
        if not isinstance(model, FrameRNN):
            raise InputError(f"model is a {type(model).__name__}; it must be the network of a frame predictor.")
        window = model.window if window is None else _check_window(window, model.config.context.max_lag)
        check_whole("seed", seed, 0, MAX_KEY)
        check_whole("number", number, 0, MAX_KEY)
        check_number("temperature", temperature, 0)
        check_choice("join", join, JOINS)
        self.model, self.seed, self.number = model, seed, number
        self.temperature, self.join = temperature, join
        self.seek(GeneratorState(model.initial_state(1), window[None], np.zeros(NOISE_TAPS - 1)), 0)

    def seek(self, state: GeneratorState, position: int) -> None:
        """Resume from the state before the pass that contains a position."""
        self.state, self.position, self.limited = state, position, 0
        self._pass: tuple[NDArray[np.float32], GeneratorState] | None = None  # its samples, and the state after it

    def read(self, max_samples: int) -> NDArray[np.float32]:
        """Return the next samples, at most up to the end of a pass, (n,) with 1 <= n <= max_samples."""
        check_whole("max_samples", max_samples, 1)
        spacing = self.model.config.spacing
        offset = self.position % spacing
        samples, after = self._pass = self._pass or self._run_pass(self.position - offset)
        piece = samples[offset : offset + max_samples]
        self.position += len(piece)
        if self.position % spacing == 0:
            self.state, self._pass = after, None
        self.limited += int(np.count_nonzero((piece < -1) | (piece > MAX_SAMPLE)))
        return limit(piece)

    @torch.no_grad()
    def _run_pass(self, position: int) -> tuple[NDArray[np.float32], GeneratorState]:
        """Return the T samples from a position on, before they are limited, and the state after them."""
        model, before = self.model, self.state
        hidden = before.state if self.join == "carry" else model.initial_state(1)
        means, variances, hidden = model(before.window, hidden)
        samples, history = means[0].numpy(), before.noise_history
        if variances is not None:
            noise = np.concatenate([history, self._draw(variances[0].numpy(), position)])
            samples = (samples + np.convolve(noise, model.noise.numpy(), "valid")).astype(np.float32)
            history = noise[len(samples) :]
        feedback = torch.from_numpy(limit(samples))[None]
        window = torch.cat([before.window[:, len(samples) :], feedback], dim=1)
        return samples, GeneratorState(hidden, window, history)

    def _draw(self, variances: NDArray[np.float32], position: int) -> NDArray[np.float64]:
        from scipy.special import ndtri

        u = uniforms(self.seed, self.number, position, len(variances))
        return np.asarray(self.temperature * np.sqrt(variances) * ndtri(u.astype(np.float64) + MIDDLE))


def _check_window(window: Any, length: int) -> Tensor:
    samples = check_real("window", window, 1)
    if len(samples) != length:
        raise InputError(f"window has {len(samples):,} samples, and the network needs {length:,}.")
    return torch.from_numpy(samples.astype(np.float32))


def limit(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Limit samples to the range of int16: [-1, 1 - 1/32768]."""
    return np.clip(samples, np.float32(-1), np.float32(MAX_SAMPLE))


class FrameSampling(SamplingTask):
    """Streams of a frame predictor, all at the same position; ``as_float`` writes 32-bit floating-point WAV files."""

    unit = "samples"

    def __init__(self, checkpoint: FrameCheckpoint, streams: Sequence[FrameStream], as_float: bool = False) -> None:
        self.path, self.rate, self.streams = checkpoint.path, checkpoint.rate, len(streams)
        self._streams, self._as_float = streams, as_float
        self._starts = [(stream.state, stream.position) for stream in streams]

    def restart(self, temperature: float, seed: int | None = None) -> None:
        for stream, start in zip(self._streams, self._starts, strict=True):
            stream.seek(*start)
            stream.temperature = temperature
            stream.seed = stream.seed if seed is None else seed

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

    def summary(self) -> list[str]:
        limited = sum(stream.limited for stream in self._streams)
        done = sum(s.position - start[1] for s, start in zip(self._streams, self._starts, strict=True))
        return [f"{limited:,} of {done:,} samples were beyond full scale, and were limited to it."] if limited else []


def save_streams(path: str | Path, streams: Sequence[FrameStream]) -> None:
    """Write the states of streams to a file, which appears complete or not at all."""
    states = [stream.state for stream in streams]
    layers = zip(*(state.state for state in states), strict=True)
    hidden = tuple(tuple(torch.cat(tensors) for tensors in zip(*layer, strict=True)) for layer in layers)
    tensors = files.state_tensors(hidden) | {
        "window": torch.cat([state.window for state in states]),
        "driven": torch.from_numpy(np.stack([state.noise_history for state in states])),
    }
    metadata = {"seed": streams[0].seed, "position": streams[0].position}
    files.write_tensors(path, STREAMS_KIND, tensors, metadata)


def load_streams(path: str | Path, model: FrameRNN) -> list[FrameStream]:
    """Return the streams in a file, which resume as if they had not been interrupted."""
    metadata, tensors = files.read_tensors(path, STREAMS_KIND)
    try:
        window, history = tensors["window"], tensors["driven"].numpy()
        count = len(window)
        shapes = ((count, model.config.context.max_lag), (count, NOISE_TAPS - 1))
        if not count or (window.shape, history.shape) != shapes:
            raise ValueError("its window has another length")
        hidden = files.state_from_tensors(tensors, model.initial_state(count))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or a state of another network: {error}. Name the network that wrote it."
        ) from None
    streams = [FrameStream(model, window[k], metadata["seed"], k) for k in range(count)]
    for k, stream in enumerate(streams):
        own = tuple(tuple(tensor[k : k + 1].contiguous() for tensor in layer) for layer in hidden)
        stream.seek(GeneratorState(own, stream.state.window, history[k]), metadata["position"])
    return streams
