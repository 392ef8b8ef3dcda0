"""WAV writer: correct sizes in files, and headers that players accept in pipes."""

import io
import os
import shutil
import struct
import subprocess
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec import InputError, WavFullError, WavWriter, wavwriter

HEADER = b"RIFF%sWAVEfmt \x10\0\0\0\x01\0\x01\0\x11\x2b\0\0\x11\x2b\0\0\x01\0\x08\0data%s"


def le32(number):
    return struct.pack("<I", number)


class Pipe(io.BytesIO):
    """Stream that cannot seek, like a pipe, and counts how often it is flushed."""

    flushes = 0

    def seekable(self):
        return False

    def flush(self):
        self.flushes += 1


def test_a_file_has_its_sizes_and_the_pad_byte_of_riff():
    for n in range(4):
        stream = io.BytesIO()
        with WavWriter(stream) as writer:
            writer.write(bytes(range(n)))
        assert stream.getvalue() == HEADER % (le32(36 + n + n % 2), le32(n)) + bytes(range(n)) + b"\0" * (n % 2)


def test_a_pipe_has_an_unknown_size_and_no_pad_byte():
    for n in (2, 3):
        stream = Pipe()
        with WavWriter(stream) as writer:
            writer.write(bytes(range(n)))
        assert stream.getvalue() == HEADER % (le32(0xFFFFFFFF), le32(0xFFFFFFFF)) + bytes(range(n))


@settings(derandomize=True, deadline=None)
@given(chunks=st.lists(st.binary(max_size=9)))
def test_any_chunks_give_the_same_file_as_one_write(chunks):
    parts, whole = io.BytesIO(), io.BytesIO()
    with WavWriter(parts) as writer:
        for chunk in chunks:
            writer.write(np.frombuffer(chunk, np.uint8))
    with WavWriter(whole) as writer:
        writer.write(b"".join(chunks))
    assert parts.getvalue() == whole.getvalue()


def test_python_and_libsndfile_read_the_file(tmp_path):
    path = tmp_path / "a.wav"
    with path.open("wb") as file, WavWriter(file, rate=8000) as writer:
        writer.write(bytes(range(255)))
    with wave.open(str(path)) as read:
        assert (read.getparams()[:4], read.readframes(300)) == ((1, 1, 8000, 255), bytes(range(255)))
    samples, rate = soundfile.read(path, dtype="int16")
    assert (rate, (samples // 256 + 128).tolist()) == (8000, list(range(255)))


@pytest.mark.parametrize(("bits", "dtype", "subtype"), [(16, "<i2", "PCM_16"), (32, "<f4", "FLOAT")])
def test_16_bit_and_floating_point_samples_are_read_unchanged(bits, dtype, subtype):
    samples = (np.array([0, -32768, 32767, 5, -3]) / (1 if bits == 16 else 32768)).astype(dtype)
    stream = io.BytesIO()
    with WavWriter(stream, 16000, bits=bits) as writer:
        writer.write(samples[:2])
        writer.cue()
        writer.write(samples[2:])
        assert writer.samples == 5
    stream.seek(0)
    with soundfile.SoundFile(stream) as file:
        assert (file.subtype, file.samplerate, file.frames) == (subtype, 16000, 5)
        found = file.read(dtype="int16" if bits == 16 else "float32")
    assert np.array_equal(found, samples)
    data = stream.getvalue()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert int.from_bytes(data[data.index(b"cue ") + 32 :][:4], "little") == 2


def test_invalid_formats_and_rates_are_rejected():
    for bits, mulaw in ((24, False), (16, True)):
        with pytest.raises(InputError, match="16 or 32"):
            WavWriter(io.BytesIO(), 16000, mulaw, bits)
    with pytest.raises(InputError, match="a rate of 0 Hz"):
        WavWriter(io.BytesIO(), rate=0)


def test_a_full_file_ends_with_a_whole_sample(monkeypatch):
    monkeypatch.setattr(wavwriter, "MAX_BYTES", 100)
    stream = io.BytesIO()
    writer = WavWriter(stream, 16000, bits=16)
    with pytest.raises(WavFullError):
        writer.write(np.arange(100, dtype="<i2"))
    writer.close()
    stream.seek(0)
    assert np.array_equal(soundfile.read(stream, dtype="int16")[0], np.arange(writer.samples))
    assert writer.samples == (100 - 44 - 1) // 2


def test_mulaw_has_format_tag_7_an_extension_size_and_a_fact_chunk(tmp_path):
    path = tmp_path / "a.wav"
    with path.open("wb") as file, WavWriter(file, mulaw=True) as writer:
        writer.write(b"\xff\x00\x80")
    data = path.read_bytes()
    assert data[12:38] == b"fmt \x12\0\0\0\x07\0\x01\0\x11\x2b\0\0\x11\x2b\0\0\x01\0\x08\0\0\0"
    assert data[38:] == b"fact" + le32(4) + le32(3) + b"data" + le32(3) + b"\xff\x00\x80\0"
    assert soundfile.info(path).subtype == "ULAW"
    assert soundfile.read(path, dtype="int16")[0].tolist() == [0, -32124, 32124]


def test_cue_points_follow_the_samples():
    stream = io.BytesIO()
    with WavWriter(stream) as writer:
        writer.write(bytes(3))
        writer.cue()
        writer.write(bytes(2))
        writer.cue(1)
    points = (
        le32(2) + le32(1) + le32(3) + b"data" + bytes(8) + le32(3) + le32(2) + le32(1) + b"data" + bytes(8) + le32(1)
    )
    assert stream.getvalue()[44 + 6 :] == b"cue " + le32(len(points)) + points
    assert stream.getvalue()[4:8] == le32(len(stream.getvalue()) - 8)
    stream.seek(0)
    assert soundfile.info(stream).frames == 5


def test_a_pipe_has_no_cue_points():
    stream = Pipe()
    with WavWriter(stream) as writer:
        writer.cue(0)
        writer.write(bytes(3))
    assert stream.getvalue()[44:] == bytes(3)


def test_a_pipe_is_flushed_after_each_write():
    stream = Pipe()
    writer = WavWriter(stream)
    writer.write(bytes(3))
    writer.write(bytes(3))
    assert stream.flushes == 2


def test_bytes_before_the_header_are_kept(tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(b"before")
        with WavWriter(file) as writer:
            writer.write(b"ab")
        file.write(b"after")
    assert path.read_bytes() == b"before" + HEADER % (le32(38), le32(2)) + b"abafter"


def test_a_file_open_for_appending_is_treated_as_a_pipe(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with path.open("ab") as file, WavWriter(file) as writer:
        writer.write(b"abc")
    assert path.read_bytes() == b"before" + HEADER % (le32(0xFFFFFFFF), le32(0xFFFFFFFF)) + b"abc"


def test_a_file_that_is_not_yet_closed_can_be_read(tmp_path):
    path = tmp_path / "a.wav"
    with path.open("wb", buffering=0) as file:
        WavWriter(file).write(bytes([128] * 101))  # type: ignore[arg-type]  # a raw file is accepted
        assert soundfile.info(path).frames == 101


def test_a_device_is_written_to():
    with open(os.devnull, "wb") as file, WavWriter(file) as writer:
        writer.write(b"abc")
    assert writer.samples == 3


def test_an_exception_finishes_the_file_and_is_raised():
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt), WavWriter(stream) as writer:  # noqa: PT012
        writer.write(b"ab")
        raise KeyboardInterrupt
    assert stream.getvalue() == HEADER % (le32(38), le32(2)) + b"ab"


def test_an_exception_before_the_first_sample_writes_nothing():
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt), WavWriter(stream):
        raise KeyboardInterrupt
    assert stream.getvalue() == b""


def test_samples_that_were_written_but_not_counted_are_in_the_file():
    stream = io.BytesIO()
    writer = WavWriter(stream)
    writer.write(b"ab")
    stream.write(b"cd")  # as when Ctrl-C comes between the write and the count
    writer.close()
    assert stream.getvalue() == HEADER % (le32(40), le32(4)) + b"abcd"


@pytest.mark.parametrize("cues", [0, 2])
def test_a_full_file_keeps_the_samples_that_fit(monkeypatch, cues):
    monkeypatch.setattr(wavwriter, "MAX_BYTES", 200)
    stream = io.BytesIO()
    with WavWriter(stream) as writer:
        for _ in range(cues):
            writer.cue()
        writer.write(bytes(90))
        with pytest.raises(WavFullError) as caught:
            writer.write(bytes(90))
    fit = 200 - 44 - 1 - (12 + 24 * cues if cues else 0)
    assert f"{fit} samples" in str(caught.value)
    assert writer.samples == fit
    assert len(stream.getvalue()) <= 200
    stream.seek(0)
    assert soundfile.info(stream).frames == fit


def test_a_pipe_has_no_size_limit(monkeypatch):
    monkeypatch.setattr(wavwriter, "MAX_BYTES", 200)
    with WavWriter(Pipe()) as writer:
        writer.write(bytes(1000))
    assert writer.samples == 1000


@pytest.mark.parametrize(
    "player",
    ["ffmpeg -v error -i - -f u8 -", "sox -V1 -t wav - -t raw -e unsigned -b 8 -", "sox -V1 -t wav - -t raw -"],
)
def test_players_read_exactly_the_samples_from_a_pipe(player):
    if shutil.which(player.split()[0]) is None:
        pytest.skip(f"there is no {player.split()[0]} on the PATH")
    for n, mulaw in ((10, False), (11, False), (10, True), (11, True)):
        stream = Pipe()
        with WavWriter(stream, mulaw=mulaw) as writer:
            writer.write(bytes(range(100, 100 + n)))
        done = subprocess.run(player.split(), input=stream.getvalue(), capture_output=True, check=True)
        assert len(done.stdout) == n
        assert mulaw or done.stdout == bytes(range(100, 100 + n))
