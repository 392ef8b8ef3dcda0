"""Sockets that commands listen on."""

from __future__ import annotations

import socket

from bytecodec.errors import InputError


def bind(host: str, port: int, flag: str, backlog: int | None = None) -> socket.socket:
    """Return a socket that is bound to a port of a host; port 0 selects a free one.

    Parameters
    ----------
    flag
        Flag that sets the port, which error messages name.
    backlog
        Number of TCP connections that are queued before they are accepted; None for a UDP socket.

    Raises
    ------
    InputError
        The host is not this machine's, or the port cannot be used.
    """
    kind = socket.SOCK_DGRAM if backlog is None else socket.SOCK_STREAM
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise InputError(f"there is no host {host}: give 127.0.0.1 for this machine alone.") from None
    bound = socket.socket(family, kind)
    try:
        if backlog is not None:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        if backlog is not None:
            bound.listen(backlog)
    except OSError as error:
        bound.close()
        raise InputError(
            f"cannot listen on port {port} of {host} ({error.strerror or error}): give another {flag}, or an address "
            "of this machine as --host."
        ) from None
    return bound
