"""charrnn-eval: its figures are those of training, for every part and file, and errors are reported."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

import bytecodec
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.train import charrnn_train
from charrnn.data import baselines
from charrnn.engines.cpu import predictor as cpu_predictor
from charrnn.training import evaluate as evaluation

SMALL = "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --threads 1 --quiet".split()
POEM = "Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 60


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cpu_predictor, "log", lambda _: None)  # which reports a kernel that was not built


@pytest.fixture
def my_run(trained_run):
    """A copy of the trained run that a test may change."""
    shutil.copytree(trained_run, "mine")
    return Path("mine")


@pytest.fixture
def poem_run():
    Path("poem.txt").write_text(POEM, encoding="utf-8")
    assert charrnn_train(["poem.txt", *SMALL, "--max-iterations", "3", "--run-dir", "poem"]) == 0
    return Path("poem")


@pytest.fixture
def evaluated(capsys):
    """Function that returns the JSON object that the command prints."""

    def evaluated(*arguments):
        capsys.readouterr()
        assert charrnn_eval([*map(str, arguments), "--json", "--threads", "1", "-q"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return evaluated


def val_rows(run):
    with (run / "val.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_validation_loss_is_that_of_training(evaluated, trained_run):
    for logged in val_rows(trained_run):
        found = evaluated(trained_run, "--part", "val", "--checkpoint", logged["iteration"])
        assert f"{found['loss']:.9g}" == logged["val_loss"]
        assert f"{found['bits']:.9g}" == logged["val_bits"]
        assert found["iteration"] == int(logged["iteration"])
        assert found["precision"] == "fp32"


@pytest.mark.usefixtures("bf16")
def test_the_validation_loss_in_bf16_is_that_of_training_in_bf16(evaluated, tone_file):
    charrnn_train([str(tone_file), *SMALL, "--max-iterations", "9", "--precision", "bf16", "--run-dir", "r"])
    found = evaluated("r", "--part", "val", "--precision", "bf16")
    assert f"{found['loss']:.9g}" == val_rows(Path("r"))[-1]["val_loss"]
    assert found["precision"] == "bf16"


def test_the_baselines_are_those_of_training(evaluated, trained_run, poem_run):
    for run, names in ((trained_run, {"flac", "order0"}), (poem_run, {"bzip2", "order0"})):
        logged = json.loads((run / "config.json").read_text(encoding="utf-8"))["yardsticks"]
        assert set(logged) == names
        assert evaluated(run, "--part", "val").items() >= logged.items()


def test_the_default_is_the_test_part_of_the_run(evaluated, trained_run, trained, tone):
    test = evaluated(trained_run)
    assert (test["part"], test["symbols"]) == ("test", 2205)
    assert test["loss"] == evaluation.evaluate(trained.model, tone[-2205:])
    assert test["order0"] == baselines.order0_bits(tone[: 22050 - 2 * 2205], tone[-2205:], 256)
    whole = evaluated(trained_run, "--part", "all")
    assert whole["loss"] == evaluation.evaluate(trained.model, tone)
    assert whole["entropy"] == baselines.entropy_bits(tone, 256)
    assert "order0" not in whole


def test_a_file_is_evaluated_whole_or_divided_like_the_run(evaluated, trained_run, tone, write_wav):
    other = write_wav("other.wav", tone[::-1][:5001])
    whole = evaluated(trained_run, other)
    assert (whole["data"], whole["part"], whole["symbols"]) == ("other.wav", "all", 5001)
    assert set(whole) >= {"flac", "entropy"}
    assert evaluated(trained_run, other, "--part", "val")["symbols"] == 500
    charrnn_train(["other.wav", *SMALL, "--max-iterations", "1", "--val-frac", ".2", "--test-frac", "0.3"])
    assert evaluated("runs/other-001", other, "--part", "val")["symbols"] == 1000
    assert evaluated("other-001", "--part", "test")["symbols"] == 1500


def test_the_recording_of_a_run_gives_the_same_as_its_data(evaluated, trained_run, tone_file):
    for part in ("test", "val", "all"):
        own, file = evaluated(trained_run, "--part", part), evaluated(trained_run, tone_file, "--part", part)
        assert own.pop("data") == file.pop("data") == str(tone_file)
        assert own == file


def test_a_recording_and_its_text_give_the_same(evaluated, trained_run, tone, write_wav):
    write_wav("a.wav", tone[:3000])
    for alphabet in ("braille", "cjk"):
        Path("a.txt").write_text(bytecodec.encode(tone[:3000].tobytes(), alphabet), encoding="utf-8")
        sound, text = evaluated(trained_run, "a.wav"), evaluated(trained_run, "a.txt")
        assert sound.pop("data") != text.pop("data")
        assert sound == text


def test_a_file_is_read_at_the_rate_and_in_the_encoding_of_the_network(evaluated, tone, write_wav):
    write_wav("a.wav", tone)
    run = ["--rate", "8000", "--mulaw", "--max-iterations", "3", "--run-dir", "r", "--precision", "fp32"]
    charrnn_train(["a.wav", *SMALL, *run])
    assert evaluated("r", "a.wav", "--part", "val")["symbols"] == 1600
    assert evaluated("r", "a.wav", "--part", "test") == evaluated("r")


def test_a_checkpoint_outside_a_run_needs_a_file(evaluated, trained_run, tone_file, capsys):
    shutil.copy(trained_run / "checkpoints" / "00000400.safetensors", "alone.safetensors")
    for path in ("alone.safetensors", Path("alone.safetensors").absolute()):
        assert charrnn_eval([str(path)]) == 1
        assert f"{path} is not in a run" in capsys.readouterr().err
    found = evaluated("alone.safetensors", tone_file, "--part", "test")
    assert found["loss"] == evaluated(trained_run)["loss"]


def test_the_data_of_a_checkpoint_file_are_those_of_its_run(evaluated, my_run, monkeypatch):
    by_name = evaluated("mine", "--checkpoint", "200")
    assert evaluated("mine/checkpoints/00000200.safetensors") == by_name
    monkeypatch.chdir("mine/checkpoints")
    assert evaluated("00000200.safetensors")["loss"] == by_name["loss"]


def test_text_is_compared_with_bzip2_and_must_be_in_the_vocabulary(evaluated, poem_run, capsys):
    Path("more.txt").write_text(POEM[7:100], encoding="utf-8")
    assert set(evaluated(poem_run, "more.txt")) >= {"bzip2", "entropy"}
    Path("other.txt").write_text("kůň Q", encoding="utf-8")
    assert charrnn_eval(["poem", "other.txt"]) == 1
    assert "other.txt: the network has no symbol 'Q' (U+0051), character 4" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
def test_a_name_that_is_not_utf_8_is_printed_unchanged(trained_run, tone_file, capfdbinary):
    name = os.fsdecode(b"a\xff.wav")
    try:
        shutil.copy(tone_file, name)
    except OSError:
        pytest.skip("this file system has no such names")
    assert charrnn_eval([str(trained_run), name, "--part", "val"]) == 0
    assert b"\ndata               a\xff.wav, val: 2,205 symbols\n" in capfdbinary.readouterr().out
    assert charrnn_eval([str(trained_run), name, "--part", "val", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["data"] == name


def test_the_table_is_aligned_and_compares_the_bits(trained_run, capsys):
    assert charrnn_eval([str(trained_run), "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line[:19].strip() for line in lines] == ["network", "data", "loss", "bits per symbol", "FLAC", "order-0"]
    assert lines[0].endswith("00000400.safetensors, iteration 400")
    assert lines[1].endswith("tone.wav, test: 2,205 symbols")
    assert lines[2].endswith(" nats per symbol (fp32)")
    values = [line[19:].split()[0] for line in lines]
    bits, flac = float(values[3]), float(values[4])
    assert f"{abs(100 * (1 - bits / flac)):.1f} % {'less' if bits < flac else 'more'}" in lines[4]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("mine missing.wav", "missing.wav"),
        ("mine --checkpoint 7", "newest, best, 200, 400"),
        ("mine few.txt --part val", "the val part of few.txt has 1 symbols"),
        ("mine plain.txt", "plain.txt is plain text"),
        ("mine empty", "nothing to train"),
    ],
)
def test_what_cannot_be_evaluated_is_reported_in_one_line(my_run, arguments, word, capsys):
    Path("few.txt").write_text("⠀" * 19, encoding="utf-8")
    Path("plain.txt").write_text("plain", encoding="utf-8")
    Path("empty").touch()
    assert charrnn_eval(arguments.split()) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"val_frac": 0.6, "test_frac": 0.5}, "val_frac"),
        ({"symbols": 7}, "7 symbols"),
        ({"vocab": {"alphabet": "cjk"}}, "vocabulary"),
    ],
)
def test_a_changed_config_is_rejected(my_run, change, word, capsys):
    file = my_run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert charrnn_eval(["mine"]) == 1
    message = capsys.readouterr().err
    assert str(file) in message
    assert word in message
    assert message.count("\n") == 1


def test_a_run_without_its_data_needs_a_file(my_run, capsys):
    (my_run / "corpus.bin").unlink()
    assert charrnn_eval(["mine"]) == 1
    assert "mine/corpus.bin" in capsys.readouterr().err


def test_a_run_without_baselines_is_evaluated(evaluated, my_run):
    before = evaluated("mine")
    file = my_run / "config.json"
    config = json.loads(file.read_text())
    del config["yardsticks"]
    file.write_text(json.dumps(config))
    assert evaluated("mine") == before


def test_a_wrong_command_line_exits_with_2(capsys):
    for arguments in ([], ["a", "--precision", "int8"], ["a", "--encoding", "latin-1"], ["a", "--skip-unreadable"]):
        with pytest.raises(SystemExit) as caught:
            charrnn_eval(arguments)
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_exits_with_130_and_removes_the_temporary_folder(trained_run, tone_file, monkeypatch, capsys):
    def interrupt(*_, **__):
        assert os.listdir("temporary") != []
        raise KeyboardInterrupt

    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "temporary")
    monkeypatch.setattr(evaluation, "evaluate", interrupt)
    assert charrnn_eval([str(trained_run), str(tone_file)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir("temporary") == []


def test_the_run_is_not_changed(evaluated, my_run):
    before = {path: path.read_bytes() for path in my_run.rglob("*") if path.is_file()}
    evaluated("mine", "--part", "val")
    assert {path: path.read_bytes() for path in my_run.rglob("*") if path.is_file()} == before
