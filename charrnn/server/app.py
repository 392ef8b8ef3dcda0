"""HTTP routes of the listening page, and the server that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from importlib import resources
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bytecodec.errors import InputError
from charrnn import sockets
from charrnn.server import messages
from charrnn.server.access_control import LOOPBACK, AccessControl
from charrnn.server.session import Session
from charrnn.server.state import AppState
from charrnn.storage.run_dir import Run

MAX_UPLOAD = 50_000_000  # bytes
TOO_LARGE = f"The recording has more than {MAX_UPLOAD // 1_000_000} MB: use its last minute."
UPLOAD_RATE = 5_000_000  # bytes per second; a faster upload would delay listeners
UPLOAD_TIMEOUT = 60.0  # seconds
MAX_CONNECTIONS = 500  # enough for 100 listeners, whose browsers keep up to two open each
FILES = {  # package whose folder static/ holds each file
    "listen.html": "charrnn.server",
    "listen.js": "charrnn.server",
    "listen-curve.js": "charrnn.server",
    "page.css": "charrnn.web",
    "draw.js": "charrnn.web",
    "midi.js": "charrnn.web",
    "player.js": "charrnn.web",
    "controls.js": "charrnn.web",
    "player-worklet.js": "charrnn.web",
    "text-writer.js": "charrnn.web",
}
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def application(
    runs: Sequence[Run],
    *,
    listeners: int = 4,
    threads: int = 0,
    names: Collection[str] = LOOPBACK,
    addresses: bool = False,
    token: str = "",
) -> Starlette:
    """Return the ASGI application of the page, on which a number of listeners can play at once.

    ``threads`` is the number of threads of each engine, 0 for one per core. See `AccessControl` for the last three
    parameters. The application's ``state.app`` is its `AppState`, which can pass on OSC messages.
    """
    state = AppState(runs, listeners, threads)

    async def file(request: Request) -> Response:
        name = request.url.path[1:] or "listen.html"
        content = resources.files(FILES[name]).joinpath("static", name).read_text(encoding="utf-8")
        if name == "listen.html":
            player = resources.files("charrnn.web").joinpath("static", "player.html").read_text(encoding="utf-8")
            content = content.replace("{{player}}", player)
        return Response(content, media_type=MEDIA_TYPES[Path(name).suffix])

    async def listing(_: Request) -> Response:
        found = await asyncio.to_thread(state.listing)
        return JSONResponse({"runs": found, "listeners": state.listeners, "osc": state.accepts_osc})

    async def curves(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(state.curves, request.query_params.get("run", "")))

    async def start(request: Request) -> Response:
        return JSONResponse(await _upload(state, request))

    async def osc_start(request: Request) -> Response:
        async with state.decoding:
            query = request.query_params
            found = await asyncio.to_thread(state.add_osc_prime, query.get("run", ""), query.get("prime", ""))
        return JSONResponse(found)

    async def live(websocket: WebSocket) -> None:
        await Session(websocket, state).serve()

    made = Starlette(
        routes=[
            *(Route(f"/{name}", file) for name in ("", *FILES)),
            Route("/api/runs", listing),
            Route("/api/curves", curves),
            Route("/api/start", start, methods=["POST"]),
            Route("/api/osc-start", osc_start, methods=["POST"]),
            WebSocketRoute("/api/live", live),
        ],
        middleware=[Middleware(AccessControl, names=names, addresses=addresses, token=token)],
        exception_handlers={InputError: _bad_request},
        lifespan=_preloading,
    )
    made.state.app = state
    return made


async def _bad_request(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


async def _upload(state: AppState, request: Request) -> dict[str, object]:
    """Store a recording that was dropped on the page, and decode it."""
    if state.uploading.locked():
        raise InputError("Other recordings are being uploaded: try again in a minute.")
    query = request.query_params
    name = re.sub(r"[^\w. -]", "_", query.get("name", ""))[-60:].strip(". ") or "the file"
    async with state.uploading:
        try:
            with tempfile.TemporaryDirectory(prefix="charrnn-listen-") as folder:
                path = Path(folder) / name
                async with asyncio.timeout(UPLOAD_TIMEOUT):
                    await _receive(request, path)
                async with state.decoding:
                    return await asyncio.to_thread(state.add_prime, query.get("run", ""), path)
        except TimeoutError:
            raise InputError(f"The upload took more than {UPLOAD_TIMEOUT:.0f} seconds: use a shorter part.") from None
        except OSError as error:
            raise InputError(f"The recording cannot be stored: {error.strerror or error}.") from None


async def _receive(request: Request, path: Path) -> None:
    """Write an upload to a file, and reject it as soon as it is too large."""
    received, announced = 0, request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_UPLOAD:
        raise InputError(TOO_LARGE)
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                received += len(part)
                if received > MAX_UPLOAD:
                    raise InputError(TOO_LARGE)
                file.write(part)
                await asyncio.sleep(len(part) / UPLOAD_RATE)
    except ClientDisconnect:
        raise InputError("The connection ended during the upload.") from None


@contextlib.asynccontextmanager
async def _preloading(_: Starlette) -> AsyncIterator[None]:
    """Import the engine while the page opens, so that the first listener does not wait for it."""

    def load() -> None:
        import charrnn.engines.cpu.engine
        import charrnn.sampling.generate
        import charrnn.storage.checkpoint_format  # noqa: F401

    threading.Thread(target=load, daemon=True).start()
    yield


def server(app: Starlette) -> uvicorn.Server:
    """Return the server of an application: ``server(app).run([bind(...)])``.

    uvicorn's own settings limit time and size. uvicorn does not limit how long a client takes to send a request or to
    read the response, so a public page needs a reverse proxy that does.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_own_error)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="websockets-sansio",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=3,
        ws_max_size=messages.MAX_SIZE,
        ws_per_message_deflate=False,  # PCM is hardly compressible
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Server that ends the decoding of recordings when it is stopped, so that no request is cancelled."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.app.is_stopping.set()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def _is_own_error(record: logging.LogRecord) -> bool:
    """Return False for errors that a client's request caused; these are not logged."""
    return not str(record.msg).startswith(("Invalid UTF-8 sequence", "ASGI callable returned without completing"))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port of a host; see `charrnn.sockets.bind`."""
    return sockets.bind(host, port, "--port", MAX_CONNECTIONS)  # connections made before the server runs are queued
