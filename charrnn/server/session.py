"""WebSocket session of one listener, which executes messages and sends the sound of a sampler."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import CancelledError
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from bytecodec.errors import InputError
from charrnn.server import messages
from charrnn.server.sampler import Sampler
from charrnn.server.state import AppState

IDLE_TIMEOUT = 60.0  # seconds without a message; pages that wait for OSC messages may be idle
SEND_TIMEOUT = 10.0  # seconds until sending fails if the listener does not read
MESSAGE_INTERVAL = 0.005  # seconds between messages, so that a flood of them does not delay other listeners


class Session:
    """WebSocket session of one listener."""

    def __init__(self, socket: WebSocket, state: AppState) -> None:
        self._socket, self._state = socket, state
        self._loop = asyncio.get_running_loop()
        self._sampler: Sampler | None = None

    async def serve(self) -> None:
        """Execute messages until the connection ends."""
        await self._socket.accept()
        self._state.sessions.add(self)
        try:
            while True:
                async with asyncio.timeout(None if self._state.accepts_osc else IDLE_TIMEOUT):
                    message = await self._socket.receive()
                try:
                    await self._execute(messages.parse(message))
                except messages.MalformedError as error:
                    await self._send({"type": "refused", "why": f"{error} The connection is closed."})
                    await self._socket.close(1008)
                    return
                await asyncio.sleep(MESSAGE_INTERVAL)
        except (WebSocketDisconnect, ConnectionError, TimeoutError):
            pass
        finally:
            self._state.sessions.discard(self)
            await self._stop()

    def send_control(self, name: str, value: Any) -> None:
        """Send a message of OSC to the page, from any thread; a connection that ends meanwhile does not receive it."""
        sending = self._send({"type": "control", "name": name, "value": value})
        try:
            asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # the loop has ended
            sending.close()

    async def _execute(self, message: dict[str, Any]) -> None:
        kind, sampler = message["type"], self._sampler
        if kind == "play":
            await self._play(message)
        elif kind == "stop":
            await self._stop()
        elif sampler and kind == "temperature":
            sampler.change_temperature(message["value"])
        elif sampler and kind == "played" and message["stream"] == sampler.request.stream:
            sampler.record_played(message["samples"])

    async def _play(self, message: dict[str, Any]) -> None:
        await self._stop()
        try:
            request = await asyncio.to_thread(self._state.play_request, message)
            sampler = Sampler(request, self._send_from_thread, self._state.threads)
            self._state.start(sampler)
        except InputError as error:
            await self._send({"type": "ended", "stream": message["stream"], "why": str(error)})
        else:
            self._sampler = sampler

    async def _stop(self) -> None:
        if self._sampler is None:
            return
        sampler, self._sampler = self._sampler, None
        sampler.stop()
        while sampler.is_alive():  # not joined in a pool's thread, which a stuck sampler would occupy
            await asyncio.sleep(0.01)

    async def _send(self, message: dict[str, Any] | bytes) -> None:
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(json.dumps(message))
        except (WebSocketDisconnect, RuntimeError):  # Starlette raises RuntimeError after the connection has ended
            raise ConnectionError from None

    def _send_from_thread(self, message: dict[str, Any] | bytes) -> None:
        """Send from the sampler's thread; return only when the connection has accepted it, so that nothing queues."""
        sending = self._send(message)
        try:
            done = asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # the loop has ended
            sending.close()
            raise ConnectionError from None
        try:
            done.result(SEND_TIMEOUT)
        except (TimeoutError, CancelledError):
            done.cancel()
            asyncio.run_coroutine_threadsafe(self._socket.close(1008), self._loop)
            raise ConnectionError from None
