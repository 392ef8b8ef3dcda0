"""charrnn-listen: a web page that plays networks live."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence

from bytecodec.console import Parser, command, log, wrong_command_line
from charrnn import runtime
from charrnn.commands.flags import needs, path, whole
from charrnn.storage import run_dir

MIN_TOKEN = 8  # characters
EXAMPLES = """
charrnn-listen
charrnn-listen runs/voice-001 runs/voice-002 --port 8000
charrnn-listen --host 0.0.0.0 --token "$(openssl rand -hex 16)"
"""


def parser() -> Parser:
    """Return the parser of the command line."""
    p = Parser(
        "charrnn-listen",
        "Serve a page that plays networks live while you change their temperature. Only this machine can open it "
        "unless --host is given. The page is meant for one's own machine or a small group. Ctrl-C stops it.",
        EXAMPLES,
    )
    p.add_argument(
        "run", nargs="*", type=path, metavar="RUN", help="runs to offer on the page (default: all under ./runs)"
    )
    p.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; one that other machines can reach needs --token"
    )
    p.add_argument(
        "--port", type=whole(0, 65535), default=8765, metavar="N", help="port to listen on; 0 for any free one"
    )
    p.add_argument("--token", metavar="SECRET", help="secret of at least 8 characters at the end of the page's address")
    p.add_argument(
        "--listeners", type=whole(1, 100), default=4, metavar="N", help="number of listeners who can play at once"
    )
    p.add_argument(
        "--threads",
        type=whole(0, runtime.MAX_THREADS),
        default=None,
        metavar="N",
        help="number of CPU threads of each network; 0 for one per core (default: CHARRNN_THREADS, or 0)",
    )
    return p


@command
def charrnn_listen(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-listen and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    is_open = not _is_loopback(args.host)
    if is_open and not args.token:
        wrong_command_line(p, f"--host {args.host} lets other machines connect: give a --token for them.")
    if args.token is not None and not (
        len(args.token) >= MIN_TOKEN and args.token.isascii() and _needs_no_escape(args.token)
    ):
        wrong_command_line(
            p, f"--token must have {MIN_TOKEN} characters or more, each a letter, a digit or one of - . _ ~"
        )
    threads = runtime.default_threads() if args.threads is None else args.threads
    runs = [run_dir.find_run(name) for name in args.run] or run_dir.all_runs(log)
    runtime.before_torch()
    with needs("listen"):
        from charrnn.server import app as listen_app
        from charrnn.server.access_control import LOOPBACK
    names = {*LOOPBACK, args.host.lower(), *([socket.gethostname().lower()] if is_open else [])}
    with listen_app.bind(args.host, args.port) as listening:
        app = listen_app.application(
            runs,
            listeners=args.listeners,
            threads=threads,
            names=names,
            addresses=is_open,
            token=args.token or "",
        )
        log(f"{_url(args.host, listening, args.token)} plays {_names(runs)}; Ctrl-C stops it.", args.quiet)
        try:
            listen_app.server(app).run([listening])
        except KeyboardInterrupt:
            return 0
    return 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _needs_no_escape(token: str) -> bool:
    """Return whether a token appears unchanged in a URL."""
    return all(c.isalnum() or c in "-._~" for c in token)


def _url(host: str, listening: socket.socket, token: str | None) -> str:
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"


def _names(runs: Sequence[run_dir.Run]) -> str:
    return runs[0].path.name if len(runs) == 1 else f"{len(runs)} runs"


if __name__ == "__main__":
    sys.exit(charrnn_listen())
