"""A listening page that is served for tests, and what they ask of it."""

import threading
import time
import urllib.error
import urllib.request

import numpy as np
from websockets.sync.client import connect

from charrnn.server import app as listen_app

PLAY = {"type": "play", "take": 1, "run": 0, "checkpoint": "newest", "temperature": 1.0, "seed": 7, "start": None}


class Served:
    """A page that is served by a thread of this process."""

    def __init__(self, runs, **options):
        self.socket = listen_app.bind("127.0.0.1", 0)
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = listen_app.server(listen_app.application(runs, threads=1, **options))
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
        """The status and the body of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.host}{path}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def socket_to(self, **options):
        return connect(f"ws://{self.host}/api/live", max_size=None, **options)


def sampled(trained, seed, count, start=None):
    """What charrnn-sample draws."""
    from charrnn.engines import engine
    from charrnn.sampling.generate import generate, prime

    one = engine(trained, "auto", threads=1)
    if start is not None:
        prime(one, start)
    ids = next(generate(one, count, 1.0, seed, chunk=count))[0]
    return ((ids - 128) * 256).astype(np.int16)


def has_samplers():
    return any(thread.name == "sampler" for thread in threading.enumerate())


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
