"""Control of live playback by messages of Open Sound Control (OSC 1.0) over UDP.

/temperature 0.8    /seed 7    /play    /stop    /prime voice.wav

The messages of a bundle have their effect at once; its time tag is ignored.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bytecodec.console import log
from bytecodec.errors import InputError, first_line, printable
from charrnn import sockets

MAX_TEMPERATURE = 10.0
MAX_SEED = 2**53 - 1  # largest integer that a JavaScript number represents exactly
MAX_SHOWN = 80  # characters of a message in a warning
MAX_PACKET = 65536  # bytes, more than a UDP packet has
POLL = 0.2  # seconds between two checks whether the block has ended
Handler = Callable[[str, Any], None]  # receives temperature, seed, play, stop or prime, and its value or None


@contextlib.contextmanager
def receive(host: str, port: int, handle: Handler) -> Iterator[int]:
    """Pass messages to a function, in a thread, until the block ends; yield the port in use. Port 0 selects a free one.

    A message with an unknown address or a wrong value is reported on stderr and has no effect.

    Raise InputError if python-osc is not installed or the address cannot be used.
    """
    try:
        from pythonosc.osc_packet import OscPacket, ParseError
    except ImportError:
        raise InputError("python-osc is not installed: install it with pip install 'charrnn-sound[osc]'.") from None

    def handle_message(address: str, *values: Any) -> None:
        try:
            handle(*_parse(address, values))
        except ValueError as error:
            shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in (address, *values))
            message = printable(" ".join(shown), MAX_SHOWN)
            log(f"the OSC message {message} has no effect: {error}.")

    def handle_packet(packet: bytes) -> None:
        try:
            messages = [timed.message for timed in OscPacket(packet).messages]
        except (ParseError, ValueError, RecursionError) as error:
            log(f"an OSC packet of {len(packet)} bytes has no effect: {first_line(error)}.")
            return
        for message in messages:
            handle_message(message.address, *message.params)

    def receive_packets() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                handle_packet(listening.recv(MAX_PACKET))

    ended, unreadable = threading.Event(), _Unreadable()
    with sockets.bind(host, port, "--osc") as listening:
        listening.settimeout(POLL)
        logging.getLogger().addFilter(unreadable)
        thread = threading.Thread(target=receive_packets, name="osc", daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join()
            logging.getLogger().removeFilter(unreadable)


class _Unreadable(logging.Filter):
    """Raises what python-osc would log, which is that it skips a part of a packet that it cannot read."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.module in ("osc_bundle", "osc_message"):
            raise ValueError(record.getMessage())
        return True


def _parse(address: str, values: tuple[Any, ...]) -> tuple[str, Any]:
    """Return the name and the value of a message, or raise a ValueError that describes what is wrong."""
    name = address.removeprefix("/")
    kinds = {"temperature": (int, float), "seed": (int, float), "play": (), "stop": (), "prime": (str,)}
    if address != f"/{name}" or name not in kinds:
        raise ValueError(f"the addresses are {', '.join(f'/{name}' for name in kinds)}")
    if not kinds[name]:
        return name, None  # controllers add a value to a button
    if len(values) != 1 or values[0] == "" or isinstance(values[0], bool) or not isinstance(values[0], kinds[name]):
        raise ValueError("it must have one number" if name != "prime" else "it must have the path of a recording")
    value: Any = values[0]
    if name == "temperature" and not 0 <= value <= MAX_TEMPERATURE:
        raise ValueError(f"a temperature is from 0 to {MAX_TEMPERATURE:g}")
    if name == "seed" and not (0 <= value <= MAX_SEED and value == int(value)):
        raise ValueError("a seed is a whole number from 0 to 2^53 - 1")
    return name, int(value) if name == "seed" else value
