"""Thread that samples a network for one listener, slightly ahead of playback."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bytecodec.errors import InputError
from charrnn.server.sources import open_source

PIECE_TIME = 0.03  # seconds of computation per piece
PIECE_LENGTH = 0.05  # seconds of sound per piece at most, well below the lead; each piece has a fixed cost
MIN_PIECE, MAX_PIECE = 16, 4096  # symbols
LISTENER_TIMEOUT = 10.0  # seconds without progress of playback
STATUS_INTERVAL = 0.5  # seconds
PRIME_BLOCK = 1024  # symbols; between blocks the sampler can be stopped
HEADER = struct.Struct("<If")  # of a piece: stream number and temperature; int16 samples follow


@dataclass(frozen=True)
class PlayRequest:
    """Request to play a stream of a checkpoint.

    ``stream`` is the number that the listener assigned to this stream and is in each piece. ``prime`` holds the bytes
    to prime the network with, at the rate and in the encoding of ``prime_format``.
    """

    stream: int
    checkpoint: Path
    temperature: float
    seed: int
    prime: bytes = b""
    prime_format: tuple[int, str] = (0, "")


class Sampler(threading.Thread):
    """Thread that samples a stream until it is stopped, with ``threads`` threads of the engine, 0 for one per core.

    ``send`` sends a message or a piece to the listener and returns when it was sent; it raises ConnectionError if it
    cannot.
    """

    def __init__(self, request: PlayRequest, send: Callable[[dict[str, Any] | bytes], None], threads: int = 0) -> None:
        super().__init__(name="sampler", daemon=True)
        self.request = request
        self._send, self._threads = send, threads
        self._temperature = request.temperature
        self._sent = self._played = 0  # samples
        self._symbol_time = 0.0  # seconds per symbol, recent mean
        self._stopped = False
        self._changed = threading.Condition()

    def change_temperature(self, value: float) -> None:
        """Set the temperature of the following pieces."""
        self._temperature = value

    def record_played(self, samples: int) -> None:
        """Record how many samples of the stream have been played, at most the number that was sent."""
        with self._changed:
            self._played = max(self._played, min(samples, self._sent))
            self._changed.notify()

    def stop(self) -> None:
        """Make the thread end soon."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Load the network and play it; report the reason if playing ends with an error."""
        try:
            self._play()
        except InputError as error:
            self._report_end(str(error))
        except MemoryError:
            self._report_end("There is not enough memory for this network.")
        except ConnectionError:
            return
        except BaseException:
            self._report_end("Sampling failed; charrnn-listen has printed the error.")
            raise

    def _report_end(self, why: str) -> None:
        with contextlib.suppress(ConnectionError):
            self._send({"type": "ended", "stream": self.request.stream, "why": why})

    def _play(self) -> None:
        request = self.request
        prime_format = request.prime_format if request.prime else None
        source = open_source(request.checkpoint, request.seed, self._threads, prime_format)
        rate = source.rate
        ids = np.frombuffer(request.prime, np.uint8).astype(np.int64)
        for first in range(0, len(ids), PRIME_BLOCK):
            source.prime(ids[first : first + PRIME_BLOCK])
            if self._stopped:
                return
        playing = {"type": "playing", "stream": request.stream, "step": source.step}
        self._send(playing | {"rate": rate, "isText": source.is_text})
        reported = 0.0
        while self._wait_for_room(count := self._piece_size(rate), source.lead * rate):
            temperature, began = self._temperature, time.perf_counter()
            drawn = source.draw(count, temperature)
            if self._sent:  # the first piece is slower than the rest, because threads and caches are cold
                seconds = (time.perf_counter() - began) / len(drawn)
                self._symbol_time = 0.9 * self._symbol_time + 0.1 * seconds if self._symbol_time else seconds
            with self._changed:  # counted before they are sent, because they may be played before `_send` returns
                self._sent += len(drawn)
            if isinstance(drawn, str):
                text = {"type": "text", "stream": request.stream, "temperature": temperature, "text": drawn}
                self._send(text)
            else:
                self._send(HEADER.pack(request.stream, temperature) + drawn.astype("<i2").tobytes())
            if self._symbol_time and time.monotonic() - reported > STATUS_INTERVAL:
                reported = time.monotonic()
                speed = 1 / (self._symbol_time * rate)
                self._send({"type": "status", "stream": request.stream, "speed": speed})

    def _piece_size(self, rate: int) -> int:
        """Return the number of symbols in the next piece, which is small for slow networks, for a short delay."""
        longest = min(MAX_PIECE, max(MIN_PIECE, int(PIECE_LENGTH * rate)))
        return min(longest, max(MIN_PIECE, int(PIECE_TIME / self._symbol_time))) if self._symbol_time else MIN_PIECE

    def _wait_for_room(self, count: int, lead: float) -> bool:
        """Wait until ``count`` more samples are at most ``lead`` ahead of playback; return False if stopped."""
        with self._changed:
            played, since = self._played, time.monotonic()
            while not self._stopped and self._played < self._sent + count - lead:
                self._changed.wait(timeout=1)
                if self._played > played:
                    played, since = self._played, time.monotonic()
                if time.monotonic() - since > LISTENER_TIMEOUT:
                    raise InputError(f"Nothing was played for {LISTENER_TIMEOUT:.0f} seconds, so sampling has stopped.")
            return not self._stopped
