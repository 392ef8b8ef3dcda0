"""Prove that many listeners of the listening page are not disturbed by others that send malformed messages.

    python tools/campaigns/crowd.py --minutes 5
    python tools/campaigns/crowd.py --minutes 0.5 --listeners 6 --run runs/voice-001

Four of five listeners play all the time, and their sound is compared with charrnn-sample's; one of five disconnects and
returns. A gap is a moment in which a buffer of 0.3 seconds is empty, even if this process caused the delay. Linux only.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import time
import urllib.request
import wave
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from common import VOICE, Arguments, Result, growth, parser, resident_bytes, run, run_checks, start
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from charrnn.server.messages import MAX_SIZE
from charrnn.server.sampler import HEADER, LISTENER_TIMEOUT

FLAGS = (
    "--layers 1 --rnn-size 16 --wordvec-size 8 --batch-size 8 --seq-length 32 --max-iterations 40 --rate 2000 "
    "--checkpoint-every 20 --precision fp32 --device cpu --threads 1 -q"
).split()
PLAY = {"type": "play", "stream": 1, "run": 0, "checkpoint": "newest", "temperature": 1.0, "seed": 0, "start": None}
MIN_BUFFER, REPORT_INTERVAL = 0.12, 0.04  # seconds, as in player-worklet.js
SEEDS = 3  # of the steady listeners
TIMEOUT = 15.0  # seconds for an answer

Action = Callable[[str, int], Awaitable[None]]  # of a client, with the host and a number


class Server:
    """charrnn-listen in a process of its own."""

    def __init__(self, run: Path, listeners: int, folder: Path) -> None:
        self.messages = folder / "messages"
        flags = ["--port", "0", "--threads", "1", "--listeners", str(listeners)]
        self.process = start("listen", [str(run), *flags], self.messages)
        while not (address := re.search(r"http://([\d.]+:\d+)/.*\n", self.messages.read_text())):
            assert self.process.poll() is None, self.messages.read_text()
            time.sleep(0.05)
        self.host, self.greeting = address[1], address.string
        urllib.request.urlopen(f"http://{self.host}/").close()  # returns once the page is served

    def files(self) -> Counter[str]:
        """Return the open files and connections, and how many there are of each."""
        links: Counter[str] = Counter()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links[os.readlink(entry).partition(":[")[0]] += 1
        return links


class Listener:
    """Client that plays like the page; `gaps` counts the moments with an empty buffer."""

    def __init__(self, host: str, seed: int) -> None:
        self.host, self.seed = host, seed
        self.received, self.gaps, self.rate, self.end_reason = bytearray(), 0, 1, ""
        self._began, self._before, self._count = 0.0, 0, 0

    async def listen(self, seconds: float) -> None:
        """Play for some seconds, then drop the connection."""
        address = f"ws://{self.host}/api/live"
        async with connect(address, compression=None, max_size=None, ping_interval=None, close_timeout=0) as socket:
            await socket.send(json.dumps(PLAY | {"seed": self.seed}))
            reports = asyncio.ensure_future(self._report(socket))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._read(socket)
            reports.cancel()
            socket.transport.abort()

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            if isinstance(message, str):
                found = json.loads(message)
                self.rate = found.get("rate", self.rate)
                if found["type"] in ("ended", "refused"):
                    self.end_reason = found["why"]
                    return
                continue
            self._note(len(message) - HEADER.size)
            self.received += message[HEADER.size :]

    def _note(self, size: int) -> None:
        if self._began and self.played() >= self._count:
            self.gaps += 1
            self._began, self._before = 0.0, self._count
        self._count += size // 2
        if not self._began and self._count - self._before >= MIN_BUFFER * self.rate:
            self._began = time.monotonic()

    def played(self) -> int:
        """Return the number of samples that have been played by now."""
        since = (time.monotonic() - self._began) * self.rate if self._began else 0
        return min(self._count, self._before + int(since))

    async def _report(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(REPORT_INTERVAL)
                await socket.send(json.dumps({"type": "played", "stream": 1, "samples": self.played()}))


async def bad_message(host: str, number: int) -> None:
    """Check that messages that are malformed, too large or name other files are rejected."""
    message = (
        "{" * 99,
        random.Random(number).randbytes(99),
        json.dumps(PLAY | {"checkpoint": "/etc/passwd"}),
        "x" * (MAX_SIZE + 1),
    )[number % 4]
    async with connect(f"ws://{host}/api/live", compression=None, close_timeout=1) as socket:
        async with asyncio.timeout(TIMEOUT):
            await socket.send(message)
            with suppress(ConnectionClosed):
                assert json.loads(await socket.recv())["type"] in ("refused", "ended"), f"{message[:60]!r} was accepted"


async def flood(host: str, _: int) -> None:
    """Send a flood of messages, which must slow down only its own connection."""
    async with connect(f"ws://{host}/api/live", compression=None, close_timeout=0) as socket:
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(2):
                while True:
                    await socket.send('{"type": "stop"}')
                    await asyncio.sleep(0.001)  # the listeners run in this process, too
        socket.transport.abort()


DISTURBANCES: list[tuple[str, float, Action]] = [  # with the seconds between two
    ("bad messages", 0.5, bad_message),
    ("floods of messages", 5, flood),
]


class Crowd:
    """All clients of a page, and the failures that they noted."""

    def __init__(self, server: Server, listeners: int, seed: int) -> None:
        self.server, self.host, self.random = server, server.host, random.Random(seed)
        self.files = server.files()
        self.returning = listeners // 5
        self.steady = [Listener(self.host, number % SEEDS) for number in range(listeners - self.returning)]
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.memory: list[int] = []

    async def run(self, seconds: float) -> None:
        """Run all clients for some seconds."""
        self.end = time.monotonic() + seconds
        tasks = [asyncio.ensure_future(self._try("steady listeners", self._stay(one))) for one in self.steady]
        while time.monotonic() < self.end and not all(one.received for one in self.steady):
            await asyncio.sleep(0.1)
        repeated = [("returning listeners", 1.0, self._visit)] * self.returning + DISTURBANCES
        tasks += [asyncio.ensure_future(self._repeat(*action)) for action in repeated]
        while time.monotonic() < self.end:
            self.memory.append(resident_bytes(self.server.process.pid))
            await asyncio.sleep(1)
        await asyncio.gather(*tasks)

    async def _stay(self, one: Listener) -> None:
        await one.listen(self.end - time.monotonic())
        assert time.monotonic() >= self.end - 1, f"playing ended: {one.end_reason!r}"

    async def _visit(self, host: str, number: int) -> None:
        one = Listener(host, 1000 + number)
        await one.listen(self.random.uniform(0.5, 4))
        assert not one.end_reason or "At most" in one.end_reason, f"playing ended: {one.end_reason!r}"

    async def _repeat(self, name: str, pause: float, action: Action) -> None:
        while time.monotonic() < self.end - 3:
            await self._try(name, action(self.host, self.counts[name]))
            await asyncio.sleep(pause)

    async def _try(self, name: str, action: Awaitable[None]) -> None:
        self.counts[name] += 1
        try:
            await action
        except (AssertionError, OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
            self.failures.append(f"{name}: {type(error).__name__} {str(error)[:300]}")


def check(crowd: Crowd, network: Path, folder: Path) -> Result:
    """Return what was measured; fail if a client failed, or the server lost samples, memory or files."""
    server, steady = crowd.server, crowd.steady
    assert not crowd.failures, "; ".join(crowd.failures[:5])
    longest = max(len(one.received) // 2 for one in steady)
    drawn = [sampled(network, seed, longest, folder) for seed in range(SEEDS)]
    exact = sum(drawn[one.seed].startswith(one.received) for one in steady)
    assert exact == len(steady), f"{exact} of {len(steady)} steady listeners received what charrnn-sample draws"
    time.sleep(LISTENER_TIMEOUT + 2)
    files = server.files() - crowd.files
    assert not files, f"open files after all have left: {', '.join(sorted(files.elements()))}"
    errors = server.messages.read_text().removeprefix(server.greeting)
    assert not errors, f"the server printed {errors[:300]!r}"
    assert server.process.poll() is None, "the server has ended"
    gaps = sum(one.gaps for one in steady)
    assert not gaps, f"{gaps} gaps in {len(steady)} streams"
    memory = growth(crowd.memory)
    counts = ", ".join(f"{count:,} {name}" for name, count in crowd.counts.items())
    return f"{counts}; samples as charrnn-sample draws, without gaps; {memory}"


def sampled(network: Path, seed: int, count: int, folder: Path) -> bytes:
    """Return what charrnn-sample draws, as the page's samples."""
    out = folder / "out.wav"
    flags = ["--seed", str(seed), "--length", str(count), "--threads", "1", "-q", "-o", str(out)]
    run("sample", [str(network), *flags], folder / "sampling")
    with wave.open(str(out)) as file:
        data = np.frombuffer(file.readframes(count), np.uint8)
    return ((data.astype("<i2") - 128) * 256).astype("<i2").tobytes()


def crowd(args: Arguments, folder: Path) -> Result:
    """Run the crowd on a page of its own."""
    network = args.run or folder / "network"
    if not args.run:
        run("train", [str(VOICE), *FLAGS, "--run-dir", str(network)], folder / "training")
    server = Server(network, args.listeners, folder)
    try:
        clients = Crowd(server, args.listeners, args.seed)
        asyncio.run(clients.run(60 * args.minutes))
        return check(clients, network, folder)
    finally:
        server.process.terminate()
        server.process.wait(20)


def main() -> int:
    """Run the crowd; print a row and return 1 if it failed."""
    flags = parser(__doc__)
    flags.add_argument("--run", type=Path, help="run to play, of sound in linear bytes (default: a small new one)")
    flags.add_argument("--listeners", type=int, default=50, help="number of listeners (default: 50)")
    flags.add_argument("--minutes", type=float, default=5.0, help="duration in minutes (default: 5)")
    return run_checks(flags, {"crowd": crowd})


if __name__ == "__main__":
    sys.exit(main())
