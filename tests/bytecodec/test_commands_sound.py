"""Reading of recordings and texts of sound by the commands of charrnn: channels, DC offset, gain and tables."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bytecodec import InputError
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.data.recordings import SoundOptions
from charrnn.server.decode_sandbox import last_bytes
from charrnn.storage import checkpoint_format

RATE = 11025
COMMON = "--rnn-size 12 --layers 1 --batch-size 4 --max-iterations 4 --precision fp32 --threads 1 -q".split()
SMALL = [*COMMON, "--seq-length", "8", "--wordvec-size", "6"]
FRAMES = [*COMMON, "--frames", "--frame-taps", "5", "--seq-length", "10", "--rate", str(RATE)]
IN_ORDER = [chr(code) for code in (*range(0x23, 0x7F), *range(0x3900, 0x39A4))]  # BinToUTF8's characters


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with stereo.wav, whose right channel is the left one inverted, with a DC offset; left.wav and right.wav;
    and sound.wav with the text and the table that BinToUTF8 makes of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    left = np.round(rng.uniform(-8000, 8000, 6000)) / 32768
    soundfile.write("stereo.wav", np.stack([left, 0.25 - left], axis=1), RATE)
    soundfile.write("left.wav", left, RATE)
    soundfile.write("right.wav", 0.25 - left, RATE)
    values = rng.integers(50, 200, 3000)
    soundfile.write("sound.wav", (values - 128) / 128, RATE, subtype="PCM_U8")
    order = list(dict.fromkeys(values.tolist()))
    Path("sound.txt").write_text("".join(IN_ORDER[order.index(v)] for v in values), encoding="utf-8")
    Path("table.txt").write_text("".join(f"{v} {IN_ORDER[k]}\n" for k, v in enumerate(order)), encoding="utf-8")
    return tmp_path


def corpus(run):
    return Path(run, "corpus.bin").read_bytes()


def config(run):
    return json.loads(Path(run, "config.json").read_text())


def sampled(*flags):
    assert charrnn_sample([*flags, "--length", "40", "--threads", "1", "-q", "-o", "out.wav"]) == 0
    return Path("out.wav").read_bytes()


@pytest.mark.parametrize("flags", [[*SMALL, "--mulaw"], FRAMES], ids=["characters", "frames"])
def test_a_channel_trains_like_a_file_of_its_own(here, flags):
    how = ["--remove-dc", "--normalize", "--normalize-over", "set"]
    assert charrnn_train(["stereo.wav", *flags, *how, "--channel", "right", "--run-dir", "a"]) == 0
    assert charrnn_train(["right.wav", *flags, *how, "--run-dir", "b"]) == 0
    assert corpus("a") == corpus("b")
    kept = config("a")["sound"]
    assert kept["channel"] == 2
    assert kept["remove_dc"]
    assert kept["normalize"]
    assert kept["normalize_over"] == "set"
    assert kept["set_gain_db"] == pytest.approx(20 * np.log10(127 / 128 / (8000 / 32768)), abs=0.1)
    assert charrnn_train(["--resume", "a", "--max-iterations", "6", "-q"]) == 0
    assert config("a")["sound"] == kept
    assert sampled("a", "--start-file", "stereo.wav") == sampled("a", "--start-file", "right.wav")
    assert sampled("a", "--start-file", "stereo.wav", "--channel", "left") != sampled("a", "--start-file", "right.wav")


def test_a_checkpoint_stores_the_options_of_its_sound(here, capsys):
    assert charrnn_train(["stereo.wav", *SMALL, "--channel", "right", "--remove-dc", "--run-dir", "a"]) == 0
    Path("a/checkpoints/00000004.safetensors").rename("alone.safetensors")
    assert checkpoint_format.load("alone.safetensors").sound == config("a")["sound"]
    losses = []
    for name in ("stereo.wav", "right.wav", "left.wav"):
        capsys.readouterr()
        assert charrnn_eval(["alone.safetensors", name, "--json", "--threads", "1", "-q"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == losses[1] != losses[2]
    assert charrnn_eval(["alone.safetensors", "stereo.wav", "--channel", "left", "--json", "--threads", "1", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == losses[2]
    assert charrnn_eval(["alone.safetensors", "stereo.wav", "--channel", "3", "-q"]) == 1
    assert "2 channels" in capsys.readouterr().err


def test_an_upload_is_read_as_the_network_was_trained(here):
    options = SoundOptions.of_network(RATE, "linear", {"channel": 2, "remove_dc": True})
    assert last_bytes(here / "stereo.wav", options, 500) == last_bytes(here / "right.wav", options, 500)
    assert last_bytes(here / "stereo.wav", options, 500) != last_bytes(here / "left.wav", options, 500)


def test_reading_an_upload_ends_when_the_server_is_stopped(here):
    with pytest.raises(InputError, match="being stopped"):
        last_bytes(here / "stereo.wav", SoundOptions.of_network(RATE, "linear", {}), 500, lambda: True)


def test_a_text_with_its_table_is_equal_to_its_recording(here, capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--table", "table.txt", "--run-dir", "a"]) == 0
    assert charrnn_train(["sound.wav", *SMALL, "--run-dir", "b"]) == 0
    assert corpus("a") == corpus("b")
    assert config("a")["table"] == "table.txt"
    assert {config(run)["vocab"]["alphabet"] for run in "ab"} == {"braille"}
    assert sampled("a", "--start-file", "sound.txt", "--table", "table.txt") == sampled(
        "b", "--start-file", "sound.wav"
    )
    capsys.readouterr()
    assert charrnn_eval(["b", "sound.txt", "--table", "table.txt", "--json", "--threads", "1", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["symbols"] == 3000
    assert charrnn_train(["sound.txt", "sound.wav", *SMALL, "--table", "table.txt", "--run-dir", "c"]) == 0
    assert corpus("c") == 2 * corpus("a")


def test_a_text_without_its_table_is_rejected(here, capsys):
    assert charrnn_train(["sound.wav", *SMALL, "--run-dir", "a"]) == 0
    for command in (charrnn_train, charrnn_eval, charrnn_sample):
        flags = {
            charrnn_train: ["sound.txt", *SMALL, "--run-dir", "b"],
            charrnn_eval: ["a", "sound.txt"],
            charrnn_sample: ["a", "--start-file", "sound.txt", "-o", "c.wav"],
        }
        assert command(flags[command]) == 1
        assert "--table" in capsys.readouterr().err
    assert not Path("b").exists()
    Path("table.txt").write_text("1 A\n2 B\n")
    assert charrnn_train(["sound.txt", *SMALL, "--table", "table.txt", "--run-dir", "b"]) == 1
    assert "not in the table" in capsys.readouterr().err
    assert charrnn_train(["sound.wav", *SMALL, "--table", "table.txt", "--run-dir", "b"]) == 1
    assert "--table" in capsys.readouterr().err


def test_a_network_of_such_characters_reads_them_as_a_text(here):
    """A converted network of torch-rnn may have such a vocabulary."""
    text = Path("sound.txt").read_text(encoding="utf-8")
    Path("plain.txt").write_text("é" + text, encoding="utf-8")  # which is not of BinToUTF8
    assert charrnn_train(["plain.txt", *SMALL, "--run-dir", "a"]) == 0
    assert charrnn_eval(["a", "sound.txt", "--threads", "1", "-q"]) == 0


def test_flags_that_exclude_each_other_are_a_wrong_command_line(here):
    for line in (
        "train sound.wav --normalize-over set",
        "train sound.wav --channel 0",
        "train sound.wav --frames --table table.txt",
        "eval a --table table.txt",
        "eval a --channel left",
        "sample a --table table.txt",
        "sample a --channel left",
    ):
        command, *flags = line.split()
        run = {"train": charrnn_train, "eval": charrnn_eval, "sample": charrnn_sample}[command]
        with pytest.raises(SystemExit, match="2"):
            run(flags)
