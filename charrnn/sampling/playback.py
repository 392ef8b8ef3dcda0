"""Sound on the default output while it is sampled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec import decode_mulaw
from bytecodec.console import log
from bytecodec.errors import InputError

BUFFER = 0.25  # seconds between a sample and its sound, for which the sampling may fall behind


class PlayError(InputError):
    """The sound device does not play, or not any more."""


def library() -> Any:
    """The sounddevice module.

    Raises
    ------
    InputError
        It is not installed, or the library is not that it calls.
    """
    try:
        import sounddevice
    except ImportError:
        raise InputError(
            "sounddevice is not installed, which this takes: pip install 'charrnn-sound[play]' brings it."
        ) from None
    except OSError:
        raise InputError(
            "sounddevice finds no PortAudio library: install it (on Debian and Ubuntu: apt-get install libportaudio2)."
        ) from None
    return sounddevice


class Player:
    """Plays symbols of a network of sound, at the volume that they have."""

    def __init__(self, rate: int, mulaw: bool) -> None:
        self.gaps = 0  # moments in which the device had nothing to play
        self._mulaw = mulaw
        self._failed = False
        self._waiting: list[bytes] | None = []  # what comes before the sound begins
        self._missing = round(BUFFER * rate)  # samples until then
        self._error = library().PortAudioError
        with self._explained("there is no sound output that plays this"):
            self._stream = library().RawOutputStream(samplerate=rate, channels=1, dtype="int16", latency=BUFFER)

    def write(self, ids: NDArray[np.integer[Any]]) -> None:
        """Play the next symbols (n,); returns once they are in the buffer."""
        data = as_int16(ids.astype(np.uint8), self._mulaw).tobytes()
        with self._explained("the sound output stopped"):
            if self._waiting is None:
                self.gaps += bool(self._stream.write(data))
                return
            self._waiting.append(data)
            self._missing -= len(ids)
            if self._missing <= 0:
                self._begin()

    def finish(self) -> None:
        """Return when all has been heard."""
        if not self._failed:
            with self._explained("the sound output stopped"):
                self._begin()
                self._stream.stop()

    def close(self) -> None:
        """Be silent."""
        with contextlib.suppress(self._error):
            self._stream.abort()
        with contextlib.suppress(self._error):
            self._stream.close()

    def _begin(self) -> None:
        if self._waiting is not None:
            self._stream.start()
            self._stream.write(b"".join(self._waiting))  # a gap before the first sample is none
            self._waiting = None

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._error, ValueError) as error:  # sounddevice raises both, of devices that are not there
            self._failed = True
            raise PlayError(f"{what}: {str(error).rstrip('.')}. Leave --play out, and play a file of -o.") from None


@contextlib.contextmanager
def open_player(rate: int, mulaw: bool = False, quiet: bool = False) -> Iterator[Player]:
    """A player on the default output; all that it was given has been heard when the block ends well.

    Parameters
    ----------
    rate
        In Hz.
    mulaw
        The symbols are G.711 mu-law and not unsigned linear bytes.
    quiet
        Do not say on stderr, at the end, that there were gaps.

    Raises
    ------
    PlayError
        There is no such output, or it went away.
    """
    player = Player(rate, mulaw)
    try:
        yield player
        player.finish()
    finally:
        player.close()
    if player.gaps:
        log(
            f"the sound had {player.gaps:,} gap{'s' * (player.gaps > 1)}: the sampling is slower than it plays.",
            quiet,
        )


def as_int16(samples: NDArray[np.uint8], mulaw: bool) -> NDArray[np.int16]:
    """Bytes (n,) of sound as 16-bit samples."""
    return decode_mulaw(samples) if mulaw else ((samples.astype(np.int16) - 128) * 256).astype(np.int16)
