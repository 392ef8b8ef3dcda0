"""Fill the listening page with listeners and attackers at once, and see that neither troubles the listeners.

    python tools/campaigns/crowd.py --minutes 5
    python tools/campaigns/crowd.py --minutes 0.5 --listeners 6 --run runs/voice-001

Three in five listeners are steady, and keep all that they hear; of the others one half plays at half the speed and
stops reading now and then, and the other goes without a word and comes back. A gap is what the page counts as one: a
buffer of 0.3 seconds that runs dry, also where this process was late itself. Linux only. Prints Markdown, and ends with
1 where a promise of docs/explanation/guarantees.md is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from attacks import ATTACKS, PLAY, SLACK, SLOW, Page
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from charrnn.server.session import HEAD, LISTENER_TIMEOUT

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--layers 1 --wordvec-size 8 --batch-size 8 --seq-length 32 --max-iterations 40 --checkpoint-every 20 "
    "--precision fp32 --device cpu --threads 1 -q"
).split()
BEGIN, TELL = 0.12, 0.04  # seconds, as in listen-worklet.js
SEEDS = 3  # among which the steady listeners are divided
STILL = 5.0  # seconds in which nobody is there
WORK = 0.03  # of them that the server may be busy: it looks at the clock ten times a second
FLAT = 0.05


class Failed(Exception):  # noqa: N818  # it is a result
    """A promise that was broken."""


class Server:
    """charrnn-listen in a process of its own."""

    def __init__(self, run: Path, listeners: int, folder: Path) -> None:
        self.said = folder / "said"
        command = [sys.executable, "-m", "charrnn.commands.listen", str(run), "--port", "0", "--threads", "1"]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen([*command, "--listeners", str(listeners)], cwd=ROOT, stderr=said)
        while not (address := re.match(r"http://[\d.]+:(\d+)/ plays .*\n", self.said.read_text())):
            if self.process.poll() is not None:
                raise Failed(self.said.read_text())
            time.sleep(0.05)
        self.page, self.hello = Page(int(address[1])), address[0]

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._file("statm").split()[1]) * os.sysconf("SC_PAGESIZE")

    def work(self) -> float:
        """Seconds of processors so far."""
        fields = self._file("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def files(self) -> Counter[str]:
        """What it has open, connections among them, and how many of each kind or name."""
        links: Counter[str] = Counter()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                links[os.readlink(entry).partition(":[")[0]] += 1
        return links

    def _file(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


class Ear:
    """One who listens, at a pace, as the page does; `gaps` are moments in which there was nothing to play."""

    def __init__(self, page: Page, seed: int, pace: float = 1.0) -> None:
        self.page, self.seed, self.pace = page, seed, pace
        self.heard, self.gaps, self.rate, self.why = bytearray(), 0, 1, ""
        self._begun, self._before, self._count = 0.0, 0, 0

    async def listen(self, seconds: float, nap: float = 0.0, keeps: bool = False) -> None:
        """Play; at the end go without a word. ``nap``: seconds of each six in which nothing is read."""
        address = f"ws://{self.page.host}/api/live"
        async with connect(address, compression=None, max_size=None, ping_interval=None, close_timeout=0) as socket:
            try:
                async with asyncio.timeout(seconds):
                    await socket.send(json.dumps(PLAY | {"seed": self.seed}))
                    telling = asyncio.ensure_future(self._tell(socket))
                    await self._read(socket, nap, keeps)
            except TimeoutError:
                pass
            finally:
                telling.cancel()
                socket.transport.abort()

    async def _read(self, socket: ClientConnection, nap: float, keeps: bool) -> None:
        awake = time.monotonic()
        async for message in socket:
            if nap and time.monotonic() - awake > 6 - nap:
                await asyncio.sleep(nap)
                awake = time.monotonic()
            if isinstance(message, str):
                said = json.loads(message)
                self.rate = said.get("rate", self.rate)
                if said["type"] in ("ended", "refused"):
                    self.why = said["why"]
                    return
                continue
            self._note(len(message) - HEAD.size)
            if keeps:
                self.heard += message[HEAD.size :]

    def _note(self, size: int) -> None:
        if self._begun and self.played() >= self._count:
            self.gaps += 1
            self._begun, self._before = 0.0, self._count
        self._count += size // 2
        if not self._begun and self._count - self._before >= BEGIN * self.rate:
            self._begun = time.monotonic()

    def played(self) -> int:
        """Samples that have been heard by now."""
        since = (time.monotonic() - self._begun) * self.rate * self.pace if self._begun else 0
        return min(self._count, self._before + int(since))

    async def _tell(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(TELL)
                await socket.send(json.dumps({"type": "heard", "take": 1, "samples": self.played()}))


class Crowd:
    """All who come to a page, and what becomes of them."""

    def __init__(self, server: Server, listeners: int, seed: int) -> None:
        self.server, self.page, self.random = server, server.page, random.Random(seed)
        self.files = server.files()
        others = listeners // 5
        self.steady = [Ear(self.page, number % SEEDS) for number in range(listeners - 2 * others)]
        self.slow = [Ear(self.page, 100 + number, 0.5) for number in range(others)]
        self.vanishing = others
        self.tried: Counter[str] = Counter()
        self.slowest: Counter[str] = Counter()
        self.failures: list[str] = []
        self.memory: list[tuple[float, int]] = []
        self.late = 0.0  # seconds that this process was, at most
        self.go = asyncio.Event()

    async def come(self, seconds: float) -> None:
        """Let everybody in for so long, the attackers when all listeners play."""
        self.end = time.monotonic() + seconds
        tasks = [self._stay(ear, 0.0, True) for ear in self.steady] + [self._stay(ear, 3.0) for ear in self.slow]
        going = [asyncio.ensure_future(one) for one in (*tasks, *(self._vanish(n) for n in range(self.vanishing)))]
        while time.monotonic() < self.end and not all(ear.heard for ear in self.steady):
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # until the others play, who came as early
        further = Ear(self.page, 0)
        await self._must("one listener more", further.listen(5))
        if "listeners are playing already" not in further.why:
            self.failures.append(f"a listener more than there are seats was told {further.why!r}")
        self.go.set()
        going += [asyncio.ensure_future(self._attack(name)) for name in ATTACKS]
        going += [asyncio.ensure_future(self._wait_to_be_cut(name)) for name in SLOW if SLOW[name][0] + SLACK < seconds]
        begin = time.monotonic()
        while time.monotonic() < self.end:
            self.memory.append((time.monotonic() - begin, self.server.memory()))
            for _ in range(20):
                now = time.monotonic()
                await asyncio.sleep(0.05)
                self.late = max(self.late, time.monotonic() - now - 0.05)
        await asyncio.gather(*going)

    async def _stay(self, ear: Ear, nap: float, keeps: bool = False) -> None:
        await self._must("listeners who stay", ear.listen(self.end - time.monotonic(), nap, keeps))
        if time.monotonic() < self.end - 1:
            self.failures.append(f"a listener who wanted to stay was told {ear.why!r}")

    async def _vanish(self, number: int) -> None:
        """Go and come back, the first time when all have been there; hold on to a dead connection now and then."""
        first = asyncio.ensure_future(Ear(self.page, 1000 + number).listen(self.end - time.monotonic()))
        await self.go.wait()
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        while (left := self.end - time.monotonic()) > 1:
            ear = Ear(self.page, 1000 + number, self.random.choice((1.0, 1.0, 0.0)))
            seconds = self.random.uniform(0.5, 4)
            await self._must("listeners who vanish", ear.listen(min(left, seconds * (1 if ear.pace else 5))))
            if ear.why and "Nothing was heard for" not in ear.why and "playing already" not in ear.why:
                self.failures.append(f"a listener who came back was told {ear.why!r}")
            await asyncio.sleep(self.random.uniform(0.1, 2))

    async def _attack(self, name: str) -> None:
        pause, attack = ATTACKS[name]
        number = 0
        while time.monotonic() < self.end - SLACK:
            await self._must(name, attack(self.page, number))
            number += 1
            await asyncio.sleep(pause)

    async def _wait_to_be_cut(self, name: str) -> None:
        limit, attack = SLOW[name]
        while time.monotonic() + limit + SLACK < self.end:
            await self._must(name, self._timed(name, limit, attack(self.page)))

    async def _timed(self, name: str, limit: float, attack: Awaitable[float]) -> None:
        took = await attack
        self.slowest[name] = max(self.slowest[name], took)  # type: ignore[assignment]
        assert took < limit + SLACK, f"cut after {took:.1f} seconds"

    async def _must(self, name: str, what: Awaitable[None]) -> None:
        """Count something, and note where it goes wrong."""
        self.tried[name] += 1
        try:
            await what
        except (AssertionError, OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
            self.failures.append(f"{name}: {type(error).__name__} {str(error)[:300]}")


def judge(crowd: Crowd, run: Path, alone: Ear, warm_up: float) -> Iterator[tuple[str, str, bool]]:
    """What is promised, what came of it, and whether that is well."""
    server = crowd.server
    for name, count in crowd.tried.items():
        bad = sum(one.startswith(f"{name}: ") for one in crowd.failures)
        cut = f"; cut after {crowd.slowest[name]:.1f} s at most (stated: {SLOW[name][0]:.0f})" if name in SLOW else ""
        yield name, f"{count:,} tried, {count - bad:,} as documented{cut}", not bad
    drawn = [sampled(run, seed, max(len(ear.heard) // 2 for ear in crowd.steady)) for seed in range(SEEDS)]
    exact = [bytes(ear.heard) == drawn[ear.seed].tobytes()[: len(ear.heard)] for ear in crowd.steady]
    count = sum(len(ear.heard) // 2 for ear in crowd.steady)
    yield (
        "samples of steady listeners",
        f"{count:,}, of {sum(exact)} of {len(exact)} as charrnn-sample draws",
        all(exact),
    )
    gaps = sum(ear.gaps for ear in crowd.steady)
    words = f"{gaps} in {len(exact)} streams; alone {alone.gaps}; here up to {crowd.late:.2f} s late"
    yield "gaps of steady listeners", words, not gaps
    first = [size for at, size in crowd.memory if warm_up - 10 <= at < warm_up] or [1]
    last = [size for _, size in crowd.memory[-10:]]
    before, after = statistics.median(first), statistics.median(last)
    words = f"{before / 1e6:.0f} MB after {warm_up:.0f} s, {after / 1e6:.0f} MB at the end ({after / before - 1:+.1%})"
    yield (
        "memory",
        f"{words}, {max(size for _, size in crowd.memory) / 1e6:.0f} at most",
        abs(after / before - 1) <= FLAT,
    )
    time.sleep(LISTENER_TIMEOUT + 2)
    begin, files = server.work(), server.files() - crowd.files
    time.sleep(STILL)
    work = server.work() - begin
    left = ", ".join(sorted(files.elements())) or "no file more than before"
    yield "when all have gone", f"{work:.2f} s of work in {STILL:.0f} s, {left}", work <= STILL * WORK and not files
    said = server.said.read_text().removeprefix(server.hello)
    yield "alive, and without a word", said[:300] or "yes", server.process.poll() is None and not said


def sampled(run: Path, seed: int, count: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """What charrnn-sample draws, as the page's samples."""
    with tempfile.TemporaryDirectory(prefix="crowd-") as folder:
        out = f"{folder}/out.wav"
        flags = ["--seed", str(seed), "--length", str(count), "--threads", "1", "-q", "-o", out]
        subprocess.run([sys.executable, "-m", "charrnn.commands.sample", str(run), *flags], cwd=ROOT, check=True)
        with wave.open(out) as file:
            data = np.frombuffer(file.readframes(count), np.uint8)
    return ((data.astype("<i2") - 128) * 256).astype("<i2")


def trained(folder: Path, units: int, rate: int) -> Path:
    """A small network that has learnt two tones a little."""
    t = np.arange(6 * rate) / rate
    noise = np.random.default_rng(0).normal(0, 3, t.size)
    tones = np.rint(128 + 50 * np.sin(2 * np.pi * 210 * t) + 20 * np.sin(2 * np.pi * 525 * t) + noise)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setparams((1, 1, rate, 0, "NONE", ""))
        file.writeframes(tones.astype(np.uint8).tobytes())
    command = [sys.executable, "-m", "charrnn.commands.train", str(folder / "tone.wav"), "--rnn-size", str(units)]
    command += ["--rate", str(rate), "--run-dir", str(folder / "tone"), *FLAGS]
    out = subprocess.DEVNULL
    subprocess.run(command, cwd=ROOT, check=True, stdout=out)
    return folder / "tone"


@contextmanager
def served(run: Path, listeners: int, folder: Path) -> Iterator[Server]:
    """A page that ends with the block."""
    server = Server(run, listeners, folder)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(20)


def main() -> int:
    """Let the crowd in; prints a table and returns 1 where something was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="to play, of sound in linear bytes (default: one is trained)")
    parser.add_argument("--units", type=int, default=16, help="of that which is trained (default: 16)")
    parser.add_argument("--rate", type=int, default=2000, help="of its sound, in Hz (default: 2000)")
    parser.add_argument("--listeners", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seconds = 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="crowd-") as place:
        folder = Path(place)
        run = (args.run or trained(folder, args.units, args.rate)).resolve()
        with served(run, args.listeners, folder) as server:
            alone = Ear(server.page, 0)
            asyncio.run(alone.listen(5))
            crowd = Crowd(server, args.listeners, args.seed)
            asyncio.run(crowd.come(seconds))
            rows = list(judge(crowd, run, alone, min(60.0, seconds / 3)))
    print("| what | result | |\n|---|---|---|")
    for name, words, is_well in rows:
        print(f"| {name} | {words} | {'ok' if is_well else 'FAILED'} |")
    for failure in crowd.failures:
        print(failure, file=sys.stderr)
    return int(bool(crowd.failures) or not all(is_well for *_, is_well in rows))


if __name__ == "__main__":
    sys.exit(main())
