"""Control of live playback by messages of Open Sound Control (OSC 1.0) over UDP.

/temperature 0.8    /seed 7    /play    /stop    /prime voice.wav
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bytecodec.console import log
from bytecodec.errors import InputError, printable

MAX_TEMPERATURE = 10.0
MAX_SEED = 2**53 - 1  # largest integer that a JavaScript number represents exactly
MAX_SHOWN = 80  # characters of a message in a warning
Handler = Callable[[str, Any], None]  # receives temperature, seed, play, stop or prime, and its value or None


@contextlib.contextmanager
def receive(host: str, port: int, handle: Handler) -> Iterator[int]:
    """Pass messages to a function, in a thread, until the block ends; yield the port in use. Port 0 selects a free one.

    A message with an unknown address or a wrong value is reported on stderr and has no effect.

    Raise InputError if python-osc is not installed or the address cannot be used.
    """
    try:
        from pythonosc.dispatcher import Dispatcher
        from pythonosc.osc_server import BlockingOSCUDPServer
    except ImportError:
        raise InputError("python-osc is not installed: install it with pip install 'charrnn-sound[osc]'.") from None

    def receive_one(address: str, *values: Any) -> None:
        try:
            handle(*_parse(address, values))
        except ValueError as error:
            message = printable(" ".join(map(str, (address, *values))), MAX_SHOWN)
            log(f"the OSC message {message} has no effect: {error}.")

    dispatcher = Dispatcher()
    dispatcher.set_default_handler(receive_one)
    try:
        server = BlockingOSCUDPServer((host, port), dispatcher)
    except OSError as error:
        raise InputError(f"--osc {port} on {host}: {error.strerror}. Choose another port.") from None
    with server:
        thread = threading.Thread(target=server.serve_forever, name="osc", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _parse(address: str, values: tuple[Any, ...]) -> tuple[str, Any]:
    """Return the name and the value of a message, or raise a ValueError that describes what is wrong."""
    name = address.removeprefix("/")
    kinds = {"temperature": (int, float), "seed": (int, float), "play": (), "stop": (), "prime": (str,)}
    if address != f"/{name}" or name not in kinds:
        raise ValueError(f"the addresses are {', '.join(f'/{name}' for name in kinds)}")
    if not kinds[name]:
        return name, None  # controllers add a value to a button
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], kinds[name]):
        raise ValueError("it must have one number" if name != "prime" else "it must have the path of a recording")
    value: Any = values[0]
    if name == "temperature" and not 0 <= value <= MAX_TEMPERATURE:
        raise ValueError(f"a temperature is from 0 to {MAX_TEMPERATURE:g}")
    if name == "seed" and not (0 <= value <= MAX_SEED and value == int(value)):
        raise ValueError("a seed is a whole number from 0 to 2^53 - 1")
    return name, int(value) if name == "seed" else value
