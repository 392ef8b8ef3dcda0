"""Reduction of several channels to one, and detection of channels that cancel each other in the mean."""

from __future__ import annotations

import itertools
from argparse import ArgumentTypeError

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import NoChannelError

MIX = "mix"
NAMES = {"left": 1, "right": 2}

_WINDOW = 1.0  # approximate length in seconds of the windows in which the mix is compared with its channels
_CANCELLED = 0.1  # relative to the power of the mean of unrelated channels; below this, channels cancel each other
_SHORTEST = 0.1  # in seconds; shorter channels may differ by chance
_REPORTED = 0.1  # share of the recording's energy in windows whose channels cancel, above which it is reported


def parse_channel(text: str) -> int | None:
    """Return the number that a --channel flag names, counted from 1, or None for the mean of all channels."""
    if text == MIX:
        return None
    try:
        number = NAMES[text] if text in NAMES else int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r} is not a channel: give left, right, mix or a number from 1")
    return number


class Mixer:
    """Mixer of several channels to one, which also detects channels that cancel each other.

    Per window of about a second, the power of the mean (without DC) is compared with the mean power of the N channels.
    Unrelated channels give 1/N of it, and equal channels all of it. Less than a tenth of 1/N means that the channels
    cancel each other. Windows are weighted by their energy, so that a fade or a pause has no influence. ``channel`` is
    counted from 1; None selects the mean of all. ``name`` is that of the recording in messages.
    """

    def __init__(self, channels: int, rate: int, channel: int | None, name: str) -> None:
        if channel is not None and channel > channels:
            has = f"{channels} channels" if channels > 1 else "1 channel"
            other = f"1 to {channels}, or mix" if channels > 1 else "1 or mix"
            raise NoChannelError(f"{name} has {has}, so there is no channel {channel}: give --channel {other}.")
        self._channel = channel
        self._channels = channels
        self._rate = rate
        self._energy = self._cancelled_energy = 0.0
        self._frames = self._cancelled_frames = 0

    def __call__(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce the next frames, (n, channels), to samples (n,)."""
        if self._channel is not None:
            return frames[:, self._channel - 1].copy()  # the caller reads the next block into the same memory
        channels = np.ascontiguousarray(frames.T)
        # The channels are added in order, so that the rounding does not depend on the size of a block.
        mix: NDArray[np.float32] = sum(channels, np.zeros(len(frames), np.float32))
        mix /= np.float32(self._channels)
        if self._channels > 1:
            self._compare(channels, mix)
        return mix

    def cancellation_message(self) -> str:
        """Return a message if the channels cancelled each other in the mean, or an empty string."""
        seconds, of = self._cancelled_frames / self._rate, self._frames / self._rate
        if of < _SHORTEST or self._cancelled_energy <= _REPORTED * self._energy:
            return ""
        return (
            f"has channels that cancel each other in the mix, during {seconds:.1f} of {of:.1f} s: "
            f"--channel {'left' if self._channels == 2 else 1} reads one of them alone."
        )

    def _compare(self, channels: NDArray[np.float32], mix: NDArray[np.float32]) -> None:
        windows = max(1, round(len(mix) / (_WINDOW * self._rate)))
        borders = [len(mix) * k // windows for k in range(windows + 1)]
        for first, end in itertools.pairwise(borders):
            energy = sum(_energy(channel[first:end]) for channel in channels) / self._channels
            self._energy += energy
            self._frames += end - first
            if _energy(mix[first:end]) * self._channels < _CANCELLED * energy:
                self._cancelled_energy += energy
                self._cancelled_frames += end - first


def _energy(samples: NDArray[np.float32]) -> float:
    """Return the sum of the squares of samples (n,) without their mean."""
    samples = samples - samples.mean()
    return float(np.dot(samples, samples))
