"""charrnn-convert: networks of torch-rnn are sampled and trained, checkpoints become ONNX, and errors are reported."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch_rnn_model as there

import bytecodec
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.storage.checkpoint import load

BYTES = list(bytecodec.encode(bytes(range(120, 137))))
LETTERS = list("cab é")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty folder with sound.t7 and poem.t7."""
    monkeypatch.chdir(tmp_path)
    there.write(Path("sound.t7"), BYTES, there.layers(BYTES, sizes=(4, 8, 8), batchnorm=True, dropout=0.25), 0.25)
    there.write(Path("poem.t7"), LETTERS, there.layers(LETTERS, "rnn", (4, 8)))


def error(capsys, *argv, code=1):
    """Return the message; nothing is written to standard output or the folder."""
    before = set(Path().iterdir())
    if code == 2:
        with pytest.raises(SystemExit) as exit_:
            charrnn_convert([*argv])
        assert exit_.value.code == 2
    else:
        assert charrnn_convert([*argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert set(Path().iterdir()) == before
    return captured.err


def test_the_file_is_printed_and_the_network_described(capsys):
    assert charrnn_convert(["sound.t7", "sound.safetensors"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "sound.safetensors\n"
    for word in ("lstm", "2 layers of 8", "embedding size 4", "12 iterations", "11025 Hz, linear"):
        assert word in captured.err
    assert charrnn_convert(["poem.t7", "poem.safetensors", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_converted_network_of_sound_is_sampled():
    assert charrnn_convert(["sound.t7", "sound.safetensors", "--rate", "8000", "-q"]) == 0
    assert charrnn_sample(["sound.safetensors", "--seconds", "0.1", "-o", "x.wav", "-q"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    assert (len(samples), rate) == (800, 8000)
    # Before the network has read a symbol, all bytes have the same probability.
    assert {*(samples[1:] // 256 + 128)} <= {*range(120, 137)}


def test_a_converted_network_of_text_is_sampled():
    assert charrnn_convert(["poem.t7", "poem.safetensors", "-q"]) == 0
    assert charrnn_sample(["poem.safetensors", "--length", "200", "-o", "x.txt", "-q"]) == 0
    text = Path("x.txt").read_text(encoding="utf-8")
    assert len(text) == 200
    assert set(text) == set(LETTERS)


def test_a_converted_network_is_trained_on_a_sound_with_other_bytes(write_wav):
    there.write(Path("wide.t7"), BYTES, there.layers(BYTES, sizes=(4, 64)))
    assert charrnn_convert(["wide.t7", "old.safetensors", "--rate", "8000", "-q"]) == 0
    samples = np.random.default_rng(0).choice([100, 128, 129], 3000)
    write_wav("new.wav", samples, 8000)
    flags = "--batch-size 4 --seq-length 16 --max-iterations 150 --learning-rate 0.02 --precision fp32 --threads 1 -q"
    assert charrnn_train(["new.wav", "--init-from", "old.safetensors", "--run-dir", "run", *flags.split()]) == 0
    new = load("run")
    assert (new.rate, new.encoding, new.model.config.dropout) == (8000, "linear", 0)
    with open("run/log.csv", newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses[0] > 7  # one sample in three costs 20 nats, since that byte is new to the network
    assert np.mean(losses[-10:]) < 1.5  # the entropy is ln 3 = 1.1


def test_an_existing_file_is_replaced_only_as_a_whole(capsys):
    Path("x.safetensors").write_text("old")
    shutil.copy("sound.t7", "cut.t7")
    with open("cut.t7", "r+b") as file:
        file.truncate(2000)
    assert "cut.t7 " in error(capsys, "cut.t7", "x.safetensors")
    assert Path("x.safetensors").read_text() == "old"
    assert charrnn_convert(["sound.t7", "x.safetensors", "-q"]) == 0
    assert load("x.safetensors").vocab.alphabet == "braille"


def test_a_vocabulary_can_be_given(capsys):
    there.write(Path("bare.t7"), LETTERS, there.layers(LETTERS), idx_to_token=None)
    assert "no vocabulary" in error(capsys, "bare.t7", "x.safetensors")
    assert "none.json" in error(capsys, "bare.t7", "x.safetensors", "--vocab", "none.json")
    numbered = ", ".join(f'"{i + 1}": "{letter}"' for i, letter in enumerate(LETTERS))
    Path("v.json").write_text(f'{{"idx_to_token": {{{numbered}}}}}', encoding="utf-8")
    assert charrnn_convert(["bare.t7", "x.safetensors", "--vocab", "v.json", "-q"]) == 0
    assert load("x.safetensors").vocab.characters == "".join(LETTERS)


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ("none.t7 x.safetensors", "none.t7"),
        ("sound.t7 nowhere/x.safetensors", "no folder nowhere"),
        ("poem.t7 x.safetensors --mulaw", "trained on text"),
    ],
)
def test_files_that_cannot_be_converted_are_rejected(argv, word, capsys):
    assert word in error(capsys, *argv.split())


def test_other_kinds_of_files_are_rejected(capsys):
    for argv in ("sound.t7 x.onnx", "sound.t7 x", "x.safetensors x", "- x.safetensors", "sound.t7 sound.t7"):
        assert "IN must end in .t7" in error(capsys, *argv.split(), code=2)


def test_flags_of_the_other_kind_of_file_are_rejected(trained_run, capsys):
    assert "--rate" in error(capsys, str(trained_run), "x.onnx", "--rate", "8000", code=2)
    assert "--checkpoint" in error(capsys, "sound.t7", "x.safetensors", "--checkpoint", "best", code=2)


def test_a_checkpoint_is_converted_to_onnx(symbols_run, trained_on_symbols, capsys):
    onnx = pytest.importorskip("onnx")
    assert charrnn_convert([str(symbols_run), "x.onnx"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "x.onnx\n"
    assert "2 layers of 48" in captured.err
    newest = Path("x.onnx").read_bytes()
    model = onnx.load_from_string(newest)
    facts = json.loads({prop.key: prop.value for prop in model.metadata_props}["charrnn"])
    assert facts == trained_on_symbols.metadata()
    assert (facts["vocab"], facts["rate"], facts["encoding"]) == ({"alphabet": "braille"}, 11025, "linear")
    assert charrnn_convert([str(symbols_run), "x.onnx", "--checkpoint", "200", "-q"]) == 0
    assert Path("x.onnx").read_bytes() != newest
    newest_file = symbols_run / "checkpoints" / "00000400.safetensors"
    assert charrnn_convert([str(newest_file), "x.onnx", "-q"]) == 0
    assert Path("x.onnx").read_bytes() == newest


def test_an_existing_file_stays_when_a_conversion_to_onnx_fails(symbols_run, capsys, monkeypatch):
    pytest.importorskip("onnx")
    Path("x.onnx").write_text("old")
    assert "no run none" in error(capsys, "none", "x.onnx")
    Path("cut.safetensors").write_bytes((symbols_run / "checkpoints" / "00000400.safetensors").read_bytes()[:5000])
    assert "cut.safetensors" in error(capsys, "cut.safetensors", "x.onnx")
    assert "nowhere/x.onnx" in error(capsys, str(symbols_run), "nowhere/x.onnx")
    monkeypatch.setattr("charrnn.storage.onnx_export.MAX_BYTES", 1000)
    assert "2 GB" in error(capsys, str(symbols_run), "x.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "charrnn-sound[onnx]" in error(capsys, str(symbols_run), "x.onnx")
    assert Path("x.onnx").read_text() == "old"


def test_the_input_is_not_overwritten(capsys):
    Path("link.safetensors").symlink_to("sound.t7")
    before = Path("sound.t7").read_bytes()
    assert "link.safetensors is the input" in error(capsys, "sound.t7", "link.safetensors")
    assert Path("sound.t7").read_bytes() == before


def test_a_checkpoint_that_torch_rnn_wrote_is_converted_sampled_and_trained(shared_torch_rnn, capsys):
    name = "lstm-1x40-batchnorm-dropout"
    assert charrnn_convert([str(shared_torch_rnn / f"{name}.t7"), "x.safetensors"]) == 0
    assert "1 layer of 40" in capsys.readouterr().err
    assert charrnn_sample(["x.safetensors", "--length", "300", "--seed", "1", "-o", "x.txt", "-q"]) == 0
    text = Path("x.txt").read_text(encoding="utf-8")
    assert len(bytecodec.decode(text)) == 300
    probe = str(shared_torch_rnn / "probe.txt")
    flags = "--batch-size 4 --seq-length 16 --max-iterations 3 --precision fp32 --threads 1 -q --run-dir run"
    assert charrnn_train([probe, "--init-from", "x.safetensors", *flags.split()]) == 0
    assert load("run").val_loss < 3.2  # of an untrained network: 5.5
