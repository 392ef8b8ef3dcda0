"""Access control of the listening page: accepted hosts, same-origin requests only, and an optional token."""

from __future__ import annotations

import contextlib
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

HEADERS = {
    # Everything is loaded from the page's own server, and no other page may embed it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class AccessControl:
    """ASGI middleware that rejects requests that do not come from the page itself.

    The Host must be one of ``names``, in lower case and without port, or with ``addresses`` any IP address. Another web
    page can make a browser send requests here, even under a domain of its own that resolves to this machine (DNS
    rebinding). The browser then names that page in Host and Origin, which scripts cannot change. An IP address cannot
    be rebound. The first address must end in the ``token``, as ``/?token=...``, if it is not ""; a cookie holds it from
    then on.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], addresses: bool = False, token: str = "") -> None:
        self.app, self.names, self.addresses, self.token = app, set(names), addresses, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request, or pass it to the application."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        error = self._host_error(headers) or self._origin_error(headers)
        if error:
            await PlainTextResponse(f"{error}\n", 403, HEADERS)(scope, receive, send)
            return
        response = self._token_response(scope) if self.token else None
        await (response or self.app)(scope, receive, _adding_headers(send))

    def _host_error(self, headers: Headers) -> str:
        hosts = headers.getlist("host") or [""]
        with contextlib.suppress(ValueError):  # raised for an invalid host, and for a name that is no address
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
            if name and (name in self.names or (self.addresses and ipaddress.ip_address(name))):
                return ""
        return f"{hosts[0][:80]!r} is not a name of this page: open it at the address that was printed."

    def _origin_error(self, headers: Headers) -> str:
        """Return an error if the request has the Origin of another page; only browsers send an Origin."""
        origins = headers.getlist("origin")
        here = headers["host"].lower()
        if all(o.lower() in (f"http://{here}", f"https://{here}") for o in origins):
            return ""
        return f"A page of {origins[0][:80]!r} may not use this one."

    def _token_response(self, scope: Scope) -> Response | None:
        """Return the answer to a client without the cookie; None if the client has it."""
        connection = HTTPConnection(scope)
        if self._is_token(connection.cookies.get(self._cookie(scope), "")):
            return None
        given = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))).get("token", "")
        if scope["type"] != "http" or not self._is_token(given):
            return PlainTextResponse("This page needs a token: open the address that was printed with it.\n", 401)
        response = RedirectResponse("/", 303)  # removes the token from the address that the browser shows
        response.set_cookie(self._cookie(scope), self.token, httponly=True, samesite="strict", max_age=30 * 86400)
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode("utf-8", "replace"))

    def _cookie(self, scope: Scope) -> str:
        """Return a cookie name with the port, because cookies are shared by all ports of a host."""
        return f"{COOKIE}-{(scope.get('server') or ('', 0))[1]}"


def _adding_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending
