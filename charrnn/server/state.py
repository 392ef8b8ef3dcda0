"""State of the listening page: the runs on offer, their curves, and recordings that were uploaded."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bytecodec.arguments import HIGHEST_RATE
from bytecodec.errors import InputError
from charrnn.server.decode_sandbox import last_bytes
from charrnn.server.live_curves import LiveCurves
from charrnn.server.messages import MAX_INTEGER
from charrnn.server.sampler import PlayRequest, SessionLimiter
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.run_summary import describe_inputs, describe_network, distinct_names

PRIME_SECONDS = 2  # of an uploaded recording that the network is primed with
MAX_UPLOADS = 4  # at once; each is a file
MAX_STARTS = 32  # uploads that are kept; the oldest are dropped


class AppState:
    """Runs that can be listened to, by number, and the samplers that play them.

    Runs are identified by their position in the list and checkpoints by their iteration, so no message holds a path.
    """

    def __init__(self, runs: Sequence[Run], listeners: int, threads: int) -> None:
        self.runs, self.threads = list(runs), threads
        self.names = distinct_names([run.path.resolve().name for run in runs], [run.path for run in runs])
        self.limiter = SessionLimiter(listeners)
        self.uploading, self.decoding = asyncio.Semaphore(MAX_UPLOADS), asyncio.Semaphore(1)
        self._curves = [LiveCurves(run) for run in runs]
        self._curves_lock = threading.Lock()
        self._starts: dict[str, tuple[bytes, tuple[int, str]]] = {}

    def run(self, number: Any) -> Run:
        """Return the run with a number, or raise InputError."""
        if str(number) not in map(str, range(len(self.runs))):
            raise InputError(f"There is no run number {str(number)[:20]!r}.")
        return self.runs[int(number)]

    def listing(self) -> list[dict[str, Any]]:
        """Return the name and the description of each run."""
        return [{"name": name, **_describe(run)} for name, run in zip(self.names, self.runs, strict=True)]

    def curves(self, number: str) -> dict[str, Any]:
        """Return the losses of a run so far."""
        self.run(number)
        with self._curves_lock:
            return self._curves[int(number)].read()

    def add_start(self, number: str, path: Path) -> dict[str, Any]:
        """Decode an uploaded recording for a run, and return its id and its length in seconds."""
        from charrnn.data.recordings import SoundOptions

        run, name = self.run(number), self.names[int(number)]
        try:
            config = run.config()
        except InputError:  # its message may contain paths of this machine
            raise InputError(f"The config.json of {name} is damaged.") from None
        if is_frames(config):
            raise InputError(_frames_refusal(name))
        sound = (_rate(config), str(config.get("encoding") or "linear"))
        if not sound[0]:
            raise InputError(f"{name} was trained on text, so it cannot start from a recording.")
        options = SoundOptions.of_network(*sound, config.get("sound"))
        prime = last_bytes(path, options, PRIME_SECONDS * sound[0])
        key = secrets.token_urlsafe(12)
        self._starts[key] = (prime, sound)
        while len(self._starts) > MAX_STARTS:
            del self._starts[next(iter(self._starts))]
        return {"id": key, "seconds": len(prime) / sound[0]}

    def play_request(self, message: dict[str, Any]) -> PlayRequest:
        """Return what a play message asks for."""
        from charrnn.storage.checkpoint_format import kind_of

        run = self.run(message["run"])
        file = find_checkpoint(run, message["checkpoint"])
        if kind_of(file) == "frames":
            raise InputError(_frames_refusal(run.path.name))
        start = self._starts.get(message["start"] or "", (b"", (0, "")))
        if message["start"] and not start[0]:
            raise InputError("The recording to start from is no longer stored: drop it again.")
        return PlayRequest(message["stream"], file, float(message["temperature"]), message["seed"], *start)


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
    return run.inside(file.relative_to(run.path))


def _describe(run: Run) -> dict[str, Any]:
    """Return the description of a run. Files that cannot be read do not hide other runs."""
    found: dict[str, Any] = {"rate": 0, "kind": "", "network": "", "inputs": "", "best": None, "checkpoints": []}
    try:
        found["checkpoints"] = [int(file.stem) for file in run.checkpoints()]
        config, best = run.config(), run.best()
    except (InputError, OSError):  # its message may hold paths of this machine
        return found | {"network": "its config.json or its checkpoints cannot be read"}
    if isinstance(config.get("model"), dict) and isinstance(config.get("inputs"), list):
        found |= {"network": describe_network(config), "inputs": describe_inputs(config)}
    else:
        found |= {"network": describe_network({})}
    found |= {"kind": "frames" if is_frames(config) else "symbols"}
    return found | {"rate": _rate(config), "best": best and min(best["iteration"], MAX_INTEGER)}


def _frames_refusal(name: str) -> str:
    return f"{name} is a frame predictor, which cannot be played live: use charrnn-sample."


def _rate(config: dict[str, Any]) -> int:
    rate = config.get("rate")
    return rate if type(rate) is int and 0 < rate <= HIGHEST_RATE else 0
