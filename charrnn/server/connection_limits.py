"""Limits of time and memory for clients of the listening page that uvicorn does not have.

The classes extend protocols of uvicorn that are not part of its public interface, so setup.cfg has an upper bound on
its version. Public settings of uvicorn are used where they suffice (see `charrnn.server.app.server`). These do not:
``timeout_keep_alive`` begins only after an answer and ends with the next byte. ``limit_concurrency`` rejects requests
but keeps connections. A ping timeout closes a connection only after all data were read. ``ws_max_size`` counts bytes,
and an empty part has none.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_SECONDS = 10.0  # for a client to send the head of a request
REST_SECONDS = 60.0  # for its body, and to read the answer
SOUND_SECONDS = 10.0  # to read what was sent over a WebSocket
MOST_CONNECTIONS = 200  # twice the most listeners
MOST_WAITING = 1 << 16  # bytes sent over a WebSocket and not read
MOST_MESSAGES = 16  # in the queue while more are read
MESSAGE_RATE, BURST = 100, 200  # per second, and at once; the page sends 25, and some 60 more while its slider moves
MOST_PARTS = 64  # parts of a message, which may be empty; also pings between messages
MOST_READ = 4096  # bytes of frames at a time, so that other clients are served in between


class Deadline:
    """Time after which a connection is aborted, whether or not the client has read what was sent."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def set(self, transport: Any, seconds: float) -> None:
        """Start the deadline, in place of an earlier one."""
        self.lift()
        self._timer = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def lift(self) -> None:
        """Cancel the deadline."""
        if self._timer:
            self._timer.cancel()


class LimitedHTTP(H11Protocol):
    """HTTP connection that limits the number of connections, and the time of each request however slowly it arrives."""

    def connection_made(self, transport: Any) -> None:
        """Start the deadline of the first request."""
        super().connection_made(transport)
        self._deadline, self._waits_for_head = Deadline(), False
        transport.set_write_buffer_limits(0)  # so that writing resumes only when everything was sent
        if len(self.connections) > MOST_CONNECTIONS:
            words = f"There are {MOST_CONNECTIONS} connections already: try again later.\n"
            head = f"HTTP/1.1 503 \r\ncontent-type: text/plain\r\ncontent-length: {len(words)}\r\nconnection: close"
            transport.write(f"{head}\r\n\r\n{words}".encode())
            transport.close()
        self._watch()

    def _watch(self) -> None:
        """Set the deadline when a request begins, and when its head is complete."""
        if self.transport.get_protocol() is not self:  # it was upgraded to a WebSocket
            self._deadline.lift()
            return
        waits_for_head = self.conn.their_state is h11.IDLE and not self.flow.write_paused
        if waits_for_head is not self._waits_for_head:
            self._waits_for_head = waits_for_head
            self._deadline.set(self.transport, HEAD_SECONDS if waits_for_head else REST_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        super().on_response_complete()
        self._watch()

    def resume_writing(self) -> None:
        """Handle that everything was sent."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._deadline.lift()
        super().connection_lost(exc)


class LimitedWebSocket(WebSocketsSansIOProtocol):
    """WebSocket that limits the time in which a client must read, and the messages and answers that are queued."""

    def connection_made(self, transport: Any) -> None:
        """Start the handshake."""
        self._deadline, self._pings = Deadline(), 0
        self._excess, self._counted_at = 0.0, 0.0  # messages above the rate, and the time of that count
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)
        transport.max_size = MOST_READ  # asyncio's own would be 256 KiB

    def pause_writing(self) -> None:
        """Start the deadline for the client to read."""
        super().pause_writing()
        self._deadline.set(self.transport, SOUND_SECONDS)

    def resume_writing(self) -> None:
        """Handle that everything was sent."""
        super().resume_writing()
        self._deadline.lift()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        super().data_received(data)
        if not self.handshake_initiated:  # too many or too long headers; the rejection is ready
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        if self.transport.get_write_buffer_size() > MOST_WAITING or len(self.frames) > MOST_PARTS:
            self.transport.abort()

    def handle_ping(self) -> None:
        """Answer a ping; abort after too many."""
        self._pings += 1
        if self._pings > MOST_PARTS:
            self.transport.abort()
        elif not self.transport.is_closing():
            super().handle_ping()

    def send_receive_event_to_app(self) -> None:
        """Pass a message to the application, and go on reading while few are queued; abort if there are too many.

        Uvicorn stops reading at each message; with many listeners those system calls cost more than the sound.
        """
        now = self.loop.time()
        self._excess = max(0.0, self._excess - MESSAGE_RATE * (now - self._counted_at)) + 1
        self._pings, self._counted_at = 0, now
        if self._excess > BURST:
            self.transport.abort()
            return
        was_paused, are_few = self.read_paused, self.queue.qsize() < MOST_MESSAGES
        self.read_paused = was_paused or are_few
        super().send_receive_event_to_app()
        if are_few:
            self.read_paused = was_paused

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._deadline.lift()
        super().connection_lost(exc)
