"""Progress display of charrnn-train with a time limit."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from charrnn.commands import train_messages
from charrnn.commands.train_messages import ProgressDisplay


@pytest.fixture
def display(monkeypatch):
    """``display(seconds=0, iterations=None)`` makes a display of training with a limit of a minute.

    Parts of a trainer that was trained for some seconds replace it. Return the display and its bar, which is enabled.
    """
    bars = []

    def make(seconds=0.0, iterations=None):
        trainer = SimpleNamespace(
            run=SimpleNamespace(config=dict),
            settings=SimpleNamespace(max_minutes=1, seq_length=50),
            state=SimpleNamespace(iteration=0, seconds=seconds),
            task=SimpleNamespace(units="samples", bits=lambda loss: loss),
            batches=SimpleNamespace(row_length=5000),
            iterations=iterations,
        )
        return ProgressDisplay(trainer, quiet=False), bars[-1]

    def progress(total, unit, quiet, **options):
        bars.append(tqdm(total=total, unit=unit, file=io.StringIO(), **options))
        return bars[-1]

    monkeypatch.setattr(train_messages, "progress", progress)
    yield make
    for bar in bars:
        bar.close()


def row(iteration, elapsed):
    fixed = {"train_loss": 2.0, "symbols_per_second": 1000.0, "epoch": 0.0}
    return {"iteration": iteration, "elapsed_seconds": elapsed, **fixed}


def test_the_bar_of_a_time_limit_ends_at_the_limit(display):
    shown, bar = display()
    shown.iterated(row(1, 30.0))
    assert (bar.n, bar.total, bar.desc) == (30.0, 60, "30 s")
    shown.iterated(row(2, 61.5))  # the last iteration began before the limit
    assert (bar.n, bar.desc) == (60.0, "0.0 s")


def test_the_bar_of_a_resumed_training_starts_at_the_time_before(display):
    _, bar = display(seconds=45.0)
    assert (bar.n, bar.desc) == (45, "15 s")


def test_the_estimated_time_is_that_of_what_ends_first(display, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    shown, bar = display(seconds=50.0, iterations=1000)
    clock[0] = 10.0
    shown.iterated(row(10, 50.0))
    assert "10 s to the end." in bar.fp.getvalue()
