"""charrnn-sample: lengths, seeds, streams, temperatures, checkpoints and files."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sample_command import PROGRAM, error, int16, sample_text

import bytecodec
from charrnn.commands.sample import charrnn_sample
from charrnn.storage.checkpoint import load, save

pytestmark = pytest.mark.usefixtures("in_networks")


def test_text_is_written_to_standard_output(capfdbinary):
    assert charrnn_sample(["sound", "--length", "300", "--seed", "1", "-q"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.decode() == sample_text("sound", "--length", "300", "--seed", "1")
    assert len(out.decode()) == 300
    assert err == b""


def test_the_speed_is_not_printed_in_the_line_of_the_text_on_a_terminal(capsys, monkeypatch):
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer)
        assert charrnn_sample(["sound", "--length", "9"]) == 0
        assert capsys.readouterr().err.startswith("\n") is is_terminal


def test_a_seed_determines_the_symbols():
    one = sample_text("sound", "--length", "300", "--seed", "1")
    assert one == sample_text("sound", "--length", "300", "--seed", "1")
    assert one != sample_text("sound", "--length", "300", "--seed", "2")
    assert sample_text("sound", "--length", "1000", "--seed", "1").startswith(one)


def test_onnxruntime_and_the_eager_engine_write_the_same():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    flags = ["poem", "--length", "300", "--precision", "fp32", "--threads", "1"]
    assert sample_text(*flags, "--engine", "onnx") == sample_text(*flags, "--engine", "eager")
    flags = ["poem", "--length", "300", "--threads", "1", "--engine", "onnx"]
    assert sample_text(*flags) == sample_text(*flags, "--precision", "int8")


def test_seconds_are_converted_at_the_rate_of_the_network():
    assert len(sample_text("sound", "--seconds", "0.1")) == 1102
    assert charrnn_sample(["sound", "--seconds", "0.1", "-o", "x.wav", "-q"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    assert (len(samples), rate, soundfile.info("x.wav").subtype) == (1102, 11025, "PCM_U8")
    assert bytecodec.decode(Path("x.txt").read_text()) == (samples // 256 + 128).astype(np.uint8).tobytes()


def test_the_default_is_ten_seconds_of_sound_or_2000_symbols_of_text():
    assert len(sample_text("sound", "--temperature", "1")) == 110250
    assert len(sample_text("poem")) == 2000


def test_the_speed_is_reported(capsys):
    charrnn_sample(["sound", "--length", "500", "-o", "x.txt"])
    assert "500 symbols in " in (message := capsys.readouterr().err)
    assert " symbols/s, " in message
    assert " times real time: x.txt" in message


def test_the_flags_that_a_text_needs_are_reported(capsys, in_networks):
    network = replace(load(in_networks / "sound"), rate=16000, encoding="mulaw")
    save("other.safetensors", network)
    for output, is_reported in (("x.txt", True), ("-", True), ("x.wav", False)):
        assert charrnn_sample(["other.safetensors", "--length", "5", "-o", output]) == 0
        assert ("utf82wav --rate 16000 --mulaw" in capsys.readouterr().err) == is_reported
    assert charrnn_sample(["sound", "--length", "5", "-o", "x.txt"]) == 0
    assert "utf82wav" not in capsys.readouterr().err


def test_a_stream_does_not_depend_on_the_number_of_streams():
    for n in (2, 9):
        charrnn_sample(["sound", "--streams", f"{n}", "--length", "700", "--seed", "5", "-o", f"streams{n}", "-q"])
    assert sorted(path.name for path in Path("streams9").iterdir()) == [f"{k:03d}.wav" for k in range(1, 10)]
    charrnn_sample(["sound", "--length", "700", "--seed", "5", "-o", "one.wav", "-q"])
    one, two = (Path(f"streams9/00{k}.wav").read_bytes() for k in (1, 2))
    assert Path("one.wav").read_bytes() == Path("streams2/001.wav").read_bytes() == one
    assert Path("streams2/002.wav").read_bytes() == two != one


def test_each_temperature_of_a_list_has_a_file():
    charrnn_sample(["poem", "--temperature", "0,0.7,1", "--length", "300", "--seed", "5", "-o", "several", "-q"])
    for number, temperature in enumerate(("0", "0.7", "1"), 1):
        alone = sample_text("poem", "--temperature", temperature, "--length", "300", "--seed", "5")
        assert Path(f"several/{number:03d}.txt").read_text(encoding="utf-8") == alone


@pytest.mark.parametrize(("network", "start"), [("poem", "kůň"), ("sound", "⡿")])
def test_temperature_0_chooses_the_likeliest_symbol_whatever_the_seed(network, start):
    flags = [network, "--temperature", "0", "--length", "50", "--start-text", start]
    assert sample_text(*flags, "--seed", "1") == sample_text(*flags, "--seed", "2")


def test_a_checkpoint_of_a_run_is_chosen_by_iteration_or_name():
    at_10 = sample_text("sound", "--checkpoint", "10", "--length", "300")
    assert at_10 != sample_text("sound", "--length", "300")
    assert sample_text("sound", "--checkpoint", "20", "--length", "300") == sample_text("sound", "--length", "300")
    assert sample_text("sound/checkpoints/00000010.safetensors", "--length", "300") == at_10
    assert sample_text("sound", "--checkpoint", "best", "--length", "300")


def test_the_newest_run_is_the_default(in_networks, capsys):
    Path("runs").mkdir()
    for age, name in enumerate(("sound", "poem")):
        Path("runs", name).symlink_to(in_networks / name)
        for file in ("config.json", "log.csv"):
            os.utime(in_networks / name / file, (1e9 - age, 1e9 - age))
    charrnn_sample(["--length", "10", "-o", "x.txt"])
    assert "sampling from runs/sound." in capsys.readouterr().err


def test_help_shows_an_example_and_version_a_number(capsys):
    for flag, word in (("--help", "Examples:\n  charrnn-sample --temperature 1"), ("--version", "charrnn-sample 0.")):
        with pytest.raises(SystemExit) as exit_:
            charrnn_sample([flag])
        assert exit_.value.code == 0
        assert word in capsys.readouterr().out


# Files that cannot be written


def test_a_full_wav_file_is_kept_and_reported(capsys, monkeypatch):
    monkeypatch.setattr("bytecodec.wavwriter.MAX_BYTES", 1000)
    assert "4 GiB" in error(capsys, "sound", "--length", "2000", "-o", "x.wav")
    assert len(int16("x.wav")) == 955


def test_a_killed_process_leaves_existing_files_unchanged():
    Path("x.wav").write_bytes(b"an older one")
    sample_text("sound", "--length", "5", "--state-out", "s")
    old = Path("s").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "sound", "--seconds", "0", "-o", "x.wav", "--state-out", "s", "-q"]
    )
    while not (parts := [path for path in Path().glob(".x.wav.*.part") if path.stat().st_size > 1000]):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert Path("x.wav").read_bytes() == b"an older one"
    assert Path("s").read_bytes() == old
    with parts[0].open("rb") as part:
        assert len(soundfile.read(part)[0]) > 256  # the unfinished file can be played


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_reported(capsys):
    assert "No space left on device" in error(capsys, "sound", "--length", "100000", "-o", "/dev/full")


def test_a_disk_too_full_for_the_state_leaves_the_old_one(capsys, monkeypatch):
    sample_text("sound", "--length", "5", "--state-out", "s")
    old = Path("s").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["bytecodec.console"].os, "fsync", full)
    message = error(capsys, "sound", "--length", "9", "-o", "/dev/null", "--state-out", "s")
    assert message.startswith("s: No space left on device.")
    assert Path("s").read_bytes() == old
    assert not list(Path().glob(".s.*"))
