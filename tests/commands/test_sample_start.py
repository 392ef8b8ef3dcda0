"""charrnn-sample: texts and recordings to start from, and the likeliest next symbols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from sample_command import error, sample_text

import bytecodec
from charrnn.commands.sample import charrnn_sample

pytestmark = pytest.mark.usefixtures("in_networks")


@pytest.fixture
def start_files(in_networks):
    """Start files of every kind."""
    Path("x.wav").write_bytes((in_networks / "sound.wav").read_bytes())
    Path("plain.txt").write_bytes((in_networks / "poem.txt").read_bytes())
    for alphabet in bytecodec.ALPHABETS:
        Path(f"{alphabet}.txt").write_text(bytecodec.encode(bytes(range(256)) * 4, alphabet), encoding="utf-8")


def test_start_text_is_read_but_neither_written_nor_counted():
    started = sample_text("poem", "--start-text", "kůň 你好", "--length", "50", "--seed", "1")
    assert len(started) == 50
    assert started != sample_text("poem", "--length", "50", "--seed", "1")


def test_the_end_of_a_start_file_is_read(in_networks):
    flags = ["sound", "--length", "200", "--seed", "1"]
    samples, _ = soundfile.read(in_networks / "sound.wav", dtype="int16")
    end = bytecodec.encode((samples[-110:] // 256 + 128).astype(np.uint8).tobytes())
    from_text = sample_text(*flags, "--start-text", end)
    assert from_text == sample_text(*flags, "--start-file", f"{in_networks}/sound.wav", "--start-seconds", "0.01")
    Path("end.txt").write_text("⠁⠂⠃" + end + "\n", encoding="utf-8")
    assert from_text == sample_text(*flags, "--start-file", "end.txt", "--start-seconds", "0.01")
    assert len(sample_text("poem", "--start-file", f"{in_networks}/poem.txt", "--length", "20")) == 20


@pytest.mark.usefixtures("start_files")
def test_a_text_of_sound_in_any_alphabet_equals_the_recording():
    with open("y.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(bytes(range(256)) * 4)
    files = ["y.wav", *(f"{name}.txt" for name in bytecodec.ALPHABETS)]
    assert len({sample_text("sound", "--start-file", name, "--length", "50") for name in files}) == 1


@pytest.mark.usefixtures("start_files")
def test_seconds_of_a_start_file_are_for_networks_of_sound(capsys):
    assert "--start-seconds" in error(capsys, "poem", "--start-file", "plain.txt", "--start-seconds", "1")


@pytest.mark.usefixtures("start_files")
def test_a_start_file_of_the_other_kind_is_rejected_by_name(capsys):
    for network, file, word in (
        ("poem", "x.wav", "recording"),
        ("poem", "cjk.txt", "sound"),
        ("sound", "plain.txt", "plain text"),
        ("sound", ".", "name a file"),
    ):
        message = error(capsys, network, "--start-file", file, "--length", "5")
        assert message.startswith(file)
        assert word in message


def test_unknown_characters_are_skipped_and_counted_on_request(capsys):
    assert "U+0040" in error(capsys, "poem", "--start-text", "k@u")
    Path("some.txt").write_text("@kůň@@", encoding="utf-8")
    for start in (["--start-text", "@kůň@@"], ["--start-file", "some.txt"]):
        capsys.readouterr()
        assert charrnn_sample(["poem", "--unknown", "skip", *start, "--length", "20", "-o", "x.txt"]) == 0
        assert "skipped 3 of 6 characters" in capsys.readouterr().err
        skipped = Path("x.txt").read_text(encoding="utf-8")
        assert skipped == sample_text("poem", "--start-text", "kůň", "--length", "20")
    assert charrnn_sample(["poem", "--unknown", "skip", "--start-text", "kůň", "--length", "5", "-o", "x.txt"]) == 0
    assert "skipped" not in capsys.readouterr().err


def test_unknown_skip_needs_known_characters_and_a_network_of_text(capsys):
    Path("unknown.txt").write_text("@@", encoding="utf-8")
    for start in (["--start-text", "@@"], ["--start-file", "unknown.txt"]):
        assert "no character" in error(capsys, "poem", "--unknown", "skip", *start)
    assert "--unknown" in error(capsys, "sound", "--unknown", "skip", "--start-text", "⠁A")
    assert "--unknown" in error(capsys, "poem", "--unknown", "skip", code=2)


# --choices


def choices(capsys, *argv):
    """Return the lines that --choices prints, split into columns."""
    capsys.readouterr()
    assert charrnn_sample([*argv, "-q"]) == 0
    return [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("engine", ["cpu", "onnx", "eager"])
def test_the_choices_are_the_likeliest_symbols_with_their_probabilities(in_networks, capsys, engine):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    flags = ["--engine", engine, "--precision", "fp32", "--start-text", "kůň", "--temperature", "0.5"]
    shown = choices(capsys, "poem", "--choices", "1000", *flags)
    probabilities = [float(probability) for probability, _ in shown]
    vocabulary = set((in_networks / "poem.txt").read_text(encoding="utf-8"))
    assert {symbol for _, symbol in shown} == {f"{c!r} U+{ord(c):04X}" for c in vocabulary}
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert choices(capsys, "poem", "--choices", "3", *flags) == shown[:3]
    likeliest = sample_text("poem", *flags[:6], "--temperature", "0", "--length", "1")
    assert shown[0][1].startswith(repr(likeliest))


def test_choices_of_a_network_of_sound_are_bytes_and_samples(in_networks, capsys):
    shown = choices(capsys, "sound", "--choices", "256", "--start-file", f"{in_networks}/sound.wav")
    columns = [symbol.split() for _, symbol in shown]
    assert {int(byte) for byte, *_ in columns} == set(range(256))
    assert all(float(value) == pytest.approx((int(byte) - 128) / 128, abs=1e-5) for byte, value, _ in columns)


def test_one_channel_of_a_recording_can_be_the_start(capsys):
    left, right = np.random.default_rng(3).uniform(-1, 1, (2, 300))
    for name, samples in {"both": np.stack([left, right], axis=1), "right": right}.items():
        soundfile.write(f"{name}.wav", samples, 11025)
    flags = ["sound", "--choices", "5", "--start-file"]
    of_right = choices(capsys, *flags, "right.wav")
    assert choices(capsys, *flags, "both.wav", "--channel", "right") == of_right
    assert choices(capsys, *flags, "both.wav", "--channel", "left") != of_right


def test_a_start_file_is_decoded_with_a_table(capsys):
    Path("table.txt").write_text("".join(f"{byte} {chr(0x4E00 + byte)}\n" for byte in range(256)), encoding="utf-8")
    Path("sound.txt").write_text("".join(chr(0x4E00 + byte) for byte in (120, 130, 140)), encoding="utf-8")
    flags = ["sound", "--choices", "5"]
    by_table = choices(capsys, *flags, "--start-file", "sound.txt", "--table", "table.txt")
    assert by_table == choices(capsys, *flags, "--start-text", bytecodec.encode(bytes([120, 130, 140])))


def test_without_a_start_all_choices_have_the_same_probability(capsys):
    assert charrnn_sample(["poem", "--choices", "5"]) == 0
    captured = capsys.readouterr()
    first, *others = [float(line.split()[0]) for line in captured.out.splitlines()]
    assert others == [first] * 4
    assert "first symbol" in captured.err


def test_without_a_start_the_likeliest_choice_of_a_network_that_reads_samples_is_silence(capsys):
    assert charrnn_sample(["sound", "--choices", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split()[1] == "128"
    assert "first symbol" in captured.err


def test_choices_continue_from_a_state_of_one_stream(capsys):
    at_once = choices(capsys, "poem", "--choices", "4", "--start-text", "kůň")
    choices(capsys, "poem", "--choices", "4", "--start-text", "ků", "--state-out", "s")
    assert choices(capsys, "poem", "--choices", "4", "--state-in", "s", "--start-text", "ň") == at_once
    assert charrnn_sample(["poem", "--streams", "3", "--length", "9", "-o", "d", "--state-out", "u", "-q"]) == 0
    assert "one stream" in error(capsys, "poem", "--choices", "3", "--state-in", "u")


def test_choices_cannot_be_combined_with_flags_of_sampling(capsys):
    for flags in (["-o", "x.txt"], ["--length", "5"], ["--float"], ["--streams", "2"], ["--temperature", "0.5,1"]):
        assert "--choices" in error(capsys, "sound", "--choices", "3", *flags, code=2)
    assert not Path("x.txt").exists()
