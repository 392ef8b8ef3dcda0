"""The four codec commands: files, pipes, exit codes and each sentence."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bytecodec import WavWriter, __version__, commands, console, decode, encode, wavwriter

COMMANDS = ["wav2utf8", "utf82wav", "bin2utf8", "utf82bin"]
ALL_BYTES = bytes(range(256))
PROCESS_TIMEOUT = 60  # seconds that a process on a busy machine may take to start, or to end


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(line: str) -> int:
    name, *arguments = line.split()
    command: Callable[..., int] = getattr(commands, name)
    return command(arguments)


def shell(line: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run commands for real, in bash; ``NAME`` is the command as it is installed."""
    for name in COMMANDS:
        call = f"{sys.executable} -c 'import sys; from bytecodec.commands import {name}; sys.exit({name}())'"
        line = line.replace(name.upper(), call)
    return subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, check=False, **options)


def save_wav(name: str, values: bytes = ALL_BYTES, rate: int = 11025) -> None:
    with open(name, "wb") as file, WavWriter(file, rate) as writer:
        writer.write(values)


def samples_in(name: str) -> bytes:
    samples, _ = soundfile.read(name, dtype="int16")
    return bytes((samples // 256 + 128).astype(np.uint8))


# There and back.


@pytest.mark.parametrize("alphabet", ["braille", "cjk", "latin"])
def test_sound_comes_back_sample_for_sample(alphabet: str) -> None:
    save_wav("a.wav")
    assert run(f"wav2utf8 --alphabet {alphabet} a.wav a.txt") == 0
    assert Path("a.txt").read_text("utf-8") == encode(ALL_BYTES, alphabet)
    assert run("utf82wav a.txt b.wav") == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


@pytest.mark.parametrize("alphabet", ["braille", "cjk", "latin"])
def test_any_bytes_come_back_with_a_mark_and_a_line_end_added(alphabet: str) -> None:
    data = np.random.default_rng(0).bytes(100_001)
    Path("a").write_bytes(data)
    assert run(f"bin2utf8 --alphabet {alphabet} a a.txt") == 0
    assert Path("a.txt").read_text("utf-8") == encode(data, alphabet)
    Path("b.txt").write_bytes(b"\xef\xbb\xbf" + Path("a.txt").read_bytes() + b"\r\n")
    assert run("utf82bin b.txt b") == 0
    assert Path("b").read_bytes() == data


def test_an_empty_file_is_an_empty_text_and_back() -> None:
    Path("a").touch()
    assert run("bin2utf8 a a.txt") == 0
    assert run("utf82bin a.txt b") == 0
    assert Path("b").read_bytes() == b""


def test_the_pipe_gives_the_same_samples() -> None:
    save_wav("a.wav", ALL_BYTES[:255])
    done = shell("WAV2UTF8 a.wav | UTF82WAV > b.wav; WAV2UTF8 - < a.wav | UTF82WAV - - | cat > c.wav")
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("b.wav").read_bytes() == Path("a.wav").read_bytes()
    assert Path("c.wav").read_bytes()[44:] == ALL_BYTES[:255]


def test_bytes_go_through_pipes() -> None:
    data = np.random.default_rng(0).bytes(300_000)
    done = shell("cat | BIN2UTF8 - | UTF82BIN -", stdin=data)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", data)


def test_what_a_pipe_holds_so_far_is_decoded_without_waiting_for_more() -> None:
    call = [sys.executable, "-c", "from bytecodec.commands import utf82bin; utf82bin(['-'])"]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode(b"now").encode())
        process.stdin.flush()
        assert process.stdout.read(3) == b"now"
        process.stdin.close()
        assert process.wait() == 0


def test_the_flags_reach_the_reader(capsys: pytest.CaptureFixture[str]) -> None:
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


# What is said.


def test_foreign_characters_are_skipped_and_counted_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("⠁one⠂\n⠃\n", "utf-8")
    assert run("utf82bin --errors skip a.txt b") == 0
    assert Path("b").read_bytes() == b"\x01\x02\x03"
    assert capsys.readouterr().err == "a.txt: skipped 4 foreign characters.\n"
    assert run("utf82wav -q --errors skip a.txt b.wav") == 0
    assert samples_in("b.wav") == b"\x01\x02\x03"
    assert capsys.readouterr().err == ""


def test_a_quiet_recording_is_hinted_at_unless_quiet_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    save_wav("a.wav", bytes([127, 128, 130]))
    assert run("wav2utf8 a.wav a.txt") == 0
    assert capsys.readouterr().err == (
        "a.wav is quiet: its peak uses 3 of the 8 bits; --normalize brings it to full scale.\n"
    )
    assert run("wav2utf8 --quiet a.wav a.txt") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("wav2utf8 missing.wav x", "missing.wav"),
        ("wav2utf8 empty x", "0 bytes"),
        ("wav2utf8 folder x", "folder: Is a directory"),
        ("wav2utf8 a.wav a.wav", "a.wav is the input"),
        ("bin2utf8 a.wav ./a.wav", "./a.wav is the input"),
        ("utf82bin bad.txt bad.txt", "bad.txt is the input"),
        ("utf82wav empty x", "empty holds no sound"),
        ("utf82wav bad.txt x", "bad.txt: U+0041 'A' at character 2 (byte 6)"),
        ("utf82bin cut.txt x", "cut.txt: the text ends in the middle of a character, at character 1 (byte 3)"),
        ("utf82bin a.wav x", "a.wav is a recording"),
        ("wav2utf8 a.wav no/x", "no folder no"),
        ("bin2utf8 a.wav folder", "folder: is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    line: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_a_refusal_keeps_the_output_that_was_there() -> None:
    Path("bad.txt").write_text("⠀" * 100_000 + "A", "utf-8")
    Path("b").write_text("old")
    assert run("utf82bin bad.txt b") == 1
    assert run("utf82wav bad.txt b") == 1
    assert Path("b").read_text() == "old"
    assert sorted(os.listdir()) == ["b", "bad.txt"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("wav2utf8", "the following arguments are required: IN"),
        ("bin2utf8", "the following arguments are required: IN"),
        ("utf82bin", "the following arguments are required: IN"),
        ("wav2utf8 a b c", "unrecognized arguments: c"),
        ("wav2utf8 --rate 999 a", "argument --rate: '999' is out of range: 1,000 to 768,000 are possible"),
        ("utf82wav --rate 768001", "argument --rate: '768001' is out of range: 1,000 to 768,000 are possible"),
        ("utf82wav --rate 11025.5", "argument --rate: '11025.5' is not a whole number"),
        ("utf82wav --rate fast", "argument --rate: 'fast' is not a number: 1,000 to 768,000 are possible"),
        ("wav2utf8 --start -1 a", "argument --start: '-1' is out of range: 0 to 1,000,000,000 are possible"),
        ("wav2utf8 --duration 0 a", "argument --duration: '0' is out of range: 0.0001 to 1,000,000,000 are possible"),
        ("wav2utf8 --gain nan a", "argument --gain: 'nan' is out of range: -200 to 200 are possible"),
        ("wav2utf8 --mulaw --dither a", "--dither is for linear samples: leave it out, or --mulaw"),
        ("bin2utf8 --alpha=cjk a", "unrecognized arguments: --alpha=cjk"),
    ],
)
def test_a_wrong_command_line_ends_with_2(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    name = line.split()[0]
    assert capsys.readouterr().err == f"{name}: {sentence}. See {name} --help.\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_the_defaults_and_version_the_version(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(f"{name} --help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "Examples:\n  " + name in said
    assert "default: " in said
    with pytest.raises(SystemExit):
        run(f"{name} --version")
    assert capsys.readouterr().out == f"{name} {__version__}\n"


# Ends of many kinds.


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("line", ["utf82wav a.txt", "utf82bin a.txt"])
def test_binary_is_refused_a_terminal(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("⠀", "utf-8")
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    assert run(line) == 1
    assert screen.getvalue() == b""
    assert capsys.readouterr().err.endswith(
        ": this is binary and standard output is a terminal: name a file, or send it through a pipe.\n"
    )


def test_text_may_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a").write_bytes(b"\x00\x01")
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    assert run("bin2utf8 a") == 0
    assert screen.getvalue().decode() == "⠀⠁"


def test_a_closed_pipe_ends_it_quietly() -> None:
    Path("a.txt").write_text(encode(bytes(1_000_000)), "utf-8")
    for name in ("UTF82BIN", "UTF82WAV", "BIN2UTF8"):
        done = shell(f"{name} a.txt | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}")
        assert (done.stdout, done.stderr) == (b"0\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    save_wav("a.wav")
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    for line in ("WAV2UTF8 a.wav", "UTF82WAV a.txt", "BIN2UTF8 a.txt", "UTF82BIN a.txt"):
        for target in ("> /dev/full", "/dev/full"):
            done = shell(f"{line} {target}")
            assert done.returncode == 1
            assert done.stderr.decode() == (
                f"{line.split()[0].lower()}: No space left on device. "
                "Free some space, or write elsewhere; files that existed before are as they were.\n"
            )


def test_a_full_wav_file_keeps_what_fits_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wavwriter, "MOST_BYTES", 200)
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    assert run("utf82wav a.txt b.wav") == 1
    assert samples_in("b.wav") == ALL_BYTES[:155]
    assert capsys.readouterr().err == (
        "utf82wav: a WAV file ends at 4 GiB: 155 samples are in it, and there are more. "
        "Cut the text into several, or write bare samples with utf82bin.\n"
    )


class Pipe(io.BytesIO):
    """Gives all that it holds at once and then, instead of waiting for more, is interrupted."""

    def __init__(self, data: bytes, interruption: BaseException) -> None:
        super().__init__(data)
        self.interruption = interruption

    def read1(self, size: int | None = -1) -> bytes:
        data = super().read1(size)
        if not data:
            raise self.interruption
        return data


@pytest.mark.parametrize(
    ("interruption", "code", "said"),
    [(KeyboardInterrupt(), 0, "stopped after 0.1 s of sound.\n"), (console.Terminated(), 143, "")],
)
def test_interrupting_an_endless_pipe_finishes_the_file(
    interruption: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = Pipe(encode(ALL_BYTES[:255] * 5).encode(), interruption)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    assert run("utf82wav - b.wav") == code
    assert samples_in("b.wav") == ALL_BYTES[:255] * 5
    assert capsys.readouterr().err == said


def test_interrupting_before_the_first_sample_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(b"", KeyboardInterrupt())))
    assert run("utf82wav - b.wav") == 130
    assert os.listdir() == []


def signalled(program: str, number: signal.Signals, pause: float = 0) -> int:
    """The exit code of a program that is sent a signal when it has written most of what a pipe gave it so far, or
    so many seconds later, when it waits for more."""
    more_than_buffers_hold = ALL_BYTES * 1000
    with (
        open("b.wav", "wb") as stdout,
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=stdout) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(encode(more_than_buffers_hold).encode())
        process.stdin.flush()
        deadline = time.monotonic() + PROCESS_TIMEOUT
        while Path("b.wav").stat().st_size < 44 + len(more_than_buffers_hold) - 70_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(number)
        code = process.wait(PROCESS_TIMEOUT)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    written = samples_in("b.wav")
    assert len(written) > 100_000
    assert more_than_buffers_hold.startswith(written)
    return code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_went_to_standard_output(number: signal.Signals, code: int) -> None:
    program = "import sys; from bytecodec.commands import utf82wav; sys.exit(utf82wav([]))"
    assert signalled(program, number) == code


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal masks")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_that_does_not_interrupt_reading_is_noticed_all_the_same(number: signal.Signals, code: int) -> None:
    """One that comes just before read(2) does not, nor one that another thread gets, which is how it is made sure."""
    program = (
        "import signal, sys, threading; from bytecodec.commands import utf82wav\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        "sys.exit(utf82wav([]))"
    )
    assert signalled(program, number, pause=0.5) == code


def test_interrupting_a_finite_input_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Decoder, "feed", interrupted)
    assert run("utf82wav a.txt b.wav") == 130
    assert run("utf82bin a.txt b.wav") == 130
    assert os.listdir() == ["a.txt"]


# What is loaded, and how much of it.


def modules_loaded_by(name: str, arguments: list[str]) -> set[str]:
    program = f"import sys; from bytecodec.commands import {name}; {name}({arguments}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["utf82wav", "bin2utf8", "utf82bin"])
def test_a_command_that_reads_no_recording_loads_neither_scipy_nor_soundfile(name: str) -> None:
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    assert not {"scipy", "soundfile", "torch", "charrnn"} & modules_loaded_by(name, ["a.txt", "b"])


def test_reading_a_recording_loads_scipy_only_to_change_its_rate() -> None:
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
def test_four_gigabytes_go_through_in_constant_memory(name: str, source: str) -> None:
    program = f"import sys; from bytecodec.commands import {name}; {name}(sys.argv[1:]); "
    program += "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    done = shell(f"{source} | {sys.executable} -c '{program}' - > /dev/null")
    assert done.returncode == 0
    assert int(done.stderr) < 100_000  # KB
