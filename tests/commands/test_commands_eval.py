"""charrnn-eval as its users meet it: what it prints, and that it is what training prints."""

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
from charrnn.training import evaluate as evaluation

SMALL = "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --threads 1 --quiet".split()
POEM = "Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 60


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def my_run(trained_run):
    """A copy of the trained run that may be changed."""
    shutil.copytree(trained_run, "mine")
    return Path("mine")


@pytest.fixture
def poem_run():
    Path("poem.txt").write_text(POEM, encoding="utf-8")
    assert charrnn_train(["poem.txt", *SMALL, "--max-iterations", "3", "--run-dir", "poem"]) == 0
    return Path("poem")


@pytest.fixture
def ask(capsys):
    """``ask(arguments)`` is the JSON object that the command prints."""

    def ask(*arguments):
        capsys.readouterr()  # what was printed before
        assert charrnn_eval([*map(str, arguments), "--json", "--threads", "1", "-q"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return ask


def val_rows(run):
    with (run / "val.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", [0, 1])
def test_the_validation_part_has_the_loss_that_training_wrote_down(ask, trained_run, row):
    wanted = val_rows(trained_run)[row]
    found = ask(trained_run, "--part", "val", "--checkpoint", wanted["iteration"])
    assert f"{found['loss']:.9g}" == wanted["val_loss"]
    assert f"{found['bits']:.9g}" == wanted["val_bits"]
    assert found["iteration"] == int(wanted["iteration"])
    assert found["precision"] == "fp32"


def test_in_bf16_it_is_what_a_run_in_bf16_wrote_down(ask, tone_file):
    charrnn_train([str(tone_file), *SMALL, "--max-iterations", "9", "--precision", "bf16", "--run-dir", "r"])
    found = ask("r", "--part", "val", "--precision", "bf16")
    assert f"{found['loss']:.9g}" == val_rows(Path("r"))[-1]["val_loss"]
    assert found["precision"] == "bf16"


def test_the_validation_part_has_the_yardsticks_that_training_wrote_down(ask, trained_run, poem_run):
    for run, names in ((trained_run, {"flac", "order0"}), (poem_run, {"bzip2", "order0"})):
        written = json.loads((run / "config.json").read_text(encoding="utf-8"))["yardsticks"]
        assert set(written) == names
        assert ask(run, "--part", "val").items() >= written.items()


def test_it_is_the_test_part_unless_another_is_asked_for(ask, trained_run, trained, tone):
    test = ask(trained_run)
    assert (test["part"], test["symbols"]) == ("test", 2205)
    assert test["loss"] == evaluation.evaluate(trained.model, tone[-2205:])
    assert test["order0"] == baselines.order0_bits(tone[: 22050 - 2 * 2205], tone[-2205:], 256)
    whole = ask(trained_run, "--part", "all")
    assert whole["loss"] == evaluation.evaluate(trained.model, tone)
    assert whole["entropy"] == baselines.entropy_bits(tone, 256)
    assert "order0" not in whole


def test_a_file_is_taken_whole_or_cut_as_the_run_cut(ask, trained_run, tone, write_wav):
    other = write_wav("other.wav", tone[::-1][:5001])
    whole = ask(trained_run, other)
    assert (whole["data"], whole["part"], whole["symbols"]) == ("other.wav", "all", 5001)
    assert set(whole) >= {"flac", "entropy"}
    assert ask(trained_run, other, "--part", "val")["symbols"] == 500
    charrnn_train(["other.wav", *SMALL, "--max-iterations", "1", "--val-frac", ".2", "--test-frac", "0.3"])
    assert ask("runs/other-001", other, "--part", "val")["symbols"] == 1000
    assert ask("other-001", "--part", "test")["symbols"] == 1500


def test_the_runs_own_recording_as_a_file_is_the_same_as_its_data(ask, trained_run, tone_file):
    for part in ("test", "val", "all"):
        own, file = ask(trained_run, "--part", part), ask(trained_run, tone_file, "--part", part)
        assert own.pop("data") == file.pop("data") == str(tone_file)
        assert own == file


def test_sound_and_its_text_are_the_same(ask, trained_run, tone, write_wav):
    write_wav("a.wav", tone[:3000])
    for alphabet in ("braille", "cjk"):
        Path("a.txt").write_text(bytecodec.encode(tone[:3000].tobytes(), alphabet), encoding="utf-8")
        sound, text = ask(trained_run, "a.wav"), ask(trained_run, "a.txt")
        assert sound.pop("data") != text.pop("data")
        assert sound == text


def test_a_file_is_read_at_the_networks_rate_and_in_its_encoding(ask, tone, write_wav):
    write_wav("a.wav", tone)
    run = ["--rate", "8000", "--mulaw", "--max-iterations", "3", "--run-dir", "r", "--precision", "fp32"]
    charrnn_train(["a.wav", *SMALL, *run])
    assert ask("r", "a.wav", "--part", "val")["symbols"] == 1600
    assert ask("r", "a.wav", "--part", "test") == ask("r")


def test_a_checkpoint_without_its_run_takes_a_file(ask, trained_run, tone_file, capsys):
    shutil.copy(trained_run / "checkpoints" / "00000400.safetensors", "alone.safetensors")
    for path in ("alone.safetensors", Path("alone.safetensors").absolute()):
        assert charrnn_eval([str(path)]) == 1
        said = capsys.readouterr().err
        assert said == f"charrnn-eval: {path} lies in no run, so what it was trained on is not known: name a FILE.\n"
    found = ask("alone.safetensors", tone_file, "--part", "test")
    assert found["loss"] == ask(trained_run)["loss"]


def test_a_checkpoint_file_in_a_run_finds_its_data(ask, my_run, monkeypatch):
    by_name = ask("mine", "--checkpoint", "200")
    assert ask("mine/checkpoints/00000200.safetensors") == by_name
    monkeypatch.chdir("mine/checkpoints")
    assert ask("00000200.safetensors")["loss"] == by_name["loss"]


def test_text_has_its_own_vocabulary_and_yardstick(ask, poem_run, capsys):
    Path("more.txt").write_text(POEM[7:100], encoding="utf-8")
    assert set(ask(poem_run, "more.txt")) >= {"bzip2", "entropy"}
    Path("other.txt").write_text("kůň Q", encoding="utf-8")
    assert charrnn_eval(["poem", "other.txt"]) == 1
    assert "other.txt: the network has no symbol 'Q' (U+0051), character 4" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
def test_a_file_whose_name_is_no_utf_8_is_named_as_the_system_spells_it(trained_run, tone_file, capfdbinary):
    name = os.fsdecode(b"a\xff.wav")
    try:
        shutil.copy(tone_file, name)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert charrnn_eval([str(trained_run), name, "--part", "val"]) == 0
    assert b"\ndata               a\xff.wav, val: 2,205 symbols\n" in capfdbinary.readouterr().out
    assert charrnn_eval([str(trained_run), name, "--part", "val", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["data"] == name


def test_the_table_is_aligned_and_says_how_many_bits_fewer(trained_run, capsys, monkeypatch):
    assert charrnn_eval([str(trained_run), "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line[:19].strip() for line in lines] == ["network", "data", "loss", "bits a symbol", "FLAC", "order-0"]
    assert lines[0].endswith("00000400.safetensors, iteration 400")
    assert lines[1].endswith("tone.wav, test: 2,205 symbols")
    values = [line[19:].split()[0] for line in lines]
    assert lines[2].endswith(" nats a symbol (fp32)")
    bits, flac = float(values[3]), float(values[4])
    words = f"{abs(100 * (1 - bits / flac)):.1f} % {'fewer' if bits < flac else 'more'}"
    assert lines[4].endswith(f"{values[4]}  the network takes {words}")


@pytest.mark.parametrize(
    ("bits", "words"), [(3.0, "  the network takes 25.0 % fewer"), (5.0, "  the network takes 25.0 % more")]
)
def test_a_network_can_take_more_bits_too(bits, words):
    from charrnn.commands.eval import _fewer

    assert _fewer(bits, 4.0) == words
    assert _fewer(bits, 0.0) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere", "there is no run nowhere, nor runs/nowhere."),
        ("mine missing.wav", "there is no missing.wav. Check the path."),
        ("mine --checkpoint 7", "the run mine has no checkpoint 7. It has newest, best, 200, 400."),
        ("mine one.txt", "one.txt has 1 symbols"),
        (
            "mine few.txt --part val",
            "the val part of few.txt has 1 symbols",
        ),
        ("mine plain.txt", "the network was trained on bytes as braille characters, and plain.txt is of another kind."),
        ("mine empty", "empty: there is nothing to learn from"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(my_run, arguments, words, capsys):
    Path("one.txt").write_text("⠀", encoding="utf-8")
    Path("few.txt").write_text("⠀" * 19, encoding="utf-8")
    Path("plain.txt").write_text("plain", encoding="utf-8")
    Path("empty").touch()
    assert charrnn_eval(arguments.split()) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"charrnn-eval: {words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"val_frac": "a"}, "val_frac is 'a'"),
        ({"val_frac": 0.6, "test_frac": 0.5}, "val_frac and test_frac add up to 1.1"),
        ({"symbols": 7}, "it counts 7 symbols, and there are 22050"),
        ({"vocab": {"alphabet": "cjk"}}, "its vocabulary is not the checkpoint's"),
        ({"inputs": 3}, "inputs is 3"),
        ({"inputs": []}, "tuple index out of range"),
    ],
)
def test_a_config_that_was_changed_is_refused(my_run, change, words, capsys):
    file = my_run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert charrnn_eval(["mine"]) == 1
    err = capsys.readouterr().err
    assert str(file) in err
    assert words in err


def test_a_run_whose_data_are_gone_says_so(my_run, capsys):
    (my_run / "corpus.bin").unlink()
    assert charrnn_eval(["mine"]) == 1
    assert capsys.readouterr().err == "charrnn-eval: there is no mine/corpus.bin any more: name a FILE.\n"


def test_a_run_without_yardsticks_is_evaluated_all_the_same(ask, my_run):
    before = ask("mine")
    file = my_run / "config.json"
    config = json.loads(file.read_text())
    del config["yardsticks"]
    file.write_text(json.dumps(config))
    assert ask("mine") == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "b", "c"],
        ["a", "--part", "none"],
        ["a", "--precision", "int8"],
        *(["a", *flag] for flag in (["--encoding", "latin-1"], ["--channel", "2"], ["--skip-unreadable"])),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        charrnn_eval(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_ends_it_with_130_and_leaves_no_temporary_folder(trained_run, tone_file, monkeypatch, capsys):
    def interrupt(*_, **__):
        assert os.listdir("temporary") != []
        raise KeyboardInterrupt

    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "temporary")
    monkeypatch.setattr(evaluation, "evaluate", interrupt)
    assert charrnn_eval([str(trained_run), str(tone_file)]) == 130
    assert capsys.readouterr() == ("", "charrnn-eval: interrupted.\n")
    assert os.listdir("temporary") == []


def test_nothing_is_written_into_the_run(ask, my_run):
    before = {path: path.read_bytes() for path in my_run.rglob("*") if path.is_file()}
    ask("mine", "--part", "val")
    assert {path: path.read_bytes() for path in my_run.rglob("*") if path.is_file()} == before
