"""Limits of time and memory for clients of the listening page that uvicorn does not have.

The classes extend protocols of uvicorn that are not part of its public interface, so setup.cfg has an upper bound on
its version. Public settings of uvicorn are used where they suffice (see `charrnn.show.listen.server`). These do not:
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

HEAD_SECONDS = 10.0  # for the head of a request
REST_SECONDS = 60.0  # for its body, and until its answer has been taken
SOUND_SECONDS = 10.0  # until something that was sent over a WebSocket has been taken
MOST_CONNECTIONS = 200  # twice the most listeners
MOST_WAITING = 1 << 16  # bytes sent over a WebSocket, and not taken
MOST_MESSAGES = 16  # that wait to be obeyed while more are read
PACE, BURST = 100, 200  # messages a second, and at once; the page sends 25, and while its slider moves some 60 more
MOST_PARTS = 64  # of a message, which may be empty; and pings between messages
MOST_READ = 4096  # bytes of frames at once: others come in between


class Deadline:
    """When a connection is cut, without waiting until it has taken what was sent."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def set(self, transport: Any, seconds: float) -> None:
        """From now; in place of an earlier one."""
        self.lift()
        self._timer = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def lift(self) -> None:
        """There is none."""
        if self._timer:
            self._timer.cancel()


class PatientHTTP(H11Protocol):
    """A connection of few enough, each of whose requests has to be over in time, however it trickles."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._deadline, self._waits_for_head = Deadline(), False
        transport.set_write_buffer_limits(0)  # so that it is known whether all has been taken
        if len(self.connections) > MOST_CONNECTIONS:
            words = f"There are {MOST_CONNECTIONS} connections already: try again later.\n"
            head = f"HTTP/1.1 503 \r\ncontent-type: text/plain\r\ncontent-length: {len(words)}\r\nconnection: close"
            transport.write(f"{head}\r\n\r\n{words}".encode())
            transport.close()
        self._watch()

    def _watch(self) -> None:
        """Set the deadline where a request begins, and where its head has come."""
        if self.transport.get_protocol() is not self:  # it has become a WebSocket
            self._deadline.lift()
            return
        waits_for_head = self.conn.their_state is h11.IDLE and not self.flow.write_paused
        if waits_for_head is not self._waits_for_head:
            self._waits_for_head = waits_for_head
            self._deadline.set(self.transport, HEAD_SECONDS if waits_for_head else REST_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read some of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._watch()

    def resume_writing(self) -> None:
        """All has been taken."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._deadline.lift()
        super().connection_lost(exc)


class PatientWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose client has to take what it is sent, and cannot make messages or answers pile up."""

    def connection_made(self, transport: Any) -> None:
        """Shake hands."""
        self._deadline, self._pings = Deadline(), 0
        self._too_soon, self._looked = 0.0, 0.0  # messages that came before their time, when that was last known
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)
        transport.max_size = MOST_READ  # asyncio's own would be 256 KiB

    def pause_writing(self) -> None:
        """Something has not been taken at once."""
        super().pause_writing()
        self._deadline.set(self.transport, SOUND_SECONDS)

    def resume_writing(self) -> None:
        """All has been taken."""
        super().resume_writing()
        self._deadline.lift()

    def data_received(self, data: bytes) -> None:
        """Read some frames."""
        super().data_received(data)
        if not self.handshake_initiated:  # it had more or longer headers than websockets takes, whose answer is waiting
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        if self.transport.get_write_buffer_size() > MOST_WAITING or len(self.frames) > MOST_PARTS:
            self.transport.abort()

    def handle_ping(self) -> None:
        """Answer, but no flood."""
        self._pings += 1
        if self._pings > MOST_PARTS:
            self.transport.abort()
        elif not self.transport.is_closing():
            super().handle_ping()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on, and read on while few wait. Who sends too many, however slowly they are read, is cut.

        Uvicorn stops reading at each one; with many listeners the system calls of that cost more than the sound.
        """
        now = self.loop.time()
        self._too_soon = max(0.0, self._too_soon - PACE * (now - self._looked)) + 1
        self._pings, self._looked = 0, now
        if self._too_soon > BURST:
            self.transport.abort()
            return
        was_paused, are_few = self.read_paused, self.queue.qsize() < MOST_MESSAGES
        self.read_paused = was_paused or are_few
        super().send_receive_event_to_app()
        if are_few:
            self.read_paused = was_paused

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._deadline.lift()
        super().connection_lost(exc)
