"""Sound without end from a frame predictor that hears its own output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bytecodec.arguments import check_choice, check_number, check_real, check_whole
from bytecodec.errors import InputError
from charrnn.frames.model import LOUDEST, NOISE_TAPS, FrameRNN
from charrnn.models.char_rnn import State
from charrnn.sampling.generate import MOST_KEY, uniforms
from charrnn.sampling.stitch import JOINS
from charrnn.storage import checkpoint as files

STREAMS_KIND = "frame-streams"
MIDDLE = 2.0**-25  # from a number of 24 bits to the middle of what it stands for, so that none is 0


@dataclass(frozen=True)
class Place:
    """Where a take is, before a pass.

    Attributes
    ----------
    state
        The hidden state, of one row.
    window
        (1, N T) the samples that the pass sees.
    driven
        (NOISE_TAPS - 1,) what was last drawn, which the filter of the noise still hears.
    """

    state: State
    window: Tensor
    driven: NDArray[np.float64]


class Take:
    """One take: samples of full scale 1, made pass by pass and handed out in pieces of any length.

    A pass predicts T samples from a window of N T in one call; they are handed out and join the window, and the oldest
    T leave it. What is heard is what the network hears: a value beyond full scale is limited before both, and nothing
    else touches a level.

    Parameters
    ----------
    window
        (N T,) to begin with, full scale 1 (None: the network's own).
    seed, number
        Of what is drawn, which hangs on them and the position alone: a take is the same, whatever is made beside it.
    join
        carry: a pass starts from the state in which the last one ended; reset: from zeros, as people did before.

    Attributes
    ----------
    position : int
        Samples handed out.
    limited : int
        How many of them were beyond full scale.

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
        window = model.window if window is None else _checked_window(window, model.config.context.max_lag)
        check_whole("seed", seed, 0, MOST_KEY)
        check_whole("number", number, 0, MOST_KEY)
        check_number("temperature", temperature, 0)
        check_choice("join", join, JOINS)
        self.model, self.seed, self.number = model, seed, number
        self.temperature, self.join = temperature, join
        self.place = Place(model.initial_state(1), window[None], np.zeros(NOISE_TAPS - 1))
        self.position = self.limited = 0
        self._made: tuple[NDArray[np.float32], Place] | None = None  # a pass, and the place after it

    def read(self, most: int) -> NDArray[np.float32]:
        """Return the next samples, up to the end of a pass, (n,) with 1 <= n <= most."""
        check_whole("most", most, 1)
        spacing = self.model.config.spacing
        offset = self.position % spacing
        samples, after = self._made = self._made or self._pass(self.position - offset)
        piece = samples[offset : offset + most]
        self.position += len(piece)
        if self.position % spacing == 0:
            self.place, self._made = after, None
        self.limited += int(np.count_nonzero((piece < -1) | (piece > LOUDEST)))
        return limit(piece)

    @torch.no_grad()
    def _pass(self, position: int) -> tuple[NDArray[np.float32], Place]:
        """The T samples from a position on, as they are before they are limited, and the place after them."""
        model, place = self.model, self.place
        state = place.state if self.join == "carry" else model.initial_state(1)
        means, variances, state = model(place.window, state)
        samples, driven = means[0].numpy(), place.driven
        if variances is not None:
            driven = np.concatenate([driven, self._draw(variances[0].numpy(), position)])
            samples = (samples + np.convolve(driven, model.noise.numpy(), "valid")).astype(np.float32)
            driven = driven[len(samples) :]
        heard = torch.from_numpy(limit(samples))[None]
        return samples, Place(state, torch.cat([place.window[:, len(samples) :], heard], dim=1), driven)

    def _draw(self, variances: NDArray[np.float32], position: int) -> NDArray[np.float64]:
        from scipy.special import ndtri

        u = uniforms(self.seed, self.number, position, len(variances))
        return np.asarray(self.temperature * np.sqrt(variances) * ndtri(u.astype(np.float64) + MIDDLE))


def _checked_window(window: Any, length: int) -> Tensor:
    samples = check_real("window", window, 1)
    if len(samples) != length:
        raise InputError(f"window has {len(samples):,} samples, and the network needs {length:,}.")
    return torch.from_numpy(samples.astype(np.float32))


def limit(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples within what int16 holds: [-1, 1 - 1/32768]."""
    return np.clip(samples, np.float32(-1), np.float32(LOUDEST))


def save_takes(path: str | Path, takes: Sequence[Take]) -> None:
    """Write where takes are to a file that appears whole or not at all."""
    places = [take.place for take in takes]
    layers = zip(*(place.state for place in places), strict=True)
    state = tuple(tuple(torch.cat(tensors) for tensors in zip(*layer, strict=True)) for layer in layers)
    tensors = files.state_tensors(state) | {
        "window": torch.cat([place.window for place in places]),
        "driven": torch.from_numpy(np.stack([place.driven for place in places])),
    }
    facts = {"seed": takes[0].seed, "position": takes[0].position}
    files.write_tensors(path, STREAMS_KIND, tensors, facts)


def load_takes(path: str | Path, model: FrameRNN) -> list[Take]:
    """Takes of a network of this shape, to go on with as if they had never been stopped.

    Raises
    ------
    InputError
        They are those of another network.
    """
    facts, tensors = files.read_tensors(path, STREAMS_KIND)
    try:
        window, driven = tensors["window"], tensors["driven"].numpy()
        count = len(window)
        if (
            window.shape != (count, model.config.context.max_lag)
            or driven.shape != (count, NOISE_TAPS - 1)
            or not count
        ):
            raise ValueError("its windows are those of another network")
        state = files.state_from_tensors(tensors, model.initial_state(count))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit this network: {error}.") from None
    takes = [Take(model, window[k], facts["seed"], k) for k in range(count)]
    for k, take in enumerate(takes):
        own = tuple(tuple(tensor[k : k + 1].contiguous() for tensor in layer) for layer in state)
        take.place, take.position = replace(take.place, state=own, driven=driven[k]), facts["position"]
    return takes
