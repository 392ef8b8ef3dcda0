"""The codec's commands on terminals and closed pipes, on full disks, and when they are interrupted."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from codec_commands import ALL_BYTES, PROCESS_TIMEOUT, run, samples_in, save_wav, shell

from bytecodec import commands, console, encode, wavwriter


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def test_a_terminal_receives_no_binary_output(monkeypatch, capsys):
    Path("a.txt").write_text("⠀", "utf-8")
    for line in ("utf82wav a.txt", "utf82bin a.txt"):
        screen = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", Terminal(screen))
        assert run(line) == 1
        assert screen.getvalue() == b""
        assert "terminal" in capsys.readouterr().err


def test_text_may_go_to_a_terminal(monkeypatch):
    Path("a").write_bytes(b"\x00\x01")
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    assert run("bin2utf8 a") == 0
    assert screen.getvalue().decode() == "⠀⠁"


def test_a_closed_pipe_is_no_error():
    Path("a.txt").write_text(encode(bytes(1_000_000)), "utf-8")
    for name in ("UTF82BIN", "UTF82WAV", "BIN2UTF8"):
        done = shell(f"{name} a.txt | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}")
        assert (done.stdout, done.stderr) == (b"0\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_reported_in_one_line():
    save_wav("a.wav")
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    for line in ("WAV2UTF8 a.wav > /dev/full", "UTF82WAV a.txt /dev/full", "BIN2UTF8 a.txt > /dev/full"):
        done = shell(line)
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"{line.split()[0].lower()}: No space left on device.")
        assert done.stderr.count(b"\n") == 1


def test_a_full_wav_file_keeps_the_samples_that_fit(monkeypatch, capsys):
    monkeypatch.setattr(wavwriter, "MAX_BYTES", 200)
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")
    assert run("utf82wav a.txt b.wav") == 1
    assert samples_in("b.wav") == ALL_BYTES[:155]
    message = capsys.readouterr().err
    assert "155 samples" in message
    assert "utf82bin" in message


class Pipe(io.BytesIO):
    """Pipe that returns its content first, and then is interrupted instead of blocking."""

    def __init__(self, data, interruption):
        super().__init__(data)
        self.interruption = interruption

    def read1(self, size=-1):
        data = super().read1(size)
        if not data:
            raise self.interruption
        return data


@pytest.mark.parametrize(
    ("interruption", "code", "message"),
    [(KeyboardInterrupt(), 0, "stopped after 0.1 s of sound.\n"), (console.Terminated(), 143, "")],
)
def test_interrupting_an_endless_pipe_finishes_the_file(interruption, code, message, monkeypatch, capsys):
    pipe = Pipe(encode(ALL_BYTES[:255] * 5).encode(), interruption)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    assert run("utf82wav - b.wav") == code
    assert samples_in("b.wav") == ALL_BYTES[:255] * 5
    assert capsys.readouterr().err == message


def test_interrupting_before_the_first_sample_leaves_no_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(b"", KeyboardInterrupt())))
    assert run("utf82wav - b.wav") == 130
    assert os.listdir() == []


def signalled(program, number, pause=0):
    """Return the exit code of a program that receives a signal ``pause`` seconds after it has written most of its
    input so far."""
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
def test_a_signal_finishes_the_file_on_standard_output(number, code):
    program = "import sys; from bytecodec.commands import utf82wav; sys.exit(utf82wav([]))"
    assert signalled(program, number) == code


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal masks")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_that_does_not_interrupt_reading_is_handled(number, code):
    """A signal does not interrupt read(2) if it arrives just before, or in another thread as here."""
    program = (
        "import signal, sys, threading; from bytecodec.commands import utf82wav\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        "sys.exit(utf82wav([]))"
    )
    assert signalled(program, number, pause=0.5) == code


def test_interrupting_a_finite_input_leaves_no_file(monkeypatch):
    Path("a.txt").write_text(encode(ALL_BYTES), "utf-8")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Decoder, "feed", interrupted)
    assert run("utf82wav a.txt b.wav") == 130
    assert run("utf82bin a.txt b.wav") == 130
    assert os.listdir() == ["a.txt"]
