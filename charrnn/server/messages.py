"""Messages that a listening page may send over its WebSocket, with the range of each field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocketDisconnect

MAX_SIZE = 4096  # bytes of a message; the page's own have less than 200
MAX_INTEGER = 2**53 - 1  # largest integer that a browser's numbers hold exactly
MAX_STREAM = 2**32 - 1  # of the header of a piece
MAX_TEMPERATURE = 10.0


class MalformedError(Exception):
    """Error for a message that the page never sends; ``str()`` describes the fault."""


def parse(message: Any) -> dict[str, Any]:
    """Return the JSON object of a received ASGI message, with every field of its type in range.

    Raise MalformedError if it is none of the messages in `FIELDS`, or WebSocketDisconnect if the connection has ended.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise MalformedError("The message is binary; messages to this server are JSON.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("The message is not JSON.") from None
    kind = found.get("type") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise MalformedError(f"The type of the message is not one of {', '.join(FIELDS)}.")
    for name, is_valid in FIELDS[kind].items():
        if not is_valid(found.get(name)):
            raise MalformedError(f"In the {kind} message, {name} is {json.dumps(found.get(name))[:40]}.")
    return {"type": kind, **{name: found.get(name) for name in FIELDS[kind]}}


def _integer(limit: int = MAX_INTEGER) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= limit


def _is_temperature(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_TEMPERATURE


FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "play": {
        "stream": _integer(MAX_STREAM),
        "run": _integer(),
        "checkpoint": lambda value: value in ("newest", "best") or _integer()(value),
        "temperature": _is_temperature,
        "seed": _integer(),
        "start": lambda value: value is None or isinstance(value, str),
    },
    "temperature": {"value": _is_temperature},
    "played": {"stream": _integer(MAX_STREAM), "samples": _integer()},
    "stop": {},
}
