"""Headers with false values: the sound is read as far as it exists, or rejected, soon and in little memory."""

import io
import math
import resource
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bytecodec
from bytecodec.commands import wav2utf8

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory needs /proc")

MEMORY = 256 << 20  # bytes more than before
SECONDS = 10
SOUND = np.random.default_rng(0).integers(-20000, 20000, 490, dtype=np.int16)  # about a kilobyte
FOUR_GB = 4_000_000_000
W64_DATA = b"data\xf3\xac\xd3\x11"  # how the GUID of its data begins


def written(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SOUND, 11025, format=form, subtype="PCM_16")
    return file.getvalue()


def wav(
    rate: int = 11025,
    channels: int = 1,
    promised: int | None = None,
    tag: int = 1,
    width: int = 2,
    sound: bytes = SOUND.tobytes(),
) -> bytes:
    """Return a minimal WAV file with any values in its header."""
    align = channels * width
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align % 2**16, 8 * width)
    size = len(sound) if promised is None else promised
    return (
        b"RIFF"
        + struct.pack("<I", (36 + size) % 2**32)
        + b"WAVEfmt \x10\0\0\0"
        + fmt
        + b"data"
        + struct.pack("<I", size)
        + sound
    )


def aiff(
    rate: float = 11025, channels: int = 1, frames: int = len(SOUND), sound: bytes = SOUND.byteswap().tobytes()
) -> bytes:
    """Return an AIFF file; its rate is an 80-bit float."""
    mantissa, exponent = math.frexp(rate)
    extended = struct.pack(">HQ", exponent + 16382 if rate else 0, int(mantissa * 2**64))
    size = min(2**32 - 1, frames * channels * 2)
    common = struct.pack(">HIH", channels, frames, 16) + extended
    body = (
        b"AIFFCOMM"
        + struct.pack(">I", len(common))
        + common
        + b"SSND"
        + struct.pack(">III", min(2**32 - 1, size + 8), 0, 0)
        + sound
    )
    return b"FORM" + struct.pack(">I", min(2**32 - 1, size + 46)) + body


def flac(rate: int = 11025, frames: int = len(SOUND)) -> bytes:
    """Return a FLAC file with another rate (20 bits) and number of samples (36 bits) in its STREAMINFO."""
    data = bytearray(written("FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    packed = packed & ((1 << 44) - 1) & ~((1 << 36) - 1) | rate << 44 | frames
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def patched(form: str, marker: bytes, offset: int, number: int) -> bytes:
    """Return a file with another number at an offset from a marker in its header."""
    data = bytearray(written(form))
    at = data.index(marker) + offset
    data[at : at + 8] = number.to_bytes(8, "little")
    return bytes(data)


def floats(*values: float) -> bytes:
    return wav(tag=3, width=4, sound=np.resize(np.array(values, "<f4"), 250).tobytes())


AU = ">4s5I"
READ = {  # number of samples
    "promises 4 GB.wav": (wav(promised=FOUR_GB), 490),
    "promises 4 GB of 32 channels.wav": (wav(promised=FOUR_GB, channels=32), 15),
    "promises most.aiff": (aiff(frames=2**32 - 1), 490),
    "promises most.flac": (flac(frames=2**36 - 1), 490),
    "promises most.w64": (patched("W64", W64_DATA, 16, 2**63 - 1), 490),
    "promises most.rf64": (patched("RF64", b"ds64", 16, 2**63 - 1), 490),
    "all numbers.wav": (floats(math.nan, math.inf, 0.5, -math.inf, 3e38, -3e38, 1e-40), 250),
}
REJECTED = {  # key words of the message
    "promises 4 GB.au": (struct.pack(AU, b".snd", 24, FOUR_GB, 3, 11025, 1) + SOUND.tobytes(), "no sound"),
    "rate 0.wav": (wav(rate=0), "not a recording"),
    "rate 0.aiff": (aiff(rate=0), "out of range"),
    "rate 2 billion.wav": (wav(rate=2_000_000_000), "out of range"),
    "rate 4 billion.au": (struct.pack(AU, b".snd", 24, 980, 3, 4_000_000_000, 1) + SOUND.tobytes(), "not a recording"),
    "highest rate.flac": (flac(rate=2**20 - 1), "out of range"),
    "65535 channels and 4 GB.wav": (wav(channels=65535, promised=FOUR_GB), "not a recording"),
    "65535 channels.aiff": (aiff(channels=65535), "not a recording"),
    "1024 channels.wav": (wav(channels=1024), "no sound"),
    "0 channels.wav": (wav(channels=0), "not a recording"),
    "nothing and 4 GB.wav": (wav(sound=b"", promised=FOUR_GB), "no sound"),
    "nothing.flac": (flac(frames=0)[: flac().index(b"\xff\xf8")], "no sound"),
    "half a sample.wav": (wav(sound=b"\1"), "no sound"),
    "half a header.wav": (wav()[:12], "not a recording"),
}


class TooSlowError(BaseException):
    """Exception that ``except Exception`` does not catch."""


@pytest.fixture(autouse=True)
def limits(tmp_path, monkeypatch):
    """An empty folder, a quarter of a gigabyte more memory than before, and ten seconds."""

    def too_slow(*_):
        raise TooSlowError

    monkeypatch.chdir(tmp_path)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("name", READ)
def test_the_sound_that_exists_is_read(name, capfd):
    data, count = READ[name]
    Path(name).write_bytes(data)
    assert wav2utf8([name, "sound.txt"]) == 0
    assert len(Path("sound.txt").read_text(encoding="utf-8")) == count
    assert capfd.readouterr().err.count("\n") <= 2  # that it is cut short, and that it is quiet


@pytest.mark.parametrize("name", REJECTED)
def test_an_impossible_header_is_rejected_with_one_message_and_without_output(name, capfd):
    data, words = REJECTED[name]
    Path(name).write_bytes(data)
    assert wav2utf8([name, "sound.txt"]) == 1
    message = capfd.readouterr().err
    assert message.startswith("wav2utf8: ")
    assert words in message
    assert message.count("\n") == 1
    assert len(message) < 300
    assert [path.name for path in Path().iterdir()] == [name]


def test_not_a_number_becomes_silence_and_infinity_full_scale():
    for values, expected in (((math.nan,), {128}), ((math.inf, -math.inf), {0, 255})):
        Path("a.wav").write_bytes(floats(*values))
        assert {int(value) for block in bytecodec.read_blocks("a.wav") for value in block} == expected
