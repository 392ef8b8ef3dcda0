"""The four codec commands: files, pipes, exit codes and messages."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from codec_commands import ALL_BYTES, COMMANDS, run, samples_in, save_wav, shell

from bytecodec import __version__, decode, encode


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Conversion in both directions.


@pytest.mark.parametrize("alphabet", ["braille", "cjk", "latin"])
def test_sound_is_restored_sample_for_sample(alphabet):
    save_wav("a.wav")
    assert run(f"wav2utf8 --alphabet {alphabet} a.wav a.txt") == 0
    assert Path("a.txt").read_text("utf-8") == encode(ALL_BYTES, alphabet)
    assert run("utf82wav a.txt b.wav") == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_any_bytes_are_restored_with_a_mark_and_a_line_end_added():
    for size in (0, 100_001):
        data = np.random.default_rng(0).bytes(size)
        Path("a").write_bytes(data)
        assert run("bin2utf8 --alphabet cjk a a.txt") == 0
        assert Path("a.txt").read_text("utf-8") == encode(data, "cjk")
        Path("b.txt").write_bytes(b"\xef\xbb\xbf" + Path("a.txt").read_bytes() + b"\r\n")
        assert run("utf82bin b.txt b") == 0
        assert Path("b").read_bytes() == data


def test_a_pipe_carries_the_same_samples():
    save_wav("a.wav", ALL_BYTES[:255])
    done = shell("WAV2UTF8 a.wav | UTF82WAV > b.wav; WAV2UTF8 - < a.wav | UTF82WAV - - | cat > c.wav")
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("b.wav").read_bytes() == Path("a.wav").read_bytes()
    assert Path("c.wav").read_bytes()[44:] == ALL_BYTES[:255]


def test_a_pipe_carries_the_same_bytes():
    data = np.random.default_rng(0).bytes(300_000)
    done = shell("cat | BIN2UTF8 - | UTF82BIN -", stdin=data)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", data)


def test_a_pipe_is_decoded_as_far_as_it_is_filled():
    call = [sys.executable, "-c", "from bytecodec.commands import utf82bin; utf82bin(['-'])"]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode(b"now").encode())
        process.stdin.flush()
        assert process.stdout.read(3) == b"now"
        process.stdin.close()
        assert process.wait() == 0


def test_the_flags_reach_the_reader(capsys):
    save_wav("a.wav", bytes([128] * 50 + [130] * 50), 1000)
    assert run("wav2utf8 --rate 1000 --start 0.02 --duration 0.06 --gain 20 a.wav a.txt") == 0
    assert decode(Path("a.txt").read_text("utf-8")) == bytes([128] * 30 + [148] * 30)
    assert run("wav2utf8 --rate 1000 --normalize a.wav a.txt") == 0
    assert set(decode(Path("a.txt").read_text("utf-8"))) == {128, 255}
    assert run("wav2utf8 --rate 1000 --mulaw -q a.wav a.txt") == 0
    assert set(decode(Path("a.txt").read_text("utf-8"))) == {0xFF, 0xDB}
    assert run("utf82wav --rate 1000 --mulaw a.txt b.wav") == 0
    assert soundfile.info("b.wav").subtype == "ULAW"
    assert soundfile.info("b.wav").samplerate == 1000
    soundfile.write("c.wav", np.full(1000, 64, np.int16), 1000)
    assert run("wav2utf8 --rate 1000 --dither -q c.wav a.txt") == 0
    assert set(decode(Path("a.txt").read_text("utf-8"))) == {127, 128, 129}


# Messages.


def test_skipped_characters_are_counted(capsys):
    Path("a.txt").write_text("⠁one⠂\n⠃\n", "utf-8")
    assert run("utf82bin --errors skip a.txt b") == 0
    assert Path("b").read_bytes() == b"\x01\x02\x03"
    assert "a.txt: skipped 4 characters" in capsys.readouterr().err
    assert run("utf82wav -q --errors skip a.txt b.wav") == 0
    assert samples_in("b.wav") == b"\x01\x02\x03"
    assert capsys.readouterr().err == ""


def test_a_quiet_recording_is_reported_without_the_flag_quiet(capsys):
    save_wav("a.wav", bytes([127, 128, 130]))
    assert run("wav2utf8 a.wav a.txt") == 0
    assert "a.wav is quiet" in capsys.readouterr().err
    assert run("wav2utf8 --quiet a.wav a.txt") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("wav2utf8 missing.wav x", "missing.wav"),
        ("wav2utf8 empty x", "0 bytes"),
        ("wav2utf8 folder x", "folder is a folder: name a file"),
        ("wav2utf8 a.wav a.wav", "a.wav is the input"),
        ("utf82wav empty x", "empty contains no sound"),
        ("utf82wav bad.txt x", "bad.txt: U+0041 'A' at character 2 (byte 6)"),
        ("utf82bin cut.txt x", "cut.txt: the text ends within a character, at character 1 (byte 3)"),
        ("utf82bin a.wav x", "a.wav is a recording"),
        ("wav2utf8 a.wav no/x", "no folder no"),
        ("bin2utf8 a.wav folder", "folder is a folder: name a file"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_output(line, word, capsys: pytest.CaptureFixture[str]):
    save_wav("a.wav")
    Path("empty").touch()
    Path("bad.txt").write_text("⠀⠁A⠄", "utf-8")
    Path("cut.txt").write_bytes("⠀⠁".encode()[:-1])
    Path("folder").mkdir()
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert run(line) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{line.split()[0]}: ")
    assert word in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_an_error_keeps_the_existing_output():
    Path("bad.txt").write_text("⠀" * 100_000 + "A", "utf-8")
    Path("b").write_text("old")
    assert run("utf82bin bad.txt b") == 1
    assert run("utf82wav bad.txt b") == 1
    assert Path("b").read_text() == "old"
    assert sorted(os.listdir()) == ["b", "bad.txt"]


def test_a_wrong_command_line_exits_with_2(capsys):
    wrong = {
        "wav2utf8": "required: IN",
        "bin2utf8": "required: IN",
        "utf82bin": "required: IN",
        "wav2utf8 a b c": "unrecognized arguments: c",
        "wav2utf8 --rate 999 a": "--rate: '999'",
        "utf82wav --rate 11025.5": "--rate: '11025.5'",
        "utf82wav --rate fast": "--rate: 'fast'",
        "wav2utf8 --start -1 a": "--start: '-1'",
        "wav2utf8 --duration 0 a": "--duration: '0'",
        "wav2utf8 --gain nan a": "--gain: 'nan'",
        "wav2utf8 --mulaw --dither a": "--dither",
        "bin2utf8 --alpha=cjk a": "unrecognized arguments: --alpha=cjk",
    }
    for line, words in wrong.items():
        with pytest.raises(SystemExit) as caught:
            run(line)
        assert caught.value.code == 2
        name = line.split()[0]
        message = capsys.readouterr().err
        assert message.startswith(f"{name}: ")
        assert words in message
        assert message.endswith(f"See {name} --help.\n")
        assert message.count("\n") == 1


def test_help_has_examples_and_defaults_and_version_has_the_version(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            run(f"{name} --help")
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert "Examples:\n  " + name in text
        assert "default: " in text
        with pytest.raises(SystemExit):
            run(f"{name} --version")
        assert capsys.readouterr().out == f"{name} {__version__}\n"


# Modules and memory.


def modules_loaded_by(name, arguments):
    program = f"import sys; from bytecodec.commands import {name}; {name}({arguments}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_a_command_that_reads_no_recording_loads_neither_scipy_nor_soundfile():
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    for name in ("utf82wav", "bin2utf8", "utf82bin"):
        assert not {"scipy", "soundfile", "torch", "charrnn"} & modules_loaded_by(name, ["a.txt", "b"])


def test_reading_a_recording_loads_scipy_only_to_change_its_rate():
    save_wav("a.wav", rate=8000)
    assert "scipy" not in modules_loaded_by("wav2utf8", ["--rate", "8000", "a.wav", "b"])
    loaded = modules_loaded_by("wav2utf8", ["a.wav", "b"])
    assert {"scipy", "soundfile"} <= loaded
    assert not {"torch", "charrnn"} & loaded


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bin2utf8", "head -c 4G /dev/zero"),
        ("utf82bin", "yes ⠀⠁⠂⠃ | tr -d '\\n' | head -c 4200000000"),
        ("utf82wav", "yes ⠀⠁⠂⠃ | tr -d '\\n' | head -c 4200000000"),
    ],
)
@pytest.mark.slow
def test_four_gigabytes_need_constant_memory(name, source):
    program = f"import sys; from bytecodec.commands import {name}; {name}(sys.argv[1:]); "
    program += "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    done = shell(f"{source} | {sys.executable} -c '{program}' - > /dev/null")
    assert done.returncode == 0
    assert int(done.stderr) < 100_000  # KB
