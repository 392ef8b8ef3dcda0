"""charrnn-listen: a web page that plays networks live."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import sys
import webbrowser
from collections.abc import Sequence

from bytecodec.console import Parser, command, log, option, whole
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import needs, path, threads_of
from charrnn.sampling import osc
from charrnn.storage import run_dir

TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,}")  # needs no escapes in a URL
EXAMPLES = """
charrnn-listen
charrnn-listen runs/voice-001 runs/voice-002 --port 8000
charrnn-listen --osc 9000
charrnn-listen --host 0.0.0.0 --token "$(openssl rand -hex 16)"
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-listen",
        "Serve a page that plays networks live while you change their temperature. Only this machine can open it "
        "unless --host is given. Ctrl-C stops it.",
        EXAMPLES,
    )
    p.add_argument(
        "run",
        nargs="*",
        type=path,
        metavar="RUN",
        help="runs to offer (default: all under ./runs; if there are none, the bundled voices)",
    )
    host = "address to listen on; one that other machines can reach needs --token"
    p.add_argument("--host", default="127.0.0.1", help=host)
    option(p, "--port N", whole(0, 65535), "port to listen on; 0 for any free one", 8765)
    option(p, "--token SECRET", str, "secret of at least 8 characters at the end of the page's address")
    p.add_argument("--open", action="store_true", help="open the page in the default browser")
    osc_help = "UDP port for OSC messages (/temperature, /seed, /play, /stop, /prime) that control all open pages"
    option(p, "--osc PORT", whole(0, 65535), f"{osc_help}, and need no token; 0 for any free port (default: no OSC)")
    option(p, "--listeners N", whole(1, 100), "number of listeners who can play at once", 4)
    flags.add_threads(p, " of each network", flags.ENGINE_THREADS)
    return p


@command
def charrnn_listen(argv: Sequence[str] | None = None) -> int:
    """Serve the listening page as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    is_reachable = not _is_loopback(args.host)
    if is_reachable and not args.token:
        p.error(f"--host {args.host} lets other machines connect: give a --token for them.")
    if args.token is not None and not TOKEN.fullmatch(args.token):
        p.error("--token must have 8 characters or more, each a letter, a digit or one of - . _ ~.")
    runs = [run_dir.find_run(name) for name in args.run] or _default_runs(args.quiet)
    runtime.before_torch()
    with needs("listen"):
        from charrnn.server import app as listen_app
        from charrnn.server.access_control import LOOPBACK
    names = {*LOOPBACK, args.host.lower(), *([socket.gethostname().lower()] if is_reachable else [])}
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(listen_app.bind(args.host, args.port))
        app = listen_app.application(
            runs,
            listeners=args.listeners,
            threads=threads_of(args),
            names=names,
            addresses=is_reachable,
            token=args.token or "",
        )
        offered = runs[0].path.name if len(runs) == 1 else f"{len(runs)} runs"
        if args.osc is not None:
            state = app.state.app
            state.accepts_osc = True
            port = stack.enter_context(osc.receive(args.host, args.osc, state.handle_osc))
            log(f"receiving OSC messages on {args.host}, port {port}.", args.quiet)
        url = _url(args.host, listening, args.token)
        log(f"serving {offered} at {url}; Ctrl-C stops it.", args.quiet)
        if args.open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            listen_app.server(app).run([listening])
    return 0


def _default_runs(quiet: bool) -> list[run_dir.Run]:
    """Return the runs under ./runs, or the bundled voices if there are none."""
    with contextlib.suppress(InputError):
        return run_dir.all_runs(log)
    log("no usable run under ./runs: serving the bundled voices.", quiet)
    return [run_dir.find_voice(name) for name in run_dir.voice_names()]


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):  # raised for names
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _url(host: str, listening: socket.socket, token: str | None) -> str:
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"


if __name__ == "__main__":
    sys.exit(charrnn_listen())
