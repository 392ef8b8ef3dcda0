"""A network played to one listener: its sampler in a thread, its sound over a WebSocket, just ahead of the ear."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from bytecodec.errors import InputError
from bytecodec.pcm import decode_mulaw

AHEAD = 0.3  # seconds that are sent before they are heard: what a new temperature has to wait for
PIECE = 0.03  # seconds that sampling a piece is to take
LASTS = 0.05  # seconds that it lasts at most: so much less than AHEAD may be waiting, and pieces cost time
SMALLEST, LARGEST = 16, 4096  # symbols of a piece
LISTENER_TIMEOUT = 10.0  # seconds without an acknowledgement of sound by a listener
IDLE = 60.0  # seconds in which who listens to nothing has to say something
BREATH = 0.005  # seconds between messages that are obeyed: a flood of them is not to silence others
STATUS_EVERY = 0.5  # seconds
PRIME = 1024  # symbols of a start that are read between looks at whether anybody still listens
HOTTEST = 10.0
MOST_SEED = 2**53 - 1  # which a browser's numbers hold exactly
HEAD = struct.Struct("<If")  # of a piece: the number of its take, its temperature; then int16 samples


@dataclass(frozen=True)
class Take:
    """What to play: a checkpoint, and how.

    Attributes
    ----------
    number
        The listener's own, which each piece carries.
    start
        Bytes to read before the first one is drawn, in the rate and encoding of ``start_of``.
    """

    number: int
    checkpoint: Path
    temperature: float
    seed: int
    start: bytes = b""
    start_of: tuple[int, str] = (0, "")


class Sampler(threading.Thread):
    """Samples a take for as long as somebody listens.

    Parameters
    ----------
    say
        Sends a message, or bytes, to the listener, and returns when they have left; raises where they cannot.
    threads
        For the engine; 0: a core each.
    """

    def __init__(self, take: Take, log: Callable[[dict[str, Any] | bytes], None], threads: int = 0) -> None:
        super().__init__(name="sampler", daemon=True)
        self.take = take
        self._say, self._threads = log, threads
        self._temperature = take.temperature
        self._sent = self._heard = self._enough = 0  # enough: heard, for the next piece to be sent
        self._seconds = 0.0  # per symbol, lately
        self._stopped = False
        self._changed = threading.Condition()

    def change_temperature(self, value: float) -> None:
        """Of what is sampled from now on."""
        self._temperature = value

    def receive(self, samples: int) -> None:
        """Note how many samples of the take have been heard; more than were sent count for those that were."""
        with self._changed:
            self._heard = max(self._heard, min(samples, self._sent))
            if self._heard >= self._enough:
                self._changed.notify()

    def stop(self) -> None:
        """Have the thread end soon."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Load the network and play it."""
        why = ""
        try:
            self._play()
        except InputError as error:
            why = str(error)
        except MemoryError:
            why = "There is not enough memory for this network."
        except ConnectionError:  # nobody is there any more
            return
        except BaseException:
            self._end("Sampling failed here; what went wrong is said where the page was started.")
            raise
        if why:
            self._end(why)

    def _end(self, why: str) -> None:
        try:
            self._say({"type": "ended", "take": self.take.number, "why": why})
        except ConnectionError:
            return

    def _play(self) -> None:
        from charrnn.engines import engine
        from charrnn.sampling.generate import prime, uniforms
        from charrnn.storage.checkpoint_format import load

        take = self.take
        checkpoint = load(take.checkpoint)
        rate, encoding = checkpoint.rate, checkpoint.encoding or "linear"
        if rate is None or checkpoint.vocab.alphabet is None:
            raise InputError(
                f"{take.checkpoint.name} was trained on text, which has no sound: charrnn-sample writes it."
            )
        if take.start and take.start_of != (rate, encoding):
            raise InputError("The recording to start from was read for another network: drop it once more.")
        network = engine(checkpoint, "auto", 1, threads=self._threads)
        ids = np.frombuffer(take.start, np.uint8).astype(np.int64)
        for place in range(0, len(ids), PRIME):
            prime(network, ids[place : place + PRIME])
            if self._stopped:
                return
        self._say({"type": "playing", "take": take.number, "rate": rate, "step": checkpoint.step})
        table, position, told = samples_of(encoding), 0, 0.0
        while self._wait_for_room(count := self._piece(rate), rate):
            temperature, began = self._temperature, time.perf_counter()
            drawn = network.run(uniforms(take.seed, 0, position, count)[:, None], temperature)[0]
            if position:  # the first piece wakes threads and caches, and says nothing of those after it
                self._measure((time.perf_counter() - began) / count)
            position += count
            self._send(table[drawn], temperature)
            if self._seconds and time.monotonic() - told > STATUS_EVERY:
                told = time.monotonic()
                self._say({"type": "status", "take": take.number, "speed": 1 / (self._seconds * rate)})

    def _piece(self, rate: int) -> int:
        """Symbols of the next piece: few where they take long, so that each is heard soon."""
        longest = min(LARGEST, max(SMALLEST, int(LASTS * rate)))
        return min(longest, max(SMALLEST, int(PIECE / self._seconds))) if self._seconds else SMALLEST

    def _measure(self, seconds: float) -> None:
        self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._seconds else seconds

    def _send(self, samples: NDArray[np.int16], temperature: float) -> None:
        with self._changed:  # before they leave: they may be heard before this goes on
            self._sent += len(samples)
        self._say(HEAD.pack(self.take.number, temperature) + samples.tobytes())

    def _wait_for_room(self, count: int, rate: int) -> bool:
        """Wait until the listener has less than `AHEAD` before them; False where it is over."""
        with self._changed:
            heard, since = self._heard, time.monotonic()
            self._enough = math.ceil(self._sent + count - AHEAD * rate)
            while not self._stopped and self._heard < self._enough:
                self._changed.wait(timeout=1)
                if self._heard > heard:
                    heard, since = self._heard, time.monotonic()
                if time.monotonic() - since > LISTENER_TIMEOUT:
                    raise InputError(f"Nothing was heard for {LISTENER_TIMEOUT:.0f} seconds, so sampling has stopped.")
            return not self._stopped


def samples_of(encoding: str) -> NDArray[np.int16]:
    """What each byte sounds like: (256,), little-endian."""
    codes = np.arange(256, dtype=np.uint8)
    linear = (codes.astype(np.int16) - 128) * 256
    return np.asarray(decode_mulaw(codes) if encoding == "mulaw" else linear, dtype="<i2")


class SessionLimiter:
    """How many may be sampled for at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._samplers: set[Sampler] = set()

    def seat(self, sampler: Sampler) -> bool:
        """Start a sampler, which has a seat until it ends; False where none is free."""
        self._samplers = {one for one in self._samplers if one.is_alive()}
        if len(self._samplers) >= self.count:
            return False
        sampler.start()
        self._samplers.add(sampler)
        return True


class MalformedError(Exception):
    """A message that the page would not send; ``str()`` says what is wrong with it."""


class Listener:
    """The other end of one WebSocket.

    Parameters
    ----------
    find
        Makes a `Take` of a play message, or raises InputError.
    """

    def __init__(
        self, socket: WebSocket, seats: SessionLimiter, find: Callable[[dict[str, Any]], Take], threads: int = 0
    ) -> None:
        self._socket, self._seats, self._find, self._threads = socket, seats, find, threads
        self._loop = asyncio.get_running_loop()
        self._sampler: Sampler | None = None

    async def serve(self) -> None:
        """Do what the messages say until the connection ends."""
        await self._socket.accept()
        try:
            while True:
                async with asyncio.timeout(IDLE):
                    message = await self._socket.receive()
                try:
                    await self._obey(parsed(message))
                except MalformedError as error:
                    await self._tell({"type": "refused", "why": f"{error} The connection ends."})
                    await self._socket.close(1008)
                    return
                await asyncio.sleep(BREATH)
        except (WebSocketDisconnect, ConnectionError, TimeoutError):
            pass
        finally:
            await self._stop()

    async def _obey(self, message: dict[str, Any]) -> None:
        kind, sampler = message["type"], self._sampler
        if kind == "play":
            await self._play(message)
        elif kind == "stop":
            await self._stop()
        elif sampler and kind == "temperature":
            sampler.change_temperature(message["value"])
        elif sampler and kind == "heard" and message["take"] == sampler.take.number:
            sampler.receive(message["samples"])

    async def _play(self, message: dict[str, Any]) -> None:
        await self._stop()
        refusal: dict[str, Any] = {"type": "ended", "take": message["take"]}
        try:
            take = await asyncio.to_thread(self._find, message)
        except InputError as error:
            await self._tell(refusal | {"why": str(error)})
            return
        sampler = Sampler(take, self._say, self._threads)
        if self._seats.seat(sampler):
            self._sampler = sampler
            return
        many = f"{self._seats.count} listeners are" if self._seats.count > 1 else "A listener is"
        why = f"{many} playing already, and no more can be played to at once. Try again when one has stopped."
        await self._tell(refusal | {"why": why})

    async def _stop(self) -> None:
        if self._sampler is None:
            return
        sampler, self._sampler = self._sampler, None
        sampler.stop()
        while sampler.is_alive():  # not joined in a thread, which one that nobody reads from would keep from others
            await asyncio.sleep(0.01)

    async def _tell(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send_text(json.dumps(message))
        except (WebSocketDisconnect, RuntimeError):  # Starlette's words for a connection that has ended
            raise ConnectionError from None

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError):
            raise ConnectionError from None

    def _say(self, message: dict[str, Any] | bytes) -> None:
        """`Sampler.say`: from its thread, and not back before the connection took it, so that nothing piles up here."""
        sending: Coroutine[Any, Any, None] = self._send(message) if isinstance(message, bytes) else self._tell(message)
        try:
            done: Future[None] = asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # the loop has ended
            sending.close()
            raise ConnectionError from None
        try:
            done.result(LISTENER_TIMEOUT)
        except (FutureTimeoutError, CancelledError):
            done.cancel()
            asyncio.run_coroutine_threadsafe(self._socket.close(1008), self._loop)
            raise ConnectionError from None


def parsed(message: Any) -> dict[str, Any]:
    """The JSON object of a received message, with every field of its kind in range."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise MalformedError("That was a message of bytes, and messages here are JSON.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("That message was no JSON.") from None
    kind = found.get("type") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise MalformedError(f"That message was none of {', '.join(FIELDS)}.")
    for name, is_right in FIELDS[kind].items():
        if not is_right(found.get(name)):
            raise MalformedError(f"In that {kind} message, {name} was {json.dumps(found.get(name))[:40]}.")
    return {"type": kind, **{name: found.get(name) for name in FIELDS[kind]}}


def _whole(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= most


def _is_temperature(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= HOTTEST


def _is_short_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 64)


FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "play": {
        "take": _whole(2**32 - 1),
        "run": _whole(10_000),
        "checkpoint": lambda value: value in ("newest", "best") or _whole(2**53)(value),
        "temperature": _is_temperature,
        "seed": _whole(MOST_SEED),
        "start": _is_short_text,
    },
    "temperature": {"value": _is_temperature},
    "heard": {"take": _whole(2**32 - 1), "samples": _whole(2**53)},
    "stop": {},
}
