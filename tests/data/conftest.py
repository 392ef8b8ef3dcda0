"""Fixtures for tests of inputs."""

import io
import sys

import pytest


@pytest.fixture
def stdin(monkeypatch):
    """``stdin(data)`` sends bytes to standard input."""

    def send(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return send
