"""charrnn-sample as its users meet it: what it writes where, how it goes on, what it refuses."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bytecodec
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.sampling import writers

SMALL = "--rnn-size 16 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --precision fp32 --threads 1".split()
COMMAND = "import sys; from charrnn.commands.sample import charrnn_sample as run; sys.exit(run())"


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Runs called sound and poem, hardly trained, in a folder."""
    folder = tmp_path_factory.mktemp("networks")
    data = np.random.default_rng(1).integers(100, 130, 2000, dtype=np.uint8)
    with open(folder / "sound.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(data)
    (folder / "poem.txt").write_text("Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 40, encoding="utf-8")
    for name in ("sound.wav", "poem.txt"):
        run = [
            "--run-dir",
            str(folder / name[:5].strip(".")),
            "--max-iterations",
            "20",
            "--checkpoint-every",
            "10",
            "-q",
        ]
        assert charrnn_train([str(folder / name), *SMALL, *run]) == 0
    return folder


@pytest.fixture
def here(networks, tmp_path, monkeypatch):
    """An empty folder to work in, with the runs in it as ``sound`` and ``poem``."""
    monkeypatch.chdir(tmp_path)
    for name in ("sound", "poem"):
        Path(name).symlink_to(networks / name)
    return networks


def sample(*argv):
    """The text that charrnn-sample writes to x.txt."""
    assert charrnn_sample([*argv, "-q", "-o", "x.txt"]) == 0
    return Path("x.txt").read_text(encoding="utf-8")


def test_it_writes_text_to_standard_output(here, capfdbinary):
    assert charrnn_sample(["sound", "--length", "300", "--seed", "1", "-q"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.decode() == sample("sound", "--length", "300", "--seed", "1")
    assert len(out.decode()) == 300
    assert err == b""


def test_the_same_seed_gives_the_same_symbols_and_another_seed_others(here):
    one = sample("sound", "--length", "300", "--seed", "1")
    assert one == sample("sound", "--length", "300", "--seed", "1")
    assert one != sample("sound", "--length", "300", "--seed", "2")


def test_onnxruntime_writes_what_the_eager_engine_does(here):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    flags = ["sound", "--length", "300", "--precision", "fp32", "--threads", "1"]
    assert sample(*flags, "--engine", "onnx") == sample(*flags, "--engine", "eager")
    flags = ["sound", "--length", "300", "--threads", "1", "--engine", "onnx"]
    assert sample(*flags) == sample(*flags, "--precision", "int8")


def test_a_longer_sample_begins_with_the_shorter_one(here):
    assert sample("sound", "--length", "1000").startswith(sample("sound", "--length", "300"))


def test_seconds_count_samples_at_the_networks_rate(here):
    assert len(sample("sound", "--seconds", "0.1")) == 1102
    assert charrnn_sample(["sound", "--seconds", "0.1", "-o", "x.wav", "-q"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    assert (len(samples), rate, soundfile.info("x.wav").subtype) == (1102, 11025, "PCM_U8")
    assert bytecodec.decode(Path("x.txt").read_text()) == (samples // 256 + 128).astype(np.uint8).tobytes()


def test_defaults_are_ten_seconds_of_sound_and_2000_symbols_of_text(here):
    assert len(sample("sound", "--temperature", "1")) == 110250
    assert len(sample("poem")) == 2000


def test_it_says_how_fast_it_was(here, capsys):
    charrnn_sample(["sound", "--length", "500", "-o", "x.txt"])
    assert "500 symbols in " in (err := capsys.readouterr().err)
    assert " times real time: x.txt" in err


@pytest.mark.parametrize("segments", [2, 3, 10])
def test_segments_with_carried_state_are_one_long_run_symbol_for_symbol(here, segments):
    whole = sample("sound", "--length", "600", "--seed", "3")
    assert whole == sample(
        "sound", "--segments", f"{segments}", "--segment-length", f"{600 // segments}", "--seed", "3"
    )
    assert whole == sample("sound", "--segments", f"{segments}", "--length", "600", "--seed", "3")


def test_a_reset_starts_afresh_while_the_random_numbers_go_on(here):
    flags = ["sound", "--segments", "3", "--segment-length", "200", "--seed", "3"]
    carried, reset = sample(*flags), sample(*flags, "--join", "reset")
    assert carried[:200] == reset[:200]
    assert carried[200:] != reset[200:]
    assert reset[200:400] != reset[:200]


def test_segments_are_kept_as_files_and_marked_in_the_wav(here):
    flags = ["sound", "--segments", "3", "--segment-length", "201", "--segments-dir", "parts", "-q"]
    assert charrnn_sample([*flags, "-o", "joined.wav"]) == 0
    parts = [soundfile.read(f"parts/{k:03d}.wav", dtype="int16")[0] for k in (1, 2, 3)]
    assert np.array_equal(np.concatenate(parts), soundfile.read("joined.wav", dtype="int16")[0])
    assert cue_points("joined.wav") == [201, 402]


def cue_points(path):
    data = Path(path).read_bytes()
    at = data.index(b"cue ")
    (count,) = struct.unpack_from("<I", data, at + 8)
    return [struct.unpack_from("<I", data, at + 12 + 24 * k + 20)[0] for k in range(count)]


@pytest.mark.parametrize("cut", [1, 255, 256, 257, 599])
def test_a_saved_state_goes_on_as_if_it_had_never_stopped(here, cut):
    whole = sample("sound", "--length", "600", "--seed", "4")
    first = sample("sound", "--length", f"{cut}", "--seed", "4", "--state-out", "s")
    assert whole == first + sample("sound", "--length", f"{600 - cut}", "--state-in", "s")


def test_a_saved_state_of_several_streams_goes_on(here):
    flags = ["sound", "--streams", "3", "--seed", "4", "-q"]
    charrnn_sample([*flags, "--length", "500", "-o", "whole"])
    charrnn_sample([*flags, "--length", "200", "-o", "a", "--state-out", "s"])
    charrnn_sample(["sound", "--length", "300", "--streams", "3", "--state-in", "s", "-q", "-o", "b"])
    for k in ("001.wav", "002.wav", "003.wav"):
        whole, a, b = (soundfile.read(Path(folder, k))[0] for folder in ("whole", "a", "b"))
        np.testing.assert_array_equal(whole, np.concatenate([a, b]))


def test_take_k_is_the_same_whatever_the_number_of_takes(here):
    for n in (2, 9):
        charrnn_sample(["sound", "--streams", f"{n}", "--length", "700", "--seed", "5", "-o", f"takes{n}", "-q"])
    assert sorted(path.name for path in Path("takes9").iterdir()) == [f"{k:03d}.wav" for k in range(1, 10)]
    charrnn_sample(["sound", "--length", "700", "--seed", "5", "-o", "one.wav", "-q"])
    assert Path("one.wav").read_bytes() == Path("takes2/001.wav").read_bytes() == Path("takes9/001.wav").read_bytes()
    assert Path("takes2/002.wav").read_bytes() == Path("takes9/002.wav").read_bytes()
    assert Path("takes2/001.wav").read_bytes() != Path("takes2/002.wav").read_bytes()


def test_a_list_of_temperatures_makes_a_take_of_each(here):
    charrnn_sample(["poem", "--temperature", "0,0.7,1", "--length", "300", "--seed", "5", "-o", "takes", "-q"])
    for number, temperature in enumerate(("0", "0.7", "1"), 1):
        alone = sample("poem", "--temperature", temperature, "--length", "300", "--seed", "5")
        assert Path(f"takes/{number:03d}.txt").read_text(encoding="utf-8") == alone


def test_temperature_0_takes_the_likeliest_whatever_the_seed(here):
    start = ["poem", "--temperature", "0", "--length", "100", "--start-text", "kůň"]
    assert sample(*start, "--seed", "1") == sample(*start, "--seed", "2")


def test_start_text_is_read_but_neither_echoed_nor_counted(here):
    started = sample("poem", "--start-text", "kůň 你好", "--length", "50", "--seed", "1")
    assert len(started) == 50
    assert started != sample("poem", "--length", "50", "--seed", "1")


def test_start_file_reads_the_end_of_a_recording_or_text(here):
    flags = ["sound", "--length", "200", "--seed", "1"]
    samples, _ = soundfile.read(here / "sound.wav", dtype="int16")
    end = bytecodec.encode((samples[-110:] // 256 + 128).astype(np.uint8).tobytes())
    from_text = sample(*flags, "--start-text", end)
    assert from_text == sample(*flags, "--start-file", str(here / "sound.wav"), "--start-seconds", "0.01")
    Path("end.txt").write_text("⠁⠂⠃" + end + "\n", encoding="utf-8")
    assert from_text == sample(*flags, "--start-file", "end.txt", "--start-seconds", "0.01")
    assert len(sample("poem", "--start-file", str(here / "poem.txt"), "--length", "20")) == 20


def test_a_run_has_its_newest_its_best_and_each_of_its_checkpoints(here):
    at_10 = sample("sound", "--checkpoint", "10", "--length", "300")
    assert at_10 != sample("sound", "--length", "300")
    assert sample("sound", "--checkpoint", "20", "--length", "300") == sample("sound", "--length", "300")
    assert sample("sound/checkpoints/00000010.safetensors", "--length", "300") == at_10
    assert sample("sound", "--checkpoint", "best", "--length", "300")


def test_by_default_it_takes_the_newest_run(here, capsys):
    Path("runs").mkdir()
    for age, name in enumerate(("sound", "poem")):
        Path("runs", name).symlink_to(here / name)
        for file in ("config.json", "log.csv"):
            os.utime(here / name / file, (1e9 - age, 1e9 - age))
    charrnn_sample(["--length", "10", "-o", "x.txt"])
    assert "sampling from runs/sound." in capsys.readouterr().err


def test_an_endless_sample_that_is_interrupted_is_done_and_playable(here):
    with interrupted_after(3):
        assert charrnn_sample(["sound", "--seconds", "0", "-o", "x.wav", "-q"]) == 0
    assert len(soundfile.read("x.wav")[0]) == 3 * 256


def test_a_finite_sample_that_is_interrupted_keeps_what_was_done(here):
    with interrupted_after(3):
        assert charrnn_sample(["sound", "--length", "100000", "-o", "x.wav", "-q", "--state-out", "s"]) == 130
    assert len(soundfile.read("x.wav")[0]) == 3 * 256
    Path("a.wav").write_bytes(Path("x.wav").read_bytes())
    charrnn_sample(["sound", "--length", "232", "-o", "b.wav", "--state-in", "s", "-q"])
    charrnn_sample(["sound", "--length", "1000", "-o", "whole.wav", "-q"])
    a, b, whole = (soundfile.read(f"{name}.wav", dtype="int16")[0] for name in ("a", "b", "whole"))
    assert np.array_equal(np.concatenate([a, b]), whole)


@contextlib.contextmanager
def interrupted_after(chunks):
    """Ctrl-C while a chunk is written."""
    original, count = bytecodec.WavWriter.write, 0

    def write(self, samples):
        nonlocal count
        original(self, samples)
        count += 1
        if count == chunks:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bytecodec.WavWriter, "write", write)
        yield


def test_a_full_wav_is_kept_and_said(here, capsys, monkeypatch):
    monkeypatch.setattr("bytecodec.wavwriter.MOST_BYTES", 1000)
    assert charrnn_sample(["sound", "--length", "2000", "-o", "x.wav", "-q"]) == 1
    assert "a WAV file ends at 4 GiB" in capsys.readouterr().err
    assert len(soundfile.read("x.wav")[0]) == 955


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--length", "0"], "--length: 0 is too small"),
        (["--seconds", "-1"], "--seconds: -1 is not at least 0"),
        (["--length", "5", "--seconds", "5"], "not allowed with"),
        (["--temperature", "hot"], "--temperature: 'hot' is not a number"),
        (["--temperature", "-1"], "--temperature: -1 is not at least 0"),
        (["--streams", "2"], "several takes need a folder: -o FOLDER."),
        (["--temperature", "1,2"], "several takes need a folder"),
        (["--segment-length", "5"], "go with --segments K"),
        (["--join", "reset"], "go with --segments K"),
        (["--segments", "2", "--segment-length", "5", "--length", "9"], "is a length already"),
        (["--segments", "2", "--seconds", "0"], "has an end"),
        (["--streams", "2", "-o", "x", "--segments", "2", "--segments-dir", "d"], "--segments-dir is for one take"),
        (["--temperature", "1,2", "-o", "x", "--state-out", "s"], "one after another"),
        (["-o", "x.mp3"], "-o x.mp3: give a name that ends in .wav or .txt"),
        (["-o", "x.wav", "--state-out", "./x.wav"], "both x.wav: one would replace the other"),
        (["--state-out", "-"], "--state-out takes a file"),
        (["--state-in", ""], "--state-in: it is empty: name a file or folder, or leave it out"),
        (["--seconds", "1e308"], "--seconds: 1e308 is not at least 0 and finite, and at most 1e+09"),
        (["--seed", "-1"], "--seed: -1 is too small"),
    ],
)
def test_a_wrong_command_line_exits_with_2(here, capsys, flags, words):
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample(["sound", *flags])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def refusal(capsys, *argv):
    """What charrnn-sample says as it refuses."""
    capsys.readouterr()
    assert charrnn_sample([*argv, "-q"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("charrnn-sample: ")
    assert "Traceback" not in message
    return message.removeprefix("charrnn-sample: ")


def test_what_cannot_be_sampled_from_is_refused_in_a_sentence(here, capsys, tmp_path):
    assert "there is no run nothing, nor runs/nothing." in refusal(capsys, "nothing")
    assert refusal(capsys) == (
        "there is no trained network under ./runs: make one with `charrnn-train INPUT`, or name one.\n"
    )
    assert "has no checkpoint 7. It has newest, best, 10, 20." in refusal(capsys, "sound", "--checkpoint", "7")
    Path("cut.safetensors").write_bytes(Path("sound/checkpoints/00000020.safetensors").read_bytes()[:700])
    assert "cut.safetensors is not a whole safetensors file" in refusal(capsys, "cut.safetensors")
    assert "is not a whole safetensors file" in refusal(capsys, str(here / "poem.txt"))


def test_what_does_not_fit_the_network_is_refused_in_a_sentence(here, capsys):
    assert "has no symbol 'A' (U+0041), character 1 of the text" in refusal(capsys, "sound", "--start-text", "⠁A")
    assert "was trained on text, which has no seconds" in refusal(capsys, "poem", "--seconds", "1")
    assert "was trained on text" in refusal(capsys, "poem", "-o", "x.wav")
    assert "--seconds 1e-05 is less than one sample" in refusal(capsys, "sound", "--seconds", "0.00001")
    assert "100 segments are more than" in refusal(capsys, "sound", "--segments", "100", "--length", "9")
    sample("poem", "--length", "9", "--state-out", "s")
    sample("sound", "--length", "9", "--state-out", "t")
    assert "s does not fit" not in refusal(capsys, "sound", "--state-in", "missing")
    assert "t holds 1 stream: go on with --streams 1." in refusal(
        capsys, "sound", "--state-in", "t", "--streams", "2", "-o", "x"
    )
    assert charrnn_sample(["sound", "--streams", "3", "--length", "9", "-o", "takes", "--state-out", "u", "-q"]) == 0
    assert "u holds 3 streams: go on with --streams 3." in refusal(capsys, "sound", "--state-in", "u")
    assert not Path("-").exists()
    assert "holds 'symbols', and 'streams' was expected" in refusal(
        capsys, "sound", "--state-in", "sound/checkpoints/00000020.safetensors"
    )


def test_a_place_that_cannot_be_written_to_is_refused_and_nothing_is_left(here, capsys):
    before = set(Path().iterdir())
    message = refusal(capsys, "sound", "--length", "9", "-o", "nowhere/x.wav")
    assert message == "cannot write nowhere/x.wav: there is no folder nowhere. Make it first.\n"
    message = refusal(capsys, "sound", "--length", "9", "-o", "x.wav", "--state-out", "nowhere/s")
    assert message == "cannot write nowhere/s: there is no folder nowhere. Make it first.\n"
    message = refusal(capsys, "sound", "--length", "9", "-o", "x.wav", "--state-out", "sound")
    assert message == "--state-out sound is a folder: name a file.\n"
    assert set(Path().iterdir()) == before


def test_help_shows_an_example_and_version_a_number(capsys):
    for flag, word in (("--help", "Examples:\n  charrnn-sample --temperature 1"), ("--version", "charrnn-sample 0.")):
        with pytest.raises(SystemExit) as exit_:
            charrnn_sample([flag])
        assert exit_.value.code == 0
        assert word in capsys.readouterr().out


def test_a_closed_pipe_ends_it_quietly_and_keeps_the_state(here):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sound", "--seconds", "0", "--state-out", "s", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = process.stdout.read(3000)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
    process.stderr.close()
    assert first.decode() == sample("sound", "--length", "1000")
    assert len(sample("sound", "--state-in", "s", "--length", "10")) == 10


def test_killed_in_the_middle_there_is_no_file_and_the_old_ones_are_as_they_were(here):
    Path("x.wav").write_bytes(b"an older one")
    sample("sound", "--length", "5", "--state-out", "s")
    old = Path("s").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sound", "--seconds", "0", "-o", "x.wav", "--state-out", "s", "-q"]
    )
    while not (parts := [path for path in Path().glob(".x.wav.*.part") if path.stat().st_size > 1000]):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert Path("x.wav").read_bytes() == b"an older one"
    assert Path("s").read_bytes() == old
    with parts[0].open("rb") as part:
        assert len(soundfile.read(part)[0]) > 256  # what was done can be heard all the same


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_a_sentence(here, capsys):
    message = refusal(capsys, "sound", "--length", "100000", "-o", "/dev/full", "-q")
    assert "No space left on device" in message
    assert message.count("\n") == 1


def test_a_disk_that_is_too_full_for_the_state_leaves_the_old_one(here, capsys, monkeypatch):
    sample("sound", "--length", "5", "--state-out", "s")
    old = Path("s").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["bytecodec.console"].os, "fsync", full)
    message = refusal(capsys, "sound", "--length", "9", "-o", "/dev/null", "--state-out", "s", "-q")
    assert message.startswith("s: No space left on device.")
    assert Path("s").read_bytes() == old
    assert not list(Path().glob(".s.*"))


def test_a_folder_is_no_state_to_go_on_from(here, capsys):
    assert refusal(capsys, "sound", "--state-in", "sound") == "sound is a folder: name a file.\n"


def test_outputs_write_text_as_it_comes(here, monkeypatch):
    class Pipe(io.BytesIO):
        flushed = 0

        def flush(self):
            self.flushed += 1

    from charrnn.storage.checkpoint import load

    pipe = Pipe()
    monkeypatch.setattr("sys.stdout", type("", (), {"buffer": pipe})())
    with writers.open_text("-", load("sound")) as text:
        text.write(np.array([0, 255]))
        assert pipe.getvalue().decode() == "⠀⣿"
        assert pipe.flushed == 1


# Start files


@pytest.fixture
def starts(here):
    """Start files of every kind."""
    Path("x.wav").write_bytes((here / "sound.wav").read_bytes())
    Path("plain.txt").write_bytes((here / "poem.txt").read_bytes())
    for alphabet in bytecodec.ALPHABETS:
        Path(f"{alphabet}.txt").write_text(bytecodec.encode(bytes(range(256)) * 4, alphabet), encoding="utf-8")


@pytest.mark.parametrize(
    ("network", "file", "word"),
    [
        ("poem", "x.wav", "recording"),
        ("poem", "braille.txt", "stands for sound"),
        ("poem", "cjk.txt", "stands for sound"),
        ("sound", "plain.txt", "plain text"),
    ],
)
def test_a_start_file_of_the_other_kind_is_refused_by_its_name(starts, capsys, network, file, word):
    message = refusal(capsys, network, "--start-file", file, "--length", "5")
    assert message.startswith(file)
    assert word in message


def test_a_text_of_sound_in_any_alphabet_is_what_the_recording_is(starts):
    begun = {sample("sound", "--start-file", f"{name}.txt", "--length", "50") for name in bytecodec.ALPHABETS}
    with open("y.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(bytes(range(256)) * 4)
    begun.add(sample("sound", "--start-file", "y.wav", "--length", "50"))
    assert len(begun) == 1


def test_unknown_characters_are_skipped_and_counted_if_asked_for(starts, capsys):
    assert "has no symbol" in refusal(capsys, "poem", "--start-text", "k@u")
    Path("some.txt").write_text("@kůň@@", encoding="utf-8")
    for start, skipped, known in (
        (["--start-text", "@kůň@@"], "3 of 6", ["--start-text", "kůň"]),
        (["--start-file", "some.txt"], "3 of 6", ["--start-text", "kůň"]),
        (["--start-text", "kůň"], "", ["--start-text", "kůň"]),
    ):
        capsys.readouterr()
        flags = ["--length", "20", "-o", "x.txt"]
        assert charrnn_sample(["poem", "--unknown", "skip", *start, *flags]) == 0
        found = capsys.readouterr().err
        assert (f"skipped {skipped} characters" in found) if skipped else ("skipped" not in found)
        assert Path("x.txt").read_text(encoding="utf-8") == sample("poem", *known, "--length", "20")


@pytest.mark.parametrize("start", [["--start-text", "@@"], ["--start-file", "unknown.txt"]])
def test_a_start_of_which_nothing_is_left_is_refused(here, capsys, start):
    Path("unknown.txt").write_text("@@", encoding="utf-8")
    assert "no character" in refusal(capsys, "poem", "--unknown", "skip", *start)


def test_unknown_skip_needs_a_network_of_text_and_a_start(here, capsys):
    assert "--unknown" in refusal(capsys, "sound", "--unknown", "skip", "--start-text", "⠁A")
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample(["poem", "--unknown", "skip"])
    assert exit_.value.code == 2


# Several takes


@pytest.mark.parametrize("name", ["out.wav", "out.txt", "out.WAV", "out.flac"])
@pytest.mark.parametrize("flags", [["--temperature", "0,8"], ["--streams", "2"]])
def test_several_takes_are_not_written_to_the_name_of_one_file(here, capsys, name, flags):
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample(["sound", *flags, "-o", name])
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert name in message
    assert ("decimal point" in message) == (flags[0] == "--temperature")
    assert not Path(name).exists()


def test_temperatures_that_are_one_number_each_are_not_taken_for_a_decimal_comma(here, capsys):
    with pytest.raises(SystemExit):
        charrnn_sample(["sound", "--temperature", "0.8,1.0", "-o", "out.wav"])
    assert "decimal point" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0.8,,1", "nan", "inf", "-inf", "", ",", "1,nan"])
def test_temperatures_that_are_no_numbers_are_refused(here, capsys, text):
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample(["sound", f"--temperature={text}"])
    assert exit_.value.code == 2


def test_temperature_0_takes_the_likeliest_symbol(here):
    assert sample("sound", "--temperature", "0", "--start-text", "⡿", "--length", "9", "--seed", "1") == sample(
        "sound", "--temperature", "0", "--start-text", "⡿", "--length", "9", "--seed", "2"
    )


# Choosing by hand


def choices(capsys, *argv):
    """The lines that --choices prints, split into columns."""
    capsys.readouterr()
    assert charrnn_sample([*argv, "-q"]) == 0
    return [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("engine", ["cpu", "onnx", "eager"])
def test_the_choices_are_the_likeliest_symbols_with_their_probabilities(here, capsys, engine):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    flags = ["--engine", engine, "--precision", "fp32", "--start-text", "kůň", "--temperature", "0.5"]
    shown = choices(capsys, "poem", "--choices", "1000", *flags)
    probabilities = [float(probability) for probability, _ in shown]
    vocabulary = set((here / "poem.txt").read_text(encoding="utf-8"))
    assert {symbol for _, symbol in shown} == {f"{c!r} U+{ord(c):04X}" for c in vocabulary}
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert choices(capsys, "poem", "--choices", "3", *flags) == shown[:3]
    likeliest = sample("poem", *flags[:6], "--temperature", "0", "--length", "1")
    assert shown[0][1].startswith(repr(likeliest))


def test_choices_of_a_network_of_sound_are_bytes_and_samples(here, capsys):
    shown = choices(capsys, "sound", "--choices", "256", "--start-file", str(here / "sound.wav"))
    columns = [symbol.split() for _, symbol in shown]
    assert {int(byte) for byte, *_ in columns} == set(range(256))
    assert all(float(value) == pytest.approx((int(byte) - 128) / 128, abs=1e-5) for byte, value, _ in columns)


def test_choices_take_one_channel_of_the_recording_to_start_from(here, capsys):
    left, right = np.random.default_rng(3).uniform(-1, 1, (2, 300))
    for name, samples in {"both": np.stack([left, right], axis=1), "right": right}.items():
        soundfile.write(f"{name}.wav", samples, 11025)
    flags = ["sound", "--choices", "5", "--start-file"]
    of_right = choices(capsys, *flags, "right.wav")
    assert choices(capsys, *flags, "both.wav", "--channel", "right") == of_right
    assert choices(capsys, *flags, "both.wav", "--channel", "left") != of_right


def test_choices_read_the_text_to_start_from_by_a_table(here, capsys):
    Path("table.txt").write_text("".join(f"{byte} {chr(0x4E00 + byte)}\n" for byte in range(256)), encoding="utf-8")
    Path("sound.txt").write_text("".join(chr(0x4E00 + byte) for byte in (120, 130, 140)), encoding="utf-8")
    flags = ["sound", "--choices", "5"]
    by_table = choices(capsys, *flags, "--start-file", "sound.txt", "--table", "table.txt")
    assert by_table == choices(capsys, *flags, "--start-text", bytecodec.encode(bytes([120, 130, 140])))


def test_with_nothing_to_start_from_all_choices_are_the_same_and_that_is_reported(here, capsys):
    assert charrnn_sample(["sound", "--choices", "2"]) == 0
    captured = capsys.readouterr()
    assert [float(line.split()[0]) for line in captured.out.splitlines()] == [1 / 256] * 2
    assert "nothing has been read" in captured.err


def test_choosing_goes_on_from_a_state(here, capsys):
    at_once = choices(capsys, "poem", "--choices", "4", "--start-text", "kůň")
    choices(capsys, "poem", "--choices", "4", "--start-text", "ků", "--state-out", "s")
    assert choices(capsys, "poem", "--choices", "4", "--state-in", "s", "--start-text", "ň") == at_once


@pytest.mark.parametrize(
    "flags",
    [
        ["-o", "x.txt"],
        ["--play"],
        ["--segments", "2"],
        ["--segments-dir", "d"],
        ["--join", "reset"],
        ["--length", "5"],
        ["--seconds", "0"],
        ["--seed", "1"],
        ["--float"],
        ["--streams", "2"],
        ["--temperature", "0.5,1"],
    ],
)
def test_choices_cannot_be_combined_with_flags_of_sampling(here, capsys, flags):
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample(["sound", "--choices", "3", *flags])
    assert exit_.value.code == 2
    assert "--choices" in capsys.readouterr().err
    assert not Path("x.txt").exists()


def test_a_state_of_several_streams_gives_no_choices(here, capsys):
    assert charrnn_sample(["sound", "--streams", "3", "--length", "9", "-o", "takes", "--state-out", "u", "-q"]) == 0
    assert "one" in refusal(capsys, "sound", "--choices", "3", "--state-in", "u")
