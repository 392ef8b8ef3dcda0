"""charrnn-convert as its users meet it: a network of torch-rnn's that samples and learns here, and what is refused."""

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


def refusal(capsys, *argv, code=1):
    """What it says; there is no output, and nothing else in the folder."""
    before = set(Path().iterdir())
    if code == 2:
        with pytest.raises(SystemExit) as exit_:
            charrnn_convert([*argv])
        assert exit_.value.code == 2
    else:
        assert charrnn_convert([*argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert set(Path().iterdir()) == before
    return captured.err.removeprefix("charrnn-convert: ").rstrip("\n")


def test_it_prints_the_file_and_says_what_the_network_is(capsys):
    assert charrnn_convert(["sound.t7", "sound.safetensors"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "sound.safetensors\n"
    assert captured.err == (
        "lstm, 2 layers of 8, embeddings of 4, after 12 iterations; bytes as braille characters at 11025 Hz, linear.\n"
    )
    assert charrnn_convert(["poem.t7", "poem.safetensors", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_network_of_sound_makes_sound_of_bytes_that_it_knows():
    assert charrnn_convert(["sound.t7", "sound.safetensors", "--rate", "8000", "-q"]) == 0
    assert charrnn_sample(["sound.safetensors", "--seconds", "0.1", "-o", "x.wav", "-q"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    assert (len(samples), rate) == (800, 8000)
    # The first one is drawn from all bytes, as nothing was read before it.
    assert {*(samples[1:] // 256 + 128)} <= {*range(120, 137)}


def test_a_network_of_text_writes_text():
    assert charrnn_convert(["poem.t7", "poem.safetensors", "-q"]) == 0
    assert charrnn_sample(["poem.safetensors", "--length", "200", "-o", "x.txt", "-q"]) == 0
    text = Path("x.txt").read_text(encoding="utf-8")
    assert len(text) == 200
    assert set(text) == set(LETTERS)


def test_training_goes_on_from_it_with_a_sound_that_has_other_bytes(write_wav):
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
    assert losses[0] > 7  # for one sample in three it takes 20 nats, since the network has never seen that byte
    assert np.mean(losses[-10:]) < 1.5  # ln 3 = 1.1 is all that can be learnt


def test_a_file_that_is_there_is_replaced_whole(capsys):
    Path("x.safetensors").write_text("old")
    shutil.copy("sound.t7", "cut.t7")
    with open("cut.t7", "r+b") as file:
        file.truncate(2000)
    assert "cut.t7 " in refusal(capsys, "cut.t7", "x.safetensors")
    assert Path("x.safetensors").read_text() == "old"
    assert charrnn_convert(["sound.t7", "x.safetensors", "-q"]) == 0
    assert load("x.safetensors").vocab.alphabet == "braille"


def test_a_vocabulary_may_be_named(capsys):
    there.write(Path("bare.t7"), LETTERS, there.layers(LETTERS), idx_to_token=None)
    assert "bare.t7 cannot be converted: it has no vocabulary: give" in refusal(capsys, "bare.t7", "x.safetensors")
    message = refusal(capsys, "bare.t7", "x.safetensors", "--vocab", "none.json")
    assert message == "there is no none.json. Check the path."
    numbered = ", ".join(f'"{i + 1}": "{letter}"' for i, letter in enumerate(LETTERS))
    Path("v.json").write_text(f'{{"idx_to_token": {{{numbered}}}}}', encoding="utf-8")
    assert charrnn_convert(["bare.t7", "x.safetensors", "--vocab", "v.json", "-q"]) == 0
    assert load("x.safetensors").vocab.characters == "".join(LETTERS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("none.t7 x.safetensors", "there is no none.t7. Check the path."),
        (
            "sound.t7 nowhere/x.safetensors",
            "cannot write nowhere/x.safetensors: there is no folder nowhere. Make it first.",
        ),
        (
            "poem.t7 x.safetensors --rate 8000",
            "poem.t7 was trained on text, which --rate and --mulaw say nothing of: leave them out.",
        ),
        (
            "poem.t7 x.safetensors --mulaw",
            "poem.t7 was trained on text, which --rate and --mulaw say nothing of: leave them out.",
        ),
    ],
)
def test_what_the_files_hold_against_it_is_one_sentence(argv, message, capsys):
    assert refusal(capsys, *argv.split()) == message


@pytest.mark.parametrize(
    "argv",
    [
        "sound.t7 x.onnx",
        "sound.t7 x",
        "x.safetensors x",
        "sound.t7 -",
        "- x.safetensors",
        "sound.t7 sound.t7",
        "- x.onnx",
    ],
)
def test_other_kinds_of_files_are_refused(argv, capsys):
    message = refusal(capsys, *argv.split(), code=2)
    assert ": IN has to end in .t7, and OUT in .safetensors; or IN is a checkpoint or a run, and OUT ends" in message


def test_a_run_becomes_a_step_for_other_programs(trained_run, trained, capsys):
    onnx = pytest.importorskip("onnx")
    assert charrnn_convert([str(trained_run), "x.onnx"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "x.onnx\n"
    assert captured.err.startswith("lstm, 2 layers of 48, embeddings of 16, after 400 iterations; bytes as braille")
    newest = Path("x.onnx").read_bytes()
    model = onnx.load_from_string(newest)
    facts = json.loads({prop.key: prop.value for prop in model.metadata_props}["charrnn"])
    assert facts == trained.metadata()
    assert (facts["vocab"], facts["rate"], facts["encoding"]) == ({"alphabet": "braille"}, 11025, "linear")
    assert charrnn_convert([str(trained_run), "x.onnx", "--checkpoint", "200", "-q"]) == 0
    assert Path("x.onnx").read_bytes() != newest
    newest_file = trained_run / "checkpoints" / "00000400.safetensors"
    assert charrnn_convert([str(newest_file), "x.onnx", "-q"]) == 0
    assert Path("x.onnx").read_bytes() == newest


def test_what_cannot_become_onnx_is_refused_and_what_was_there_stays(trained_run, capsys, monkeypatch):
    pytest.importorskip("onnx")
    Path("x.onnx").write_text("old")
    assert refusal(capsys, "none", "x.onnx") == "there is no run none, nor runs/none."
    Path("cut.safetensors").write_bytes((trained_run / "checkpoints" / "00000400.safetensors").read_bytes()[:5000])
    assert "cut.safetensors is not a whole safetensors file" in refusal(capsys, "cut.safetensors", "x.onnx")
    assert "cannot write nowhere/x.onnx" in refusal(capsys, str(trained_run), "nowhere/x.onnx")
    message = refusal(capsys, str(trained_run), "x.onnx", "--rate", "8000", code=2)
    assert message.startswith("--vocab, --rate and --mulaw are for a .t7: a checkpoint holds them.")
    message = refusal(capsys, "sound.t7", "x.safetensors", "--checkpoint", "best", code=2)
    assert message.startswith("--checkpoint chooses one of a run: leave it out with a .t7.")
    monkeypatch.setattr("charrnn.storage.onnx_export.MOST_BYTES", 1000)
    assert refusal(capsys, str(trained_run), "x.onnx") == (
        "the network is larger than the 2 GB that an ONNX file can hold."
    )
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refusal(capsys, str(trained_run), "x.onnx") == (
        "this needs onnx, which is not installed: install it with pip install 'charrnn-sound[onnx]'."
    )
    assert Path("x.onnx").read_text() == "old"


def test_the_input_is_never_written_over(capsys):
    Path("link.safetensors").symlink_to("sound.t7")
    before = Path("sound.t7").read_bytes()
    assert (
        refusal(capsys, "sound.t7", "link.safetensors") == "link.safetensors is the input itself: name another output."
    )
    assert Path("sound.t7").read_bytes() == before


def test_a_real_network_of_torch_rnns_converts_samples_and_learns(shared_torch_rnn, capsys):
    name = "lstm-1x40-batchnorm-dropout"
    assert charrnn_convert([str(shared_torch_rnn / f"{name}.t7"), "x.safetensors"]) == 0
    assert "lstm, 1 layer of 40, embeddings of 24, after 150 iterations" in capsys.readouterr().err
    assert charrnn_sample(["x.safetensors", "--length", "300", "--seed", "1", "-o", "x.txt", "-q"]) == 0
    text = Path("x.txt").read_text(encoding="utf-8")
    assert len(bytecodec.decode(text)) == 300
    probe = str(shared_torch_rnn / "probe.txt")
    flags = "--batch-size 4 --seq-length 16 --max-iterations 3 --precision fp32 --threads 1 -q --run-dir run"
    assert charrnn_train([probe, "--init-from", "x.safetensors", *flags.split()]) == 0
    assert load("run").val_loss < 3.2  # knowing nothing is 5.5
