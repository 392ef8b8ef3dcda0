"""Who may ask the listening page for anything: its own Host, no web page from elsewhere, the token if there is one."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
COOKIE = "charrnn-listen"

#: Everything comes from the page's own server, and no other page may show it in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Around an ASGI application: refuses, in words, whatever does not come from its own page.

    The Host must be a name in ``names``, or with ``addresses`` any IP address. A web page elsewhere can make a browser
    send requests here, even under a name of its own that leads to this machine; the browser says so in Host and Origin,
    which scripts cannot change. An address cannot be made to lead elsewhere, so that it needs no such care.

    Parameters
    ----------
    names
        In lower case, without port.
    token
        What the first address has to end in, ``/?token=...``; a cookie keeps it from there on. "": none.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], addresses: bool = False, token: str = "") -> None:
        self.app, self.names, self.addresses, self.token = app, set(names), addresses, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        why = self._wrong_host(headers) or self._wrong_origin(headers)
        if why:
            await _refuse(why, scope, receive, send)
            return
        answer = self._without_token(scope) if self.token else None
        await (answer or self.app)(scope, receive, _with_headers(send))

    def _wrong_host(self, headers: Headers) -> str:
        hosts = headers.getlist("host")
        name = _name(hosts[0]) if len(hosts) == 1 else ""
        if name in self.names or (self.addresses and _is_address(name)):
            return ""
        return f"This page is not called {(hosts or ['nothing'])[0][:80]!r}: open it at the address that was printed."

    def _wrong_origin(self, headers: Headers) -> str:
        """Browsers name the page that asks; what is no browser names none."""
        origins = headers.getlist("origin")
        here = headers["host"].lower()
        if all(o.lower() in (f"http://{here}", f"https://{here}") for o in origins):
            return ""
        return f"A page of {origins[0][:80]!r} may not use this one."

    def _without_token(self, scope: Scope) -> Response | None:
        """What to say to somebody who has not shown the token before; None to whoever has."""
        asked = HTTPConnection(scope)
        if self._is_token(asked.cookies.get(self._cookie(scope), "")):
            return None
        given = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))).get("token", "")
        if scope["type"] != "http" or not self._is_token(given):
            return PlainTextResponse("This page takes a token: open the address that was printed with it.\n", 401)
        answer = RedirectResponse("/", 303)  # which takes the token out of sight
        answer.set_cookie(self._cookie(scope), self.token, httponly=True, samesite="strict", max_age=30 * 86400)
        return answer

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode("utf-8", "replace"))

    def _cookie(self, scope: Scope) -> str:
        """Cookies do not tell ports apart, so that another page of this machine's would take its place."""
        return f"{COOKIE}-{(scope.get('server') or ('', 0))[1]}"


def _name(host: str) -> str:
    """A Host without its port; "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(f"{why}\n", 403, HEADERS)(scope, receive, send)
