"""Helpers for tests of charrnn-train."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import bytecodec
from charrnn.commands.train import charrnn_train
from charrnn.training.trainer import Trainer

SMALL = "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --precision fp32 --threads 1".split()
LEARNING = SMALL[6:]  # without the flags of the network
FRAMES = (
    "--frames --rnn-size 8 --layers 1 --frame-taps 4 --seq-length 20 --batch-size 8 --rate 11025 --threads 1".split()
)
TIMES = {"symbols_per_second", "elapsed_seconds"}


def write_sound():
    """Write a text of 2,000 sound bytes, sound.txt, and the same as sound.wav."""
    data = np.random.default_rng(1).integers(100, 130, 2000, dtype=np.uint8)
    Path("sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
    with open("sound.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(data)


def train(*argv):
    """Run charrnn-train quietly, which must succeed."""
    assert charrnn_train([*argv, "-q"]) == 0


def config(run):
    return json.loads(Path(run, "config.json").read_text(encoding="utf-8"))


def rows(path, without=frozenset()):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def newest_weights(run):
    return load_file(sorted(Path(run, "checkpoints").glob("*"))[-1])


def assert_same_run(one, two):
    """Check that weights and logs of two runs are exactly the same, except times."""
    for name in ("log.csv", "val.csv"):
        assert rows(Path(one, name), TIMES) == rows(Path(two, name), TIMES)
    a, b = newest_weights(one), newest_weights(two)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def error(capsys, *argv):
    """Return the message with which charrnn-train fails."""
    capsys.readouterr()
    assert charrnn_train(list(argv)) == 1
    message = capsys.readouterr().err
    assert message.startswith("charrnn-train: ")
    assert "Traceback" not in message
    return message


@contextlib.contextmanager
def interrupted_at(iteration):
    """Send Ctrl-C in the middle of an iteration."""
    original = Trainer._prepare_iteration

    def interrupt(trainer):
        if trainer.state.iteration == iteration - 1:
            signal.raise_signal(signal.SIGINT)
        return original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_prepare_iteration", interrupt)
        yield
