"""charrnn-sample: segments, saved states and interruptions."""

from __future__ import annotations

import contextlib
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_command import PROGRAM, int16, sample_text

import bytecodec
from charrnn.commands.sample import charrnn_sample

pytestmark = pytest.mark.usefixtures("in_networks")


def cue_points(path):
    data = Path(path).read_bytes()
    at = data.index(b"cue ")
    (count,) = struct.unpack_from("<I", data, at + 8)
    return [struct.unpack_from("<I", data, at + 12 + 24 * k + 20)[0] for k in range(count)]


# Segments


def test_segments_with_carried_state_equal_one_long_sample():
    whole = sample_text("sound", "--length", "600", "--seed", "3")
    for count in (2, 10):
        segments = ["sound", "--seed", "3", "--segments", f"{count}"]
        assert whole == sample_text(*segments, "--segment-length", f"{600 // count}")
        assert whole == sample_text(*segments, "--length", "600")


def test_after_a_reset_the_random_numbers_continue():
    flags = ["sound", "--segments", "3", "--segment-length", "200", "--seed", "3"]
    carried, reset = sample_text(*flags), sample_text(*flags, "--join", "reset")
    assert carried[:200] == reset[:200]
    assert carried[200:] != reset[200:]
    assert reset[200:400] != reset[:200]


def test_segments_are_written_to_files_and_marked_in_the_wav():
    flags = ["sound", "--segments", "3", "--segment-length", "201", "--segments-dir", "parts", "-q"]
    assert charrnn_sample([*flags, "-o", "joined.wav"]) == 0
    parts = [int16(f"parts/{k:03d}.wav") for k in (1, 2, 3)]
    assert np.array_equal(np.concatenate(parts), int16("joined.wav"))
    assert cue_points("joined.wav") == [201, 402]


# States


@pytest.mark.parametrize("cut", [1, 256, 599])
def test_a_saved_state_resumes_as_if_it_had_not_been_interrupted(cut):
    whole = sample_text("sound", "--length", "600", "--seed", "4")
    first = sample_text("sound", "--length", f"{cut}", "--seed", "4", "--state-out", "s")
    assert whole == first + sample_text("sound", "--length", f"{600 - cut}", "--state-in", "s")


# Interruptions


@contextlib.contextmanager
def interrupted_after(chunks):
    """Send SIGINT while a chunk is written."""
    original, count = bytecodec.WavWriter.write, 0

    def write(self, samples):
        nonlocal count
        original(self, samples)
        count += 1
        if count == chunks:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bytecodec.WavWriter, "write", write)
        yield


def test_ctrl_c_ends_an_endless_sample_with_success():
    with interrupted_after(3):
        assert charrnn_sample(["sound", "--seconds", "0", "-o", "x.wav", "-q"]) == 0
    assert len(int16("x.wav")) == 3 * 256


def test_ctrl_c_keeps_the_sound_and_the_state_of_a_finite_sample(capsys):
    with interrupted_after(3):
        assert charrnn_sample(["sound", "--length", "100000", "-o", "a.wav", "--state-out", "s"]) == 130
    assert "768 of 100,000 symbols" in capsys.readouterr().err
    charrnn_sample(["sound", "--length", "232", "-o", "b.wav", "--state-in", "s", "-q"])
    charrnn_sample(["sound", "--length", "1000", "-o", "whole.wav", "-q"])
    assert len(int16("a.wav")) == 3 * 256
    assert np.array_equal(np.concatenate([int16("a.wav"), int16("b.wav")]), int16("whole.wav"))


def test_a_closed_pipe_ends_sampling_silently_and_keeps_the_state():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "sound", "--seconds", "0", "--state-out", "s", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = process.stdout.read(3000)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
    process.stderr.close()
    assert first.decode() == sample_text("sound", "--length", "1000")
    assert len(sample_text("sound", "--state-in", "s", "--length", "10")) == 10
