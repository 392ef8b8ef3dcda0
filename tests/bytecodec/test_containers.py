"""Unfinished, truncated, damaged and joined recordings, and the messages about them."""

import io
import os
import re
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from bytecodec import InputError, read_blocks
from bytecodec.containers.libsndfile import PartFile, silent_stderr
from bytecodec.containers.repair import find_parts

RATE = 11025
NOISE = np.random.default_rng(1).integers(-20000, 20000, 8001).astype(np.int16)
CHUNKED = [  # container, encoding, order of its bytes: one for each kind of header
    ("WAV", "PCM_16", "FILE"),
    ("WAV", "IMA_ADPCM", "BIG"),
    ("RF64", "PCM_24", "FILE"),
    ("W64", "FLOAT", "FILE"),
    ("AIFF", "PCM_16", "LITTLE"),
    ("AIFF", "IMA_ADPCM", "FILE"),
    ("AU", "ULAW", "LITTLE"),
    ("CAF", "PCM_24", "LITTLE"),
    ("CAF", "ALAC_16", "FILE"),
]
STREAMS = [
    ("FLAC", "PCM_16", "FILE"),
    ("OGG", "VORBIS", "FILE"),
    ("OGG", "OPUS", "FILE"),
    ("MP3", "MPEG_LAYER_III", "FILE"),
]
LENGTHS = {  # of the sound in a header: a word before it, its offset from there, its format, what it counts extra
    "WAV": (b"data", 4, "<I", 0),
    "WAVEX": (b"data", 4, "<I", 0),
    "RF64": (b"ds64", 16, "<Q", 0),
    "W64": (b"data\xf3", 16, "<Q", 24),
    "AIFF": (b"SSND", 4, ">I", 8),
    "AU": (b"", 8, ">I", 0),
    "CAF": (b"data", 4, ">Q", 4),
}


def recording(container, encoding, order="FILE", samples=NOISE, rate=RATE):
    file = io.BytesIO()
    rate = 48000 if encoding == "OPUS" else rate
    soundfile.write(file, samples, rate, format=container, subtype=encoding, endian=order)
    return file.getvalue()


def with_length(data, container, length, order="FILE"):
    """Return a recording whose header announces another length of its sound, in bytes."""
    word, offset, form, extra = LENGTHS[container]
    form = form.replace(">", "<") if (container, order) == ("AU", "LITTLE") else form
    form = form.replace("<", ">") if (container, order) == ("WAV", "BIG") else form
    at = data.index(word) + offset
    number = struct.pack(form, length + extra if length else 0)
    return data[:at] + number + data[at + len(number) :]


def read(data, **options):
    """Return the bytes of a recording at 11025 Hz, and the messages on it apart from those on its level."""
    messages = []
    blocks = np.concatenate(list(read_blocks(io.BytesIO(data), RATE, on_message=messages.append, **options)))
    return blocks, "\n".join(line for line in messages if "full scale" not in line)


def error(data, **options):
    with pytest.raises(InputError) as caught:
        read(data, **options)
    return str(caught.value)


# Headers


@pytest.mark.parametrize(("container", "encoding", "order"), CHUNKED)
def test_sound_after_an_unfinished_header_is_read_to_the_end(container, encoding, order):
    whole = recording(container, encoding, order)
    expected, message = read(whole)
    assert message == ""
    samples, message = read(with_length(whole, container, 0, order))
    assert "unfinished" in message
    assert np.array_equal(samples[: len(expected)], expected)
    assert len(samples) <= len(expected) + 1  # a byte of padding may be taken for sound
    samples, message = read(with_length(whole, container, 1024, order))
    assert "1,024 bytes" in message
    assert np.array_equal(samples[: len(expected)], expected)


def test_an_unknown_length_is_not_reported():
    placeholders = [("WAV", 2**32 - 1), ("WAV", 0x7FFFF000), ("RF64", 2**64 - 1), ("AU", 2**32 - 1), ("CAF", 2**64 - 5)]
    for container, length in [*placeholders, ("AIFF", 0x7F000000)]:
        whole = recording(container, "PCM_16")
        samples, message = read(with_length(whole, container, length))
        assert samples.tolist() == read(whole)[0].tolist()
        assert message == "", container


@pytest.mark.parametrize(("container", "encoding", "order"), CHUNKED[1::3])
def test_a_file_that_is_cut_short_is_read_as_far_as_it_goes(container, encoding, order):
    whole = recording(container, encoding, order, samples=np.resize(NOISE, 40_000))
    expected, _ = read(whole)
    samples, message = read(whole[: len(whole) // 2])
    assert re.search(r"cut short.* \(1\.\d\d s\)", message)
    assert np.array_equal(samples[:-600], expected[: len(samples) - 600])  # the last block of ADPCM may be incomplete
    assert len(samples) > 0.4 * len(expected)


def test_bytes_after_the_sound_are_reported_unless_they_are_chunks():
    whole = recording("WAV", "PCM_16")
    expected = read(whole)[0].tolist()
    chunks = b"LIST" + struct.pack("<I", 5) + b"INFO\0\0" + b"id3 " + struct.pack("<I", 100) + bytes(100)
    for tail, report in [
        (chunks, ""),
        (chunks[:-60], ""),
        (b"abc", "3 bytes"),
        (bytes(4096), "4,096 bytes"),
        (chunks + b"x" * 5000, "5,000 bytes"),
        (b"data" + struct.pack("<I", 50) + bytes(50), "50 bytes"),
    ]:
        samples, message = read(whole + tail)
        assert samples.tolist() == expected
        assert (report in message) if report else message == ""


def test_an_empty_recording_with_chunks_after_it_stays_empty():
    chunks = b"LIST" + struct.pack("<I", 2000) + bytes(2000)
    assert "no sound" in error(recording("WAV", "PCM_16", samples=NOISE[:0]) + chunks)


def test_a_length_that_wrapped_around_at_4_gib_is_corrected(tmp_path):
    header = recording("WAV", "PCM_16", samples=NOISE[:500])[:44]
    for tail in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with (tmp_path / "long.wav").open("w+b") as file:
            file.write(header)
            file.seek(2**32 + 1000 + 44)
            file.write(tail)
            file.truncate()
            (part,) = find_parts(file, file.tell())
            assert (part.begin, part.end) == (44, 2**32 + 1000 + 44)
            assert "4 GiB" in part.messages[0]
            sound = soundfile.SoundFile(PartFile(file, part))
            assert sound.frames == (2**32 + 1000) // 2


def test_a_peak_chunk_of_a_wrong_size_does_not_matter():
    for container in ("WAV", "AIFF", "CAF"):
        whole = recording(container, "FLOAT", samples=np.stack([NOISE, NOISE], 1) / 32768)
        expected = read(whole)[0].tolist()
        at = whole.lower().index(b"peak")
        order, size = ("<I" if container == "WAV" else ">I"), 28 if container == "CAF" else 24
        form = ">Q" if container == "CAF" else order
        name = 4 + struct.calcsize(form)
        peak = whole[at : at + 4] + struct.pack(form, 16) + bytes(16)
        samples, message = read(whole[:at] + peak + whole[at + name + size :])
        assert samples.tolist() == expected
        assert message == ""


def test_an_unfinished_header_is_read_from_a_pipe_and_in_a_part():
    data = with_length(recording("WAV", "PCM_16"), "WAV", 0)
    expected, _ = read(data)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        cat.stdin.write(data)
        cat.stdin.close()
        assert np.concatenate(list(read_blocks(cat.stdout, RATE))).tolist() == expected.tolist()
    assert read(data, start=0.1, duration=0.2)[0].tolist() == expected[1102 : 1102 + 2205].tolist()
    assert read(data, normalize=True)[0].max() == 255


# Streams


@pytest.mark.parametrize(("container", "encoding", "order"), STREAMS)
def test_a_stream_that_is_cut_short_is_read_to_its_last_whole_frame(container, encoding, order):
    whole = recording(container, encoding, order, samples=np.resize(NOISE, 200_000))
    expected, message = read(whole)
    assert message == ""
    samples, message = read(whole[: len(whole) * 6 // 10])
    seconds = [float(number) for number in re.findall(r"(\d+\.\d\d) s", message)]
    assert message.count("cut short") == 1
    assert abs(seconds[-1] - len(samples) / RATE) < 0.02
    assert len(samples) > 0.4 * len(expected)
    assert np.array_equal(samples[:-200], expected[: len(samples) - 200])


def test_damage_in_the_middle_of_flac_is_reported_with_its_time():
    whole = recording("FLAC", "PCM_16", samples=np.resize(NOISE, 100_000))
    damaged = whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :]
    seconds = float(error(damaged).split(" beyond ")[1].split()[0])
    assert 4.0 < seconds < 4.6  # half of 9.07 s, less a frame of 0.37 s
    assert read(damaged, duration=seconds)[0].tolist() == read(whole, duration=seconds)[0].tolist()


def test_bytes_after_the_last_frame_of_flac_do_no_harm():
    whole = recording("FLAC", "PCM_16")
    assert read(whole + b"TAG" + bytes(125))[0].tolist() == read(whole)[0].tolist()


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
def test_a_damaged_ogg_page_is_reported_with_its_offset(encoding):
    whole = recording("OGG", encoding, samples=np.resize(NOISE, 200_000))
    pages = [match.start() for match in re.finditer(rb"OggS\0", whole)]
    page = pages[len(pages) // 2]
    samples, message = read(whole[: page + 1000] + bytes(10) + whole[page + 1010 :])
    assert f"byte {page:,}" in message
    assert 0 < len(samples) < len(read(whole)[0])


def test_mp3_resumes_after_bytes_that_are_not_frames():
    for gap in (300, 5000):
        whole = recording("MP3", "MPEG_LAYER_III", samples=np.resize(NOISE, 100_000))
        samples, message = read(whole[:20_000] + bytes(gap) + whole[20_000:])
        assert "skipped" in message
        assert len(samples) > 0.95 * 100_000


# Joined files


@pytest.mark.parametrize(("container", "encoding", "order"), CHUNKED[::2] + STREAMS)
def test_joined_files_are_read_one_after_the_other(container, encoding, order):
    whole = recording(container, encoding, order)
    expected, _ = read(whole)
    samples, message = read(whole * 3)
    assert samples.tolist() == expected.tolist() * 3
    assert "3 parts" in message
    half = len(expected) / RATE / 2
    assert len(read(whole * 3, start=3 * half, duration=half)[0]) == pytest.approx(len(expected) / 2, abs=2)


@pytest.mark.parametrize(("container", "encoding", "order"), CHUNKED[1::2] + STREAMS)
def test_a_file_that_is_cut_short_does_not_swallow_the_next_one(container, encoding, order: str):
    whole = recording(container, encoding, order, samples=np.resize(NOISE, 100_000))
    expected, _ = read(whole)
    samples, message = read(whole[: len(whole) * 2 // 3] + whole)
    assert "cut short" in message
    assert len(samples) > 1.4 * len(expected)
    assert np.array_equal(samples[-len(expected) :], expected)


def test_joined_recordings_may_differ_in_format_rate_and_channels():
    parts = [
        recording("WAV", "PCM_16"),
        recording("FLAC", "PCM_16", rate=44100, samples=np.stack([NOISE, NOISE], 1)),
        recording("MP3", "MPEG_LAYER_III", rate=8000),
        recording("MP3", "MPEG_LAYER_III", rate=44100, samples=np.stack([NOISE, NOISE], 1)),
        recording("OGG", "VORBIS", rate=22050),
        recording("AIFF", "PCM_24", rate=8000),
        recording("W64", "PCM_16"),
        recording("CAF", "PCM_16"),
        recording("AU", "PCM_16"),
    ]
    samples, message = read(b"".join(parts))
    assert samples.tolist() == np.concatenate([read(part)[0] for part in parts]).tolist()
    assert "9 parts" in message


def test_tags_between_joined_mp3_files_are_skipped():
    whole = recording("MP3", "MPEG_LAYER_III")
    expected = read(whole)[0].tolist()
    tag = b"ID3\3\0\0\0\0\x10\0" + bytes(2048)
    samples, message = read(tag + whole + b"TAG" + bytes(125) + tag + whole + b"TAG" + bytes(125))
    assert samples.tolist() == expected * 2
    assert "skipped" not in message


@pytest.mark.parametrize(("container", "encoding", "order"), CHUNKED[2::3] + STREAMS)
def test_an_id3_tag_before_a_recording_costs_no_sound(container, encoding, order):
    whole = recording(container, encoding, order)
    expected = read(whole)[0].tolist()
    tag = b"ID3\3\0\0\0\0\x40\0" + bytes(8192)  # as of an album's picture
    assert read(tag + whole)[0].tolist() == expected
    assert read((tag + whole) * 2)[0].tolist() == expected * 2


@pytest.mark.parametrize(
    ("container", "encoding", "following", "codec"),
    [("WAV", "PCM_U8", "OGG", "VORBIS"), ("AIFF", "PCM_S8", "FLAC", "PCM_16"), ("WAV", "PCM_U8", "AU", "PCM_16")],
)
def test_a_recording_joined_to_a_padded_one_is_not_taken_for_a_chunk(container, encoding, following, codec):
    first, second = recording(container, encoding), recording(following, codec)
    assert len(NOISE) % 2 == 1
    samples, message = read(first + second)
    assert samples.tolist() == [*read(first)[0], *read(second)[0]]
    assert message.count("\n") == 0
    assert "2 parts" in message


def test_a_part_that_cannot_be_read_is_reported():
    whole = recording("WAV", "PCM_16")
    samples, message = read(whole + b"RIFF" + struct.pack("<I", 100) + b"WAVEjunk" + bytes(500))
    assert samples.tolist() == read(whole)[0].tolist()
    assert "skipped" in message


def test_a_channel_that_a_joined_recording_lacks_is_rejected():
    stereo = recording("WAV", "PCM_16", samples=np.stack([NOISE, -NOISE], 1))
    mono = recording("FLAC", "PCM_16")
    with pytest.raises(InputError, match="no channel 2") as raised:
        read(stereo + mono, channel=2)
    assert f"{len(NOISE) / RATE:.2f} s" in str(raised.value)
    expected = read(stereo, channel=2)[0].tolist()
    assert read(stereo + mono, channel=2, duration=len(NOISE) / RATE)[0].tolist() == expected
    assert read(stereo + mono, channel=2, mono_as_is=True)[0].tolist() == expected + read(mono)[0].tolist()


def test_only_the_first_of_many_damaged_parts_are_reported():
    whole = recording("WAV", "PCM_16", samples=NOISE[:300])
    samples, message = read(whole[:-100] * 50)
    assert len(samples) == 50 * 250
    assert "40 more" in message
    assert message.count("\n") < 15


def test_a_reading_error_is_raised(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("read error")

    (tmp_path / "a.wav").write_bytes(recording("WAV", "PCM_16") * 2)
    blocks = read_blocks(tmp_path / "a.wav", RATE)
    next(blocks)
    monkeypatch.setattr("bytecodec.containers.libsndfile.read_at", fail)
    with pytest.raises(OSError, match="read error"):
        list(blocks)


# The process: standard error and signals


def test_the_mp3_decoder_prints_nothing(tmp_path, capfd):
    whole = bytearray(recording("MP3", "MPEG_LAYER_III", samples=np.resize(NOISE, 50_000)))
    for at in range(3000, len(whole), 700):
        whole[at] ^= 255
    read(bytes(whole))
    assert capfd.readouterr().err == ""


def test_messages_are_not_lost_while_the_decoder_is_silent(capfd):
    with silent_stderr(), silent_stderr():
        os.write(2, b"kept ")
        print("kept too", file=sys.__stderr__, flush=True)
    assert "kept" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals")
def test_a_signal_within_a_part_is_not_lost(monkeypatch):
    original = PartFile.readinto

    def interrupted(view, buffer):
        signal.raise_signal(signal.SIGINT)
        return original(view, buffer)

    monkeypatch.setattr(PartFile, "readinto", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(recording("WAV", "PCM_16") * 2)
