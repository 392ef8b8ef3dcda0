"""What an attacker could send to the listening page, and the required response; tools/campaigns/crowd.py runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from charrnn.server.app import MOST_MESSAGE, MOST_UPLOAD
from charrnn.server.connection_limits import HEAD_SECONDS, REST_SECONDS, SOUND_SECONDS
from charrnn.server.session import IDLE

SLACK = 4.0  # seconds, on a machine that has much to do
PLAY = {"type": "play", "take": 1, "run": 0, "checkpoint": "newest", "temperature": 1.0, "seed": 0, "start": None}
PATHS = [
    *("/../setup.cfg", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/.git/config"),
    *("/listen.py", "/listen.js/../listen.py", "/listen.js%00.py", "/..\\..\\setup.cfg", "/api/runs/../../etc/passwd"),
    *(
        f"/api/curves?run={run}"
        for run in ("../..", "%2fetc", "-1", "0%00", "", "0/../..", "9" * 5000, "%D9%A3", "1e0")
    ),
]
FIELDS = [("run", "../.."), ("run", -1), ("run", 10_000), ("checkpoint", "../../etc/passwd"), ("checkpoint", 7)]
FIELDS += [("checkpoint", "/etc/passwd"), ("start", "../../etc/passwd"), ("take", "../a"), ("seed", "/etc/passwd")]
FOREIGN = [
    *({"Host": host} for host in ("evil.example", "192.168.1.7", "127.0.0.1.evil.example", "[::1", "", "127.0.0.1@x")),
    *({"Origin": origin} for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://[", "\xff", "")),
]


def frame(
    code: int, data: bytes, *, last: bool = True, reserved: int = 0, masked: bool = True, size: int = -1
) -> bytes:
    """A WebSocket frame (RFC 6455, 5.2), as it should be or not."""
    size = len(data) if size < 0 else size
    short = size if size < 126 else 126 if size < 1 << 16 else 127
    long = b"" if size < 126 else struct.pack("!H" if size < 1 << 16 else "!Q", size)
    head = bytes([last << 7 | reserved << 4 | code, masked << 7 | short])
    return head + long + bytes(4 * masked) + data  # a mask of noughts


PINGS = 100_000 * frame(9, b"x" * 125)  # more than the system keeps
STOPS = 100_000 * frame(1, b'{"type": "stop"}')
LARGE = b"x" * (MOST_MESSAGE + 1)
MALFORMED = {
    "a reserved opcode": frame(3, b"x"),
    "a reserved bit": frame(1, b"x", reserved=4),
    "no mask": frame(1, b"{}", masked=False),
    "a long ping": frame(9, b"x" * 126),
    "a ping in parts": frame(9, b"x", last=False),
    "a part of nothing": frame(0, b"x"),
    "a text within a text": frame(1, b"a", last=False) + frame(1, b"b"),
    "a size of 2^62": frame(1, b"x", size=1 << 62),
    "no UTF-8": frame(1, b"\xff\xfe"),
    "a close code of 1": frame(8, b"\0\1"),
    "empty parts without end": frame(1, b"", last=False) + 1000 * frame(0, b"", last=False),
    "bytes": frame(2, random.Random(0).randbytes(99)),
    "no JSON": frame(1, b"{" * 99),
    "a large message": frame(1, LARGE),
    "a large message in parts": frame(1, LARGE[:3000], last=False) + frame(0, LARGE[3000:]),
}
GARBAGE = [
    random.Random(1).randbytes(3000),
    b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"\r\n" * 99 + b"\0",
]
GARBAGE += [b"GET /" + b"a" * 70_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000]


@dataclass(frozen=True)
class Page:
    """Where it is served."""

    port: int

    @property
    def host(self) -> str:
        """What it is called."""
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def connection(
        self, data: bytes = b"", room: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection on which something has been sent; ``room``: bytes that the system keeps of what is not read."""
        one = socket.socket()
        if room:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=one, limit=room or 1 << 16)
        try:
            writer.write(data)
            yield reader, writer
        finally:
            writer.transport.abort()

    def head(self, path: str = "/", method: str = "GET", **headers: str) -> bytes:
        """A request's; ``Host=""``: without it."""
        named = {"Host": self.host, **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value or name != "Host"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    def upgrade(self, **headers: str) -> bytes:
        """The head of a WebSocket's handshake."""
        key = {"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec_WebSocket_Version": "13"}
        return self.head("/api/live", Connection="Upgrade", Upgrade="websocket", **key, **headers)

    async def answer(self, data: bytes) -> bytes:
        """All that comes until the connection ends, which it has to soon."""
        async with self.connection(data) as (reader, _), asyncio.timeout(HEAD_SECONDS + SLACK):
            return await rest(reader)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until a connection ends, in whichever way."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := await reader.read(1 << 16):
            data += more
    return data


async def malformed(page: Page, number: int) -> None:
    """Frames that are none end the connection."""
    name = [*MALFORMED][number % len(MALFORMED)]
    said = await _framed(page, MALFORMED[name])
    assert b"\x88" in said or "parts without" in name, f"{name}: {said!r}"
    assert name not in ("bytes", "no JSON") or b'"refused"' in said, f"{name}: {said!r}"


async def _framed(page: Page, data: bytes) -> bytes:
    async with page.connection(page.upgrade()) as (reader, writer), asyncio.timeout(HEAD_SECONDS + SLACK):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        return await rest(reader)


async def garbage(page: Page, number: int) -> None:
    """What is no HTTP, and handshakes with more than there may be, are refused."""
    more = [
        page.upgrade(Cookie="a" * 20_000),
        page.upgrade(**{f"X{n}": "" for n in range(300)}),
        page.upgrade(X="\xff"),
    ]
    data = [*GARBAGE, *more][number % (len(GARBAGE) + len(more))]
    if data is more[2]:
        assert b" 101 " in await asyncio.wait_for(_first(page, data), SLACK)
    else:
        assert (await page.answer(data))[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431"), data[:30]


async def _first(page: Page, data: bytes) -> bytes:
    async with page.connection(data) as (reader, _):
        return await reader.read(100)


async def traversal(page: Page, number: int) -> None:
    """No file but the page's own can be named, wherever."""
    path = PATHS[number % len(PATHS)]
    said = await page.answer(page.head(path, Connection="close"))
    assert said[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404"), f"{path[:80]}: {said[:300]!r}"
    name, value = FIELDS[number % len(FIELDS)]
    message = json.dumps(PLAY | {name: value}).encode()
    async with page.connection(page.upgrade()) as (reader, writer), asyncio.timeout(HEAD_SECONDS + SLACK):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(1, message))
        said = await reader.readuntil(b'"why": ')
        assert b'"refused"' in said or b'"ended"' in said, f"{name} {value}: {said!r}"
    if number % 20 == 0:
        target = f"/api/start?run=0&name=../../../../tmp/crowd-{os.getpid()}.wav"
        said = await page.answer(page.head(target, "POST", Content_Length="4", Connection="close") + b"RIFF")
        assert b"HTTP/1.1 400" in said, said
        assert b"/tmp" not in said, said
        assert not os.path.exists(f"/tmp/crowd-{os.getpid()}.wav")


async def foreign(page: Page, number: int) -> None:
    """A page from elsewhere, and one under another name, are refused."""
    headers = FOREIGN[number % len(FOREIGN)]
    for data in (page.head("/api/runs", Connection="close", **headers), page.upgrade(**headers)):
        said = await page.answer(data)
        assert said[:12] in ((b"HTTP/1.1 403", b"HTTP/1.1 400") if "Host" in headers else (b"HTTP/1.1 403",)), (
            headers,
            said,
        )


async def upload(page: Page, number: int) -> None:
    """More than 50 MB is refused, announced or not."""
    if number % 5:
        length = str([MOST_UPLOAD + 1, 10**12, 10**19, 10**30][number % 4])
        said = await page.answer(page.head("/api/start?run=0", "POST", Content_Length=length, Connection="close"))
    else:
        head = page.head("/api/start?run=0", "POST", Transfer_Encoding="chunked", Connection="close")
        async with page.connection(head) as (reader, writer), asyncio.timeout(REST_SECONDS):
            with contextlib.suppress(ConnectionError):
                for _ in range(MOST_UPLOAD // 100_000 + 1):
                    writer.write(b"186A0\r\n" + bytes(100_000) + b"\r\n")
                    await writer.drain()
            said = await rest(reader)
    assert b"HTTP/1.1 400" in said, said


async def flood(page: Page, number: int) -> None:
    """Messages without end are obeyed at a pace that leaves the listeners theirs, and then cut."""
    async with page.connection(page.upgrade()) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STOPS)
        assert not await asyncio.wait_for(rest(reader), SLACK), "a flood was answered"


Cut = Callable[[Page], Awaitable[float]]


def trickling(first: Callable[[Page], bytes]) -> Cut:
    """Send something, then a byte a second; returns after how many seconds the connection was cut."""

    async def trickle(page: Page) -> float:
        async with page.connection(first(page)) as (reader, writer):
            begin, ending = time.monotonic(), asyncio.ensure_future(rest(reader))
            while not ending.done() and time.monotonic() - begin < 2 * REST_SECONDS:
                await asyncio.wait([ending], timeout=1)
                writer.write(b"a")
            ending.cancel()
            return time.monotonic() - begin

    return trickle


async def silent(page: Page, data: bytes = b"") -> float:
    """Say no more."""
    async with page.connection(data) as (reader, _):
        begin = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(rest(reader), 2 * REST_SECONDS)
        return time.monotonic() - begin


def deaf(seconds: float, data: bytes | Callable[[Page], bytes]) -> Cut:
    """Ask for much and take nothing; once the time is over, the rest of it has to have an end."""

    async def ask(page: Page) -> float:
        async with page.connection(room=2048) as (reader, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            if isinstance(data, bytes):
                writer.write(page.upgrade())
                await asyncio.sleep(SLACK / 2)  # what comes with a handshake is not read
            writer.write(data if isinstance(data, bytes) else data(page))
            begin = time.monotonic()
            await asyncio.sleep(seconds + SLACK / 2)
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            await asyncio.wait_for(rest(reader), SLACK)
            return min(seconds, time.monotonic() - begin)

    return ask


async def idle(page: Page) -> float:
    """Answer every ping of a WebSocket, and say nothing."""
    async with page.connection(page.upgrade()) as (reader, writer):
        begin = time.monotonic()
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while time.monotonic() - begin < 2 * IDLE:
                code, size = await reader.readexactly(2)
                data = await reader.readexactly(size)
                writer.write(frame(10 if code == 0x89 else 8, data))
        return time.monotonic() - begin


SLOW: dict[str, tuple[float, Cut]] = {
    "a connection that says nothing": (HEAD_SECONDS, silent),
    "a byte of a header a second": (HEAD_SECONDS, trickling(lambda page: page.head()[:-2] + b"X: ")),
    "a header that does not end": (HEAD_SECONDS, lambda page: silent(page, page.head()[:-2])),
    "the same after an answer": (HEAD_SECONDS, trickling(lambda page: page.head() + page.head()[:-2] + b"X: ")),
    "an upload that trickles": (
        REST_SECONDS,
        trickling(lambda page: page.head("/api/start?run=0", "POST", Content_Length="9999")),
    ),
    "a body that trickles after its answer": (REST_SECONDS, trickling(lambda page: page.head(Content_Length="9999"))),
    "answers that are not taken": (REST_SECONDS, deaf(REST_SECONDS, lambda page: 500 * page.head("/listen.js"))),
    "a flood of pings": (SOUND_SECONDS, deaf(SOUND_SECONDS, PINGS)),
    "a WebSocket that only answers pings": (IDLE, idle),
}
ATTACKS: dict[str, tuple[float, Callable[[Page, int], Awaitable[None]]]] = {  # and the seconds between two
    "malformed frames, bytes, large messages": (0.3, malformed),
    "no HTTP, handshakes too large": (0.5, garbage),
    "paths in runs, checkpoints, names": (0.5, traversal),
    "foreign Host and Origin": (0.5, foreign),
    "uploads of more than 50 MB": (4, upload),
    "floods of messages": (5, flood),
}
