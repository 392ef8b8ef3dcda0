"""A listening page that is served in this process, and requests to it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
from websockets.sync.client import connect

from charrnn.server import app as listen_app
from charrnn.server.sampler import HEADER

PLAY = {"type": "play", "stream": 1, "run": 0, "checkpoint": "newest", "temperature": 1.0, "seed": 7, "start": None}


class Served:
    """A page that is served by a thread of this process."""

    def __init__(self, runs, **options):
        self.socket = listen_app.bind("127.0.0.1", 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # soon full if a listener does not read
        self.port = self.socket.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        application = listen_app.application(runs, threads=1, **options)
        self.state = application.state.app
        self.server = listen_app.server(application)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()
        assert not self.thread.is_alive()

    def ask(self, path="/", data=None, **headers):
        """Return the status and the body of a response."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.host}{path}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def socket_to(self, **options):
        # With unread messages in its queue, the client does not read the answer to its close, and would wait for it.
        return connect(f"ws://{self.host}/api/live", max_size=None, close_timeout=0.2, **options)


def send(connection, **message):
    """Send a play message with these changes, or another message if ``type`` is given."""
    connection.send(json.dumps(message if "type" in message else PLAY | message))


def read_until(connection, kind):
    """Return the next message of a type; pieces of sound before it are ignored."""
    while True:
        message = connection.recv(timeout=30)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)


def receive(connection, samples, stream=1, before=0):
    """Return the first samples of a stream and the temperature of each piece, acknowledging all as played."""
    pieces, temperatures, count = [], [], 0
    while count < samples:
        message = connection.recv(timeout=30)
        if isinstance(message, bytes):
            number, temperature = HEADER.unpack_from(message)
            assert number == stream
            pieces.append(np.frombuffer(message, "<i2", offset=HEADER.size))
            temperatures.append(temperature)
            count += len(pieces[-1])
            send(connection, type="played", stream=stream, samples=before + count)
    return np.concatenate(pieces), temperatures


def sampled(trained, seed, count, start=None):
    """Return what charrnn-sample draws, as 16-bit samples."""
    from charrnn.engines import engine
    from charrnn.sampling.generate import generate, prime

    one = engine(trained, "auto", threads=1)
    if start is not None:
        prime(one, start)
    ids = next(generate(one, count, 1.0, seed, chunk=count))[0]
    return ((ids - 128) * 256).astype(np.int16)


def samplers():
    """Return the number of samplers that are running."""
    return sum(thread.name == "sampler" for thread in threading.enumerate())


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
