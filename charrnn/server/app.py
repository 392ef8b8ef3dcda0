"""The listening page: networks played live in a browser. It alone of what is to look at drives engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bytecodec.arguments import HIGHEST_RATE
from bytecodec.errors import InputError
from charrnn.server.access_control import LOOPBACK, Guard
from charrnn.server.connection_limits import MOST_CONNECTIONS, LimitedHTTP, LimitedWebSocket
from charrnn.server.decode_sandbox import last_bytes
from charrnn.server.live_curves import GrowingCurves
from charrnn.server.session import Listener, SessionLimiter, Take
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.run_summary import distinguish, inputs_of, network_of

MOST_UPLOAD = 50_000_000  # bytes
UPLOAD_RATE = 5_000_000  # bytes a second, at which it troubles nobody who listens
START_SECONDS = 2  # of a dropped recording that the network reads
TOO_LARGE = f"That is more than {MOST_UPLOAD // 1_000_000} MB: a part that ends in the same way will do."
MOST_UPLOADS = 4  # at once: each is a file
MOST_STARTS = 32  # that are kept; the oldest go
MOST_MESSAGE = 4096  # bytes of a WebSocket message; the page's own have under 200
MOST_STEP = 2**53 - 1  # largest integer that a browser's numbers hold exactly
FILES = {
    "/": ("listen.html", "text/html"),
    "/listen.css": ("listen.css", "text/css"),
    "/listen.js": ("listen.js", "text/javascript"),
    "/listen-draw.js": ("listen-draw.js", "text/javascript"),
    "/listen-worklet.js": ("listen-worklet.js", "text/javascript"),
}


class AppState:
    """The runs that can be listened to, by number, and who listens.

    Runs are named by their place in the list and checkpoints by their iteration: no message holds a path.
    """

    def __init__(self, runs: Sequence[Run], listeners: int, threads: int) -> None:
        self.runs, self.threads = list(runs), threads
        self.names = distinguish([run.path.resolve().name for run in runs], [run.path for run in runs])
        self.seats = SessionLimiter(listeners)
        self.uploading, self.decoding = asyncio.Semaphore(MOST_UPLOADS), asyncio.Semaphore(1)
        self._curves = [GrowingCurves(run) for run in runs]
        self._looking = threading.Lock()
        self._starts: dict[str, tuple[bytes, tuple[int, str]]] = {}

    def run(self, number: Any) -> Run:
        """The run of a number; an InputError where there is none."""
        if str(number) not in map(str, range(len(self.runs))):
            raise InputError(f"There is no run of number {str(number)[:20]!r} here.")
        return self.runs[int(number)]

    def listing(self) -> list[dict[str, Any]]:
        """What there is to choose from."""
        return [{"name": name, **_about(run)} for name, run in zip(self.names, self.runs, strict=True)]

    def curves(self, number: str) -> dict[str, Any]:
        """The losses of a run so far."""
        self.run(number)
        with self._looking:
            return self._curves[int(number)].look()

    def keep_start(self, number: str, path: Path) -> dict[str, Any]:
        """Decode what was dropped on the page for a run; returns what to call it by."""
        from charrnn.data.recordings import SoundOptions

        run = self.run(number)
        try:
            config = run.config()
        except InputError:  # its message may hold paths of this machine
            raise InputError(f"The config.json of {self.names[int(number)]} is damaged.") from None
        if is_frames(config):
            raise InputError(_not_played(self.names[int(number)]))
        sound = (_rate(config), str(config.get("encoding") or "linear"))
        if not sound[0]:
            raise InputError(f"{self.names[int(number)]} was trained on text: it cannot start from a recording.")
        options = SoundOptions.of_network(*sound, config.get("sound"))
        last = last_bytes(path, options, START_SECONDS * sound[0])
        key = secrets.token_urlsafe(12)
        self._starts[key] = (last, sound)
        while len(self._starts) > MOST_STARTS:
            del self._starts[next(iter(self._starts))]
        return {"id": key, "seconds": len(last) / sound[0]}

    def take(self, message: dict[str, Any]) -> Take:
        """What a play message asks for."""
        from charrnn.storage.checkpoint_format import kind_of

        run = self.run(message["run"])
        file = _checkpoint(run, message["checkpoint"])
        if kind_of(file) == "frames":
            raise InputError(_not_played(run.path.name))
        start = self._starts.get(message["start"] or "", (b"", (0, "")))
        if message["start"] and not start[0]:
            raise InputError("The recording to start from is no longer kept here: drop it once more.")
        return Take(message["take"], file, float(message["temperature"]), message["seed"], *start)


def _checkpoint(run: Run, which: str | int) -> Path:
    """Return a checkpoint file of a run."""
    files = {int(file.stem): file for file in run.checkpoints()}
    if not files:
        raise InputError(f"{run.path.name} has no checkpoint yet: let it train until its first one.")
    if which == "best":
        best = run.best()
        which = best["iteration"] if best else "newest"
    file = files[max(files)] if which == "newest" else files.get(int(which))
    if file is None:
        raise InputError(f"{run.path.name} has no checkpoint {which}.")
    return run.inside(file.relative_to(run.path))


def _about(run: Run) -> dict[str, Any]:
    """Return the description of a run. Files that cannot be read do not hide other runs."""
    found: dict[str, Any] = {"rate": 0, "kind": "", "network": "", "inputs": "", "best": None, "checkpoints": []}
    try:
        found["checkpoints"] = [int(file.stem) for file in run.checkpoints()]
        config, best = run.config(), run.best()
    except (InputError, OSError):  # its message may hold paths of this machine
        return found | {"network": "its config.json or its checkpoints cannot be read"}
    is_known = isinstance(config.get("model"), dict) and isinstance(config.get("inputs"), list)
    about = {"network": network_of(config if is_known else {}), "inputs": inputs_of(config if is_known else {})}
    about |= {"kind": "frames" if is_frames(config) else "symbols"}
    return found | about | {"rate": _rate(config), "best": best and min(best["iteration"], MOST_STEP)}


def _not_played(name: str) -> str:
    return f"{name} is a frame predictor, which cannot be played live: use charrnn-sample."


def _rate(config: dict[str, Any]) -> int:
    rate = config.get("rate")
    return rate if type(rate) is int and 0 < rate <= HIGHEST_RATE else 0


def application(
    runs: Sequence[Run],
    *,
    listeners: int = 4,
    threads: int = 0,
    names: Collection[str] = LOOPBACK,
    addresses: bool = False,
    token: str = "",
) -> Starlette:
    """The page and all that it talks to.

    Parameters
    ----------
    listeners
        How many can be played to at once; each has a sampler of its own.
    threads
        Of an engine; 0: a core each.
    names, addresses, token
        See `charrnn.server.access_control.Guard`.
    """
    house = AppState(runs, listeners, threads)

    async def file(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return Response(resources.files("charrnn.server").joinpath("static", name).read_bytes(), media_type=kind)

    async def listing(_: Request) -> Response:
        return JSONResponse({"runs": await asyncio.to_thread(house.listing), "listeners": house.seats.count})

    async def curves(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(house.curves, request.query_params.get("run", "")))

    async def start(request: Request) -> Response:
        asked = request.query_params
        if house.uploading.locked():
            raise InputError("Other recordings are on their way here: drop it once more in a minute.")
        name = re.sub(r"[^\w. -]", "_", asked.get("name", ""))[-60:].strip(". ") or "the file"
        async with house.uploading:
            try:
                with tempfile.TemporaryDirectory(prefix="charrnn-listen-") as folder:
                    path = Path(folder) / name
                    await _receive(request, path)
                    async with house.decoding:
                        return JSONResponse(await asyncio.to_thread(house.keep_start, asked.get("run", ""), path))
            except OSError as error:
                raise InputError(f"The recording cannot be kept here: {error.strerror or error}.") from None

    async def live(websocket: WebSocket) -> None:
        await Listener(websocket, house.seats, house.take, house.threads).serve()

    return Starlette(
        routes=[
            *(Route(path, file) for path in FILES),
            Route("/api/runs", listing),
            Route("/api/curves", curves),
            Route("/api/start", start, methods=["POST"]),
            WebSocketRoute("/api/live", live),
        ],
        middleware=[Middleware(Guard, names=names, addresses=addresses, token=token)],
        exception_handlers={InputError: _said},
        lifespan=_warming,
    )


async def _said(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


async def _receive(request: Request, path: Path) -> None:
    """Write what is uploaded to a file, and refuse it as soon as it is too much."""
    received, announced = 0, request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MOST_UPLOAD:
        raise InputError(TOO_LARGE)
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                received += len(part)
                if received > MOST_UPLOAD:
                    raise InputError(TOO_LARGE)
                file.write(part)
                await asyncio.sleep(len(part) / UPLOAD_RATE)
    except ClientDisconnect:
        raise InputError("The recording ended before all of it was here.") from None


@contextlib.asynccontextmanager
async def _warming(_: Starlette) -> AsyncIterator[None]:
    """Load what samples while the page opens, or the first listener would wait for it."""

    def load() -> None:
        import charrnn.engines.cpu.engine
        import charrnn.sampling.generate
        import charrnn.storage.checkpoint_format  # noqa: F401

    threading.Thread(target=load, daemon=True).start()
    yield


def server(app: Starlette) -> uvicorn.Server:
    """What serves an application on sockets: ``server(app).run([bind(...)])``."""
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    config = uvicorn.Config(
        app,
        http=LimitedHTTP,
        ws=LimitedWebSocket,
        ws_max_size=MOST_MESSAGE,
        ws_per_message_deflate=False,  # PCM hardly gets smaller
        timeout_graceful_shutdown=3,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
    )
    return uvicorn.Server(config)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is worth a line: what a stranger sent, and that a handshake was refused, is not."""
    return not str(record.msg).startswith(
        ("Invalid UTF-8 sequence", "ASGI callable returned without completing handsh")
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on a host's port; 0: any that is free.

    Raises
    ------
    InputError
        The host is not this machine's, or the port is taken.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        raise InputError(f"there is no host {host}: take 127.0.0.1 for this machine alone.") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(MOST_CONNECTIONS)  # so that who comes before it serves waits
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise InputError(f"cannot listen on port {port} of {host} ({reason}): name another --port, or 0.") from None
    return listening
