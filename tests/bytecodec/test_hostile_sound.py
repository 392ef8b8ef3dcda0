"""Sound whose header lies: it is read as far as it goes or refused in a sentence, soon, and in little memory."""

from __future__ import annotations

import io
import math
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bytecodec
from bytecodec.commands import wav2utf8
from charrnn.commands.train import charrnn_train

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its memory by /proc")

MEMORY = 256 << 20  # bytes more than before
SECONDS = 10
TINY = """
    --rnn-size 4 --layers 1 --wordvec-size 2 --batch-size 1 --seq-length 4 --max-iterations 1 --threads 1
    --device cpu -q
""".split()
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
    """A WAV file in its plainest form, whatever its numbers."""
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
    """An AIFF file; its rate is an 80-bit float."""
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
    """A FLAC file with another rate (20 bits) and number of samples (36 bits) in its STREAMINFO."""
    data = bytearray(written("FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    packed = packed & ((1 << 44) - 1) & ~((1 << 36) - 1) | rate << 44 | frames
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def patched(form: str, marker: bytes, offset: int, number: int) -> bytes:
    """A file with another number at a place after a marker in its header."""
    data = bytearray(written(form))
    at = data.index(marker) + offset
    data[at : at + 8] = number.to_bytes(8, "little")
    return bytes(data)


def floats(*values: float) -> bytes:
    return wav(tag=3, width=4, sound=np.resize(np.array(values, "<f4"), 250).tobytes())


AU = ">4s5I"
READ = {  # into how many samples
    "promises 4 GB.wav": (wav(promised=FOUR_GB), 490),
    "promises 2 GB.wav": (wav(promised=2_000_000_000), 490),
    "promises 4 GB of 32 channels.wav": (wav(promised=FOUR_GB, channels=32), 15),
    "promises 4 GB.aiff": (aiff(frames=FOUR_GB // 2), 490),
    "promises most.aiff": (aiff(frames=2**32 - 1), 490),
    "promises 4 GB.flac": (flac(frames=FOUR_GB // 2), 490),
    "promises most.flac": (flac(frames=2**36 - 1), 490),
    "promises 4 GB.w64": (patched("W64", W64_DATA, 16, FOUR_GB), 490),
    "promises most.w64": (patched("W64", W64_DATA, 16, 2**63 - 1), 490),
    "promises 4 GB.rf64": (patched("RF64", b"ds64", 16, FOUR_GB), 490),
    "promises most.rf64": (patched("RF64", b"ds64", 16, 2**63 - 1), 490),
    "not a number.wav": (floats(math.nan), 250),
    "infinite.wav": (floats(math.inf, -math.inf), 250),
    "all of them.wav": (floats(math.nan, math.inf, 0.5, -math.inf, 3e38, -3e38, 1e-40), 250),
}
REFUSED = {  # with a word of the sentence
    "promises 4 GB.au": (struct.pack(AU, b".snd", 24, FOUR_GB, 3, 11025, 1) + SOUND.tobytes(), "holds no sound"),
    "rate 0.wav": (wav(rate=0), "is no recording"),
    "rate 0.aiff": (aiff(rate=0), "out of range"),
    "rate 0.flac": (flac(rate=0), "is no recording"),
    "rate 2 billion.wav": (wav(rate=2_000_000_000), "out of range"),
    "rate 4 billion.wav": (wav(rate=4_000_000_000), "is no recording"),
    "rate 4 billion.aiff": (aiff(rate=4e9), "out of range"),
    "rate 4 billion.au": (struct.pack(AU, b".snd", 24, 980, 3, 4_000_000_000, 1) + SOUND.tobytes(), "is no recording"),
    "highest rate.flac": (flac(rate=2**20 - 1), "out of range"),
    "65535 channels.wav": (wav(channels=65535), "is no recording"),
    "65535 channels of a byte.wav": (wav(channels=65535, width=1), "is no recording"),
    "65535 channels and 4 GB.wav": (wav(channels=65535, promised=FOUR_GB), "is no recording"),
    "65535 channels.aiff": (aiff(channels=65535), "is no recording"),
    "65535 channels.au": (struct.pack(AU, b".snd", 24, 980, 3, 11025, 65535) + SOUND.tobytes(), "is no recording"),
    "1024 channels.wav": (wav(channels=1024), "holds no sound"),
    "0 channels.wav": (wav(channels=0), "is no recording"),
    "nothing.wav": (wav(sound=b""), "holds no sound"),
    "nothing and 4 GB.wav": (wav(sound=b"", promised=FOUR_GB), "holds no sound"),
    "nothing.aiff": (aiff(frames=0, sound=b""), "holds no sound"),
    "nothing.flac": (flac(frames=0)[: flac().index(b"\xff\xf8")], "holds no sound"),
    "half a sample.wav": (wav(sound=b"\1"), "holds no sound"),
    "half a header.wav": (wav()[:12], "is no recording"),
}


class TooSlowError(BaseException):
    """No ``except Exception`` catches it."""


@pytest.fixture(autouse=True)
def bounded(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, a quarter of a gigabyte and ten seconds, after training has loaded all that it takes."""

    def too_slow(*_: object) -> None:
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


def is_refused(said: str, command: str, word: str) -> bool:
    return said.startswith(f"{command}: ") and said.count("\n") == 1 and len(said) < 300 and word in said


@pytest.mark.parametrize("name", READ)
def test_what_is_there_is_read(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, count = READ[name]
    Path(name).write_bytes(data)
    assert wav2utf8([name, "sound.txt"]) == 0
    assert len(Path("sound.txt").read_text(encoding="utf-8")) == count
    assert capfd.readouterr().err.count("\n") <= 2  # that it is cut short, and that it is quiet
    assert charrnn_train([name, "--run-dir", "run", *TINY]) in (0, 1)  # 1: 15 samples are too few to learn from
    said = capfd.readouterr().err
    if Path("run/corpus.bin").exists():
        assert Path("run/corpus.bin").stat().st_size == count
    else:
        assert is_refused(said.splitlines(keepends=True)[-1], "charrnn-train", "--batch-size"), said


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data, word = REFUSED[name]
    Path(name).write_bytes(data)
    assert wav2utf8([name, "sound.txt"]) == 1
    assert is_refused(capfd.readouterr().err, "wav2utf8", word)
    assert charrnn_train([name, "--run-dir", "run", *TINY]) == 1
    assert is_refused(capfd.readouterr().err, "charrnn-train", word)
    assert [path.name for path in Path().iterdir()] == [name]


def test_not_a_number_becomes_silence_and_infinity_full_scale() -> None:
    for name, expected in (("not a number.wav", {128}), ("infinite.wav", {0, 255})):
        Path(name).write_bytes(READ[name][0])
        assert {int(value) for block in bytecodec.read_blocks(name) for value in block} == expected
