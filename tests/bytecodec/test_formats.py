"""Identification of files by their content, which is the same in all commands."""

import codecs
import gzip
import io
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bytecodec import formats
from bytecodec.commands import utf82bin, utf82wav, wav2utf8
from bytecodec.errors import InputError
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train

RATE = 8000
TINY = "--rnn-size 4 --layers 1 --batch-size 1 --seq-length 4 --max-iterations 1 --threads 1 --device cpu -q".split()
SMALL = [*TINY, "--wordvec-size", "2"]
SUBTYPES = {"WVE": "ALAW", "XI": "DPCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
WITHOUT_HEADER = ("RAW", "SD2")  # the file itself does not give its rate
READABLE = sorted(set(soundfile.available_formats()) - set(WITHOUT_HEADER))
TONE = (0.3 * np.sin(np.arange(4000) / 7)).astype(np.float32)


def sound_of(form):
    file = io.BytesIO()
    soundfile.write(file, TONE, RATE, format=form, subtype=SUBTYPES.get(form, "PCM_16"))
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", b"")
    return file.getvalue()


# The beginnings are those that the formats' own documents give.
OTHERS = {
    "MPEG-4 sound": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(400),
    "MPEG-4 or QuickTime": b"\0\0\0\x20ftypisom\0\0\2\0" + bytes(400),
    "3GP": b"\0\0\0\x20ftyp3gp5\0\0\2\0" + bytes(400),
    "AAC": b"\xff\xf1\x6c\x40\x4c\x1f\xfc\xde\2\0Lavc" + bytes(400),
    "AAC file": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + b"\xff\xf1\x6c\x40\x4c\x1f\xfc" + bytes(400),
    "Windows Media": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c" + bytes(400),
    "WebM": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1" + bytes(400),
    "AMR": b"#!AMR\n<\x91\x17\x16\xbe\x66" + bytes(400),
    "Monkey's Audio": b"MAC \x96\x0f\0\0\x34\0\0\0" + bytes(400),
    "WavPack": b"wvpk\x5c\x18\0\0\x10\4\0\0\x40\x1f\0\0" + bytes(400),
    "Musepack": b"MPCKSH\x0e\xc5\x13\x84\x10\x08" + bytes(400),
    "AC-3": b"\x0b\x77\x82\x99\x8c\x40\x2f\x84" + bytes(400),
    "DTS": b"\x7f\xfe\x80\1\xfc\x3c" + bytes(400),
    "True Audio": b"TTA1\1\0\1\0\x10\0\x40\x1f\0\0" + bytes(400),
    "Speex": b"OggS\0\2" + bytes(20) + b"\1\x50Speex   1.2" + bytes(400),
    "AVI": b"RIFF\x24\x1c\0\0AVI LIST" + bytes(400),
    "MIDI": b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk" + bytes(40),
    "ZIP": zipped(),
    "gzip": gzip.compress(b"abc" * 100),
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40),
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40),
    "PDF": b"%PDF-1.4\n1 0 obj\n",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n",
}
TO_CONVERT = list(OTHERS)[: list(OTHERS).index("MIDI")]


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Run of a barely trained network of text; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "a.txt").write_text("abc def\n" * 50)
    assert charrnn_train([str(folder / "a.txt"), "--run-dir", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    """Run of a barely trained network of sound; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "a.wav").write_bytes(sound_of("WAV"))
    assert charrnn_train([str(folder / "a.wav"), "--run-dir", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.fixture
def commands(tmp_path, sound_run):
    """``commands(name)``: the commands that read a recording, as functions that return the exit code."""
    pytest.importorskip("matplotlib")
    out = str(tmp_path / "out")

    def lines(name):
        return {
            "wav2utf8": lambda: wav2utf8([name, out + ".txt"]),
            "charrnn-train": lambda: charrnn_train([name, *SMALL, "--run-dir", out + "-run"]),
            "charrnn-train --frames": lambda: charrnn_train(
                [name, *TINY, "--frames", "--frame-taps", "2", "--run-dir", out + "-frames"]
            ),
            "charrnn-eval": lambda: charrnn_eval([str(sound_run), name, "-q", "--threads", "1"]),
            "charrnn-sample": lambda: charrnn_sample(
                [str(sound_run), "--start-file", name, "--length", "4", "-o", out + ".wav", "-q", "--threads", "1"]
            ),
            "charrnn-plot": lambda: charrnn_plot([name, "-o", out + ".png", "-q", "--width", "200", "--height", "150"]),
        }

    return lines


def upload(path):
    """Read a file as charrnn-listen reads one that is dropped on its page, in this process."""
    from charrnn.data.corpus import SoundOptions, last_symbols
    from charrnn.data.vocab import Vocab

    return last_symbols(path, Vocab.of_alphabet("braille"), SoundOptions(), 10)


def decision(path):
    with path.open("rb") as file:
        return formats.is_recording(file, path.name)


@pytest.mark.parametrize("name", ["sound", "sound.txt", "sound.raw"])
def test_a_file_that_libsndfile_reads_is_a_recording_under_any_name(tmp_path, name):
    for form in READABLE:
        (tmp_path / name).write_bytes(sound_of(form))
        assert decision(tmp_path / name), form
        assert len(upload(tmp_path / name)) == 10, form


@pytest.mark.parametrize("form", ["VOC", "MAT5"])
def test_every_command_reads_the_recordings_that_wav2utf8_reads(tmp_path, monkeypatch, commands, capfd, form):
    monkeypatch.chdir(tmp_path)
    Path("sound").write_bytes(sound_of(form))
    codes = {command: call() for command, call in commands("sound").items()}
    assert codes == dict.fromkeys(codes, 0), capfd.readouterr().err


def test_the_kind_of_a_file_that_is_neither_sound_nor_text_is_reported(tmp_path):
    for kind, content in OTHERS.items():
        for name in ("file", "file.txt", "file.wav"):
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(InputError, match=rf"(?s){name} .*{kind}"):
                decision(path)
            with pytest.raises(InputError, match=kind):
                upload(path)


@pytest.mark.parametrize("kind", ["MPEG-4 sound", "gzip"])
def test_every_command_reports_the_kind_of_a_file_that_it_cannot_read(tmp_path, monkeypatch, commands, capfd, kind):
    monkeypatch.chdir(tmp_path)
    Path("it's a file").write_bytes(OTHERS[kind])
    for command, call in commands("it's a file").items():
        assert (command, call()) == (command, 1)
        assert kind in capfd.readouterr().err
    for call in (utf82wav, utf82bin):
        assert call(["it's a file", "x"]) == 1
        assert kind in capfd.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"it's a file"}


def test_files_that_ffmpeg_reads_are_rejected_with_a_command_for_it(tmp_path):
    for kind in TO_CONVERT:
        (tmp_path / "a b.m4a").write_bytes(OTHERS[kind])
        with pytest.raises(InputError, match=re.escape("`ffmpeg -i 'a b.m4a' -ac 1 'a b.m4a.wav'`")):
            decision(tmp_path / "a b.m4a")


def test_the_command_for_ffmpeg_can_be_pasted_into_a_shell():
    for name in ("plain.m4a", "it's $HOME `x`.m4a", "-flag.m4a", "a:b.m4a", "sub/-x y.m4a", "/a b"):
        program, flag, source, *mono, target = shlex.split(formats.ffmpeg_line(name))
        assert (program, flag, mono) == ("ffmpeg", "-i", ["-ac", "1"])
        assert Path(source) == Path(name)
        assert Path(target) == Path(name + ".wav")
        assert not source.startswith("-")
        assert ":" not in source or source.startswith("./")


def test_the_command_for_ffmpeg_works(tmp_path):
    if not shutil.which("ffmpeg"):
        pytest.skip("there is no ffmpeg on the PATH")
    made = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=1:r=8000", "-ac", "2", "-:'$x.m4a"]
    subprocess.run([*made[:-1], "./" + made[-1]], cwd=tmp_path, check=True)
    subprocess.run(formats.ffmpeg_line(made[-1]), shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert soundfile.info(tmp_path / (made[-1] + ".wav")).channels == 1


def test_a_text_may_begin_like_another_format(tmp_path):
    for text in (
        "NIST_1A\n   1024\nis how a header of NIST begins.\n",
        "PVF1\nis another.\n",
        "MThd, RIFF, ID3 and OggS are others.\n" * 200,
        "BM\n",
        "\x1b[1mbold\x1b[0m\n",
        "MAC addresses\n",
        "PK\n",
        "version https://example.org/\n",
        "<html>\n",
        "",
    ):
        (tmp_path / "a").write_text(text, encoding="utf-8")
        assert not decision(tmp_path / "a"), text


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html>\n<html><body>404", "HTML"),
        ("\ufeff\n <HTML>".encode(), "HTML"),
        (b'<?xml version="1.0"?><Error>', "XML"),
        ("plain words".encode("utf-16"), "UTF-16"),
        (b"", "empty"),
        (b"RIFF\0\0\0\0WAVEfmt garbage", "libsndfile"),
        (bytes(range(256)), "libsndfile"),
    ],
)
def test_a_file_with_the_name_of_a_recording_must_be_one(tmp_path, content, word):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.wav .*{word}"):
        decision(tmp_path / "a.wav")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf82wav_reports_the_encoding_that_a_windows_shell_writes(tmp_path, monkeypatch, capsys, encoding):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes("⠀⠁⣿".encode(encoding))
    assert utf82wav(["a.txt", "x.wav"]) == 1
    assert encoding.upper() in capsys.readouterr().err


def test_wav2utf8_reports_a_text_of_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("⠀⠁⣿\n", encoding="utf-8")
    assert wav2utf8(["a.txt", "x"]) == 1
    assert "utf82wav" in capsys.readouterr().err


def test_a_network_of_text_does_not_start_from_a_recording(tmp_path, monkeypatch, plain_run, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(sound_of("WAV"))
    assert charrnn_sample([str(plain_run), "--start-file", "a.wav", "--length", "3", "--threads", "1"]) == 1
    assert "a.wav is a recording" in capsys.readouterr().err


def test_the_mark_of_utf32_is_not_taken_for_that_of_utf16():
    assert formats.encoding_by_mark(codecs.BOM_UTF32_LE) == "utf-32-le"
    assert formats.encoding_by_mark(codecs.BOM_UTF16_LE + b"a\0") == "utf-16-le"
