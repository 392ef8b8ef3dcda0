"""Playback of sound on an output device while it is sampled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import log
from bytecodec.errors import InputError, first_line

BUFFER = 0.25  # seconds by which the sampling may fall behind before there is a gap


class PlayError(InputError):
    """Error for a sound device that cannot play, or stopped."""


def library() -> Any:
    """Return the sounddevice module; raise InputError if it or the library that it calls is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise InputError("sounddevice is not installed: install it with pip install 'charrnn-sound[play]'.") from None
    except OSError:
        raise InputError(
            "sounddevice finds no PortAudio library: install it (on Debian and Ubuntu: apt-get install libportaudio2)."
        ) from None
    return sounddevice


def output_devices() -> list[str]:
    """Return a line per device that can play: its number, its name and its system, and which one is the default.

    Raise InputError if there is none.
    """
    sounddevice = library()
    default = sounddevice.default.device[1]
    found = [
        f"{device['index']:3d} {device['name']}, {sounddevice.query_hostapis(device['hostapi'])['name']}"
        + " (default)" * (device["index"] == default)
        for device in sounddevice.query_devices()
        if device["max_output_channels"] > 0
    ]
    if not found:
        raise InputError("the system has no sound output: connect a device, or start its sound server.")
    return found


class Player:
    """Player of int16 samples at a rate in Hz on a device: its number or a part of its name, "" for the default."""

    def __init__(self, rate: int, device: str = "") -> None:
        self._rate = rate
        self.gaps = 0  # number of times that the device ran out of samples
        self._failed = False
        self._buffered: list[bytes] | None = []  # None once the sound has begun
        self._missing = round(BUFFER * rate)  # samples until the sound begins
        self._error = library().PortAudioError
        chosen = int(device) if device.isdecimal() else device or None
        with self._errors("no sound output can play this"):
            self._stream = library().RawOutputStream(
                samplerate=rate, channels=1, dtype="int16", latency=BUFFER, device=chosen
            )

    def write(self, samples: NDArray[np.int16]) -> None:
        """Play the next samples (n,); return once they are in the buffer."""
        data = samples.tobytes()
        with self._errors("the sound output stopped"):
            if self._buffered is None:
                self.gaps += bool(self._stream.write(data))
                return
            self._buffered.append(data)
            self._missing -= len(samples)
            if self._missing <= 0:
                self._begin()

    def pause(self) -> None:
        """Return when everything has been played; the next samples start the sound again."""
        self.finish()
        self._buffered, self._missing = [], round(BUFFER * self._rate)

    def finish(self) -> None:
        """Return when everything has been played."""
        if not self._failed and self._buffered != []:
            with self._errors("the sound output stopped"):
                self._begin()
                self._stream.stop()

    def close(self) -> None:
        """Stop immediately."""
        with contextlib.suppress(self._error):
            self._stream.abort()
        with contextlib.suppress(self._error):
            self._stream.close()

    def _begin(self) -> None:
        if self._buffered is not None:
            self._stream.start()
            self._stream.write(b"".join(self._buffered))  # a gap before the first sample does not count
            self._buffered = None

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._error, ValueError, OverflowError) as error:  # sounddevice's, for devices that do not exist
            self._failed = True
            remedy = "Choose a device with --output-device (see --list-devices), or replace --play by -o FILE."
            reason = "; ".join(str(error).splitlines()) if isinstance(error, ValueError) else first_line(error)
            raise PlayError(f"{what}: {reason.rstrip('.')}. {remedy}") from None


@contextlib.contextmanager
def open_player(rate: int, quiet: bool = False, device: str = "") -> Iterator[Player]:
    """Open a player, and play everything before the block ends without an error.

    Gaps are reported at the end. PlayError is raised if there is no such output, or it stopped.
    """
    player = Player(rate, device)
    try:
        yield player
        player.finish()
    finally:
        player.close()
    if player.gaps:
        plural = "s" * (player.gaps > 1)
        log(f"the sound had {player.gaps:,} gap{plural}: sampling is slower than playback.", quiet)
