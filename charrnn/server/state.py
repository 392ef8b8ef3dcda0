"""State of the listening page: the runs on offer, their curves, and recordings that were uploaded."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from bytecodec.console import log
from bytecodec.errors import InputError
from charrnn.server.decode_sandbox import last_bytes
from charrnn.server.live_curves import LiveCurves
from charrnn.server.sampler import PlayRequest, Sampler
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.run_summary import describe_inputs, describe_network, distinct_names

PAGE_TEMPERATURE = 2.0  # largest temperature of the page's slider
PRIME_SECONDS = 2  # of an uploaded recording that the network is primed with
MAX_UPLOADS = 4  # at once; each is a file
MAX_PRIMES = 32  # uploads that are kept; the oldest are dropped


class ControlledPage(Protocol):
    """Page that receives OSC messages, such as `charrnn.server.session.Session`."""

    def send_control(self, name: str, value: Any) -> None: ...


class AppState:
    """Runs that can be listened to, by number, and the samplers that play them.

    Runs are identified by their position in the list and checkpoints by their iteration, so no message holds a path.
    """

    def __init__(self, runs: Sequence[Run], listeners: int, threads: int) -> None:
        self.runs, self.threads = list(runs), threads
        self.names = distinct_names([run.path.resolve().name for run in runs], [run.path for run in runs])
        self.listeners = listeners
        self.sessions: set[ControlledPage] = set()
        self.accepts_osc = False
        self.is_stopping = threading.Event()
        self._osc_primes: dict[int, Path] = {}  # recordings that OSC messages named, by the number of the message
        self._samplers: set[Sampler] = set()
        self.uploading, self.decoding = asyncio.Semaphore(MAX_UPLOADS), asyncio.Semaphore(1)
        self._curves = [LiveCurves(run) for run in runs]
        self._curves_lock = threading.Lock()
        self._primes: dict[str, tuple[bytes, tuple[int, str]]] = {}

    def index(self, number: Any) -> int:
        """Return the number of a run as an index, or raise InputError if there is no such run."""
        if str(number) not in map(str, range(len(self.runs))):
            raise InputError(f"There is no run number {str(number)[:20]!r}.")
        return int(number)

    def listing(self) -> list[dict[str, Any]]:
        """Return the name and the description of each run."""
        return [{"name": name, **_describe(run)} for name, run in zip(self.names, self.runs, strict=True)]

    def curves(self, number: str) -> dict[str, Any]:
        """Return the losses of a run so far."""
        with self._curves_lock:
            return self._curves[self.index(number)].read()

    def add_prime(self, number: str, path: Path) -> dict[str, Any]:
        """Decode an uploaded recording for a run, and return its id and its length in seconds."""
        from charrnn.data.recordings import SoundOptions

        index = self.index(number)
        name = self.names[index]
        try:
            config = self.runs[index].config()
        except InputError:  # its message may contain paths of this machine
            raise InputError(f"The config.json of {name} is damaged.") from None
        if is_frames(config):
            raise InputError(f"{name} is a frame predictor, which cannot start from a recording here.")
        sound = (config.get("rate") or 0, config.get("encoding") or "linear")
        if not sound[0]:
            raise InputError(f"{name} was trained on text, so it cannot start from a recording.")
        options = SoundOptions.of_network(*sound, config["sound"])
        prime = last_bytes(path, options, PRIME_SECONDS * sound[0], self.is_stopping.is_set)
        key = secrets.token_urlsafe(12)
        self._primes[key] = (prime, sound)
        while len(self._primes) > MAX_PRIMES:
            del self._primes[next(iter(self._primes))]
        return {"id": key, "seconds": len(prime) / sound[0]}

    def handle_osc(self, name: str, value: Any) -> None:
        """Pass a message of `charrnn.sampling.osc.receive` to all pages, in any thread."""
        if not self.sessions:
            raise ValueError("no page is open: open the printed address in a browser")
        if name == "temperature" and value > PAGE_TEMPERATURE:
            raise ValueError(f"a page has temperatures from 0 to {PAGE_TEMPERATURE:g}")
        if name == "prime":
            if not os.path.isfile(value):  # unlike Path.is_file, it accepts a name that is too long
                raise ValueError(f"there is no such file: give its absolute path, or one relative to {os.getcwd()}")
            number = max(self._osc_primes, default=0) + 1
            self._osc_primes[number] = Path(value)
            self._osc_primes.pop(number - MAX_PRIMES, None)
            value = {"number": number, "name": Path(value).name}
        for session in tuple(self.sessions):
            session.send_control(name, value)

    def add_osc_prime(self, run: str, number: str) -> dict[str, Any]:
        """Decode the recording that an OSC message named, for a run, as `add_prime` does."""
        try:
            path = self._osc_primes.get(int(number)) if re.fullmatch(r"\d{1,15}", number, re.ASCII) else None
            if path is None:
                raise InputError("The recording that the OSC message named is no longer stored: send /prime again.")
            return self.add_prime(run, path)
        except (InputError, OSError) as error:
            log(f"the recording of the OSC message /prime has no effect: {error}")
            raise

    def play_request(self, message: dict[str, Any]) -> PlayRequest:
        """Return the request of a play message."""
        run = self.runs[self.index(message["run"])]
        file = find_checkpoint(run, message["checkpoint"])
        prime = self._primes.get(message["start"] or "", (b"", (0, "")))
        if message["start"] and not prime[0]:
            raise InputError("The recording to start from is no longer stored: drop it again.")
        return PlayRequest(message["stream"], file, float(message["temperature"]), message["seed"], *prime)

    def start(self, sampler: Sampler) -> None:
        """Start a sampler, or raise InputError if as many as allowed are running."""
        self._samplers = {one for one in self._samplers if one.is_alive()}
        if len(self._samplers) >= self.listeners:
            raise InputError(f"At most {self.listeners} can listen at once: try again when one of them has stopped.")
        sampler.start()
        self._samplers.add(sampler)


def find_checkpoint(run: Run, which: str | int) -> Path:
    """Return a checkpoint file of a run: "newest", "best" or an iteration."""
    files = {int(file.stem): file for file in run.checkpoints()}
    if not files:
        raise InputError(f"{run.path.name} has no checkpoint yet: wait for its first one.")
    if which == "best":
        best = run.best()
        which = best["iteration"] if best else "newest"
    file = files[max(files)] if which == "newest" else files.get(int(which))
    if file is None:
        raise InputError(f"{run.path.name} has no checkpoint {which}.")
    return run.safe_join(file.relative_to(run.path))


def _describe(run: Run) -> dict[str, Any]:
    """Return the description of a run, also if its files cannot be read."""
    found: dict[str, Any] = {
        "rate": 0,
        "kind": "",
        "random": True,
        "network": "",
        "inputs": "",
        "best": None,
        "checkpoints": [],
    }
    try:
        found["checkpoints"] = [int(file.stem) for file in run.checkpoints()]
        config, best = run.config(), run.best()
    except (InputError, OSError):  # its message may hold paths of this machine
        return found | {"network": "its config.json or its checkpoints cannot be read"}
    return found | {
        "rate": config.get("rate") or 0,
        "kind": "frames" if is_frames(config) else "symbols",
        "random": config.get("model", {}).get("loss") != "mse",  # whether sampling uses random numbers
        "network": describe_network(config),
        "inputs": describe_inputs(config),
        "best": best and best["iteration"],
    }
