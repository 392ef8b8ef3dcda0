"""charrnn-sample: command lines and files that are rejected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sample_command import error, sample_text

from charrnn.commands.sample import charrnn_sample

pytestmark = pytest.mark.usefixtures("in_networks")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--length", "5", "--seconds", "5"], "not allowed with"),
        (["--streams", "2"], "FOLDER"),
        (["--segment-length", "5"], "need --segments"),
        (["--join", "reset"], "needs --segments"),
        (["--segments", "2", "--segment-length", "5", "--length", "9"], "--length"),
        (["--segments", "2", "--seconds", "0"], "no end"),
        (["--streams", "2", "-o", "x", "--segments", "2", "--segments-dir", "d"], "--segments-dir is for one"),
        (["--streams", "2", "--play"], "--play is for one"),
        (["--temperature", "1,2", "-o", "x", "--state-out", "s"], "--state-out needs"),
        (["-o", "x.mp3"], ".wav or .txt"),
        (["-o", "x.wav", "--state-out", "./x.wav"], "replace"),
        (["--state-out", "-"], "--state-out"),
        (["--table", "t"], "--start-file"),
        (["--start-seconds", "1"], "--start-file"),
        (["--channel", "1"], "--start-file"),
        (["--float"], "frame predictors"),
    ],
)
def test_a_wrong_command_line_exits_with_2(capsys, flags, word):
    assert word in error(capsys, "sound", *flags, code=2)


def test_several_outputs_are_not_written_to_the_name_of_one_file(capsys):
    decimal_comma = ["--temperature", "0,8"]
    for flags, name in (
        (decimal_comma, "out.wav"),
        (decimal_comma, "out.flac"),
        (["--temperature", "0.8,1.0"], "out.txt"),
        (["--streams", "2"], "out.WAV"),
    ):
        message = error(capsys, "sound", *flags, "-o", name, code=2)
        assert name in message
        assert ("decimal point" in message) == (flags is decimal_comma)
        assert not Path(name).exists()


def test_a_network_that_cannot_be_loaded_is_rejected(in_networks, capsys):
    assert "there is no run nothing" in error(capsys, "nothing")
    assert "./runs" in error(capsys)
    assert "newest, best, 10, 20" in error(capsys, "sound", "--checkpoint", "7")
    Path("cut.safetensors").write_bytes(Path("sound/checkpoints/00000020.safetensors").read_bytes()[:700])
    assert "cut.safetensors is not a checkpoint" in error(capsys, "cut.safetensors")
    assert "poem.txt is not a checkpoint" in error(capsys, f"{in_networks}/poem.txt")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["sound", "--start-text", "⠁A"], "'A' (U+0041), character 1"),
        (["poem", "--seconds", "1"], "trained on text"),
        (["poem", "-o", "x.wav"], "trained on text"),
        (["sound", "--seconds", "0.00001"], "1e-05"),
        (["sound", "--segments", "100", "--length", "9"], "100 segments"),
    ],
)
def test_what_does_not_fit_the_network_is_rejected(capsys, argv, word):
    assert word in error(capsys, *argv)


def test_a_state_that_does_not_fit_is_rejected(capsys):
    sample_text("sound", "--length", "9", "--state-out", "one")
    assert charrnn_sample(["sound", "--streams", "3", "--length", "9", "-o", "d", "--state-out", "three", "-q"]) == 0
    assert "missing" in error(capsys, "sound", "--state-in", "missing")
    assert "sound is a folder" in error(capsys, "sound", "--state-in", "sound")
    assert "--streams 1" in error(capsys, "sound", "--state-in", "one", "--streams", "2", "-o", "x")
    assert "--streams 3" in error(capsys, "sound", "--state-in", "three")
    checkpoint = "sound/checkpoints/00000020.safetensors"
    assert "is a checkpoint" in error(capsys, "sound", "--state-in", checkpoint)
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--start-file", "start.wav", "-o", "start.wav"], "start.wav"),
        (["--start-file", "start.wav", "-o", "link.wav"], "start.wav"),
        (["-o", "a.wav", "--state-out", "start.wav"], "start.wav"),
        (["-o", "a.wav", "--state-out", "network.safetensors"], "network.safetensors"),
    ],
)
def test_an_output_that_is_an_input_is_rejected(tmp_path, monkeypatch, capsys, tone_file, flags, kept):
    shutil.copy("sound/checkpoints/00000020.safetensors", tmp_path / "network.safetensors")
    shutil.copy(tone_file, tmp_path / "start.wav")
    monkeypatch.chdir(tmp_path)
    Path("link.wav").symlink_to("start.wav")
    before = Path(kept).read_bytes()
    assert charrnn_sample(["network.safetensors", "--length", "9", *flags]) == 1
    assert "name another" in capsys.readouterr().err
    assert Path(kept).read_bytes() == before


def test_a_path_that_cannot_be_written_is_rejected_before_sampling(capsys):
    before = set(Path().iterdir())
    assert "no folder nowhere" in error(capsys, "sound", "--length", "9", "-o", "nowhere/x.wav")
    assert "no folder nowhere" in error(capsys, "sound", "--length", "9", "-o", "x.wav", "--state-out", "nowhere/s")
    assert "sound is a folder" in error(capsys, "sound", "--length", "9", "-o", "x.wav", "--state-out", "sound")
    assert set(Path().iterdir()) == before
