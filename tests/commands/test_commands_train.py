"""charrnn-train as its users meet it: what it says, writes, refuses, and how it stops and goes on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import bytecodec
from bytecodec.errors import InputError
from charrnn.commands import train_flags
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.cuda import backends
from charrnn.data import baselines
from charrnn.models import cells
from charrnn.storage.run_dir import Run
from charrnn.training.recipe import RECIPES
from charrnn.training.trainer import Trainer

SMALL = "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --precision fp32 --threads 1".split()
TIMES = {"symbols_per_second", "elapsed_seconds"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a text of 2,000 sound bytes, sound.txt, and the same as sound.wav."""
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(1).integers(100, 130, 2000, dtype=np.uint8)
    Path("sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
    with open("sound.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(data)
    return tmp_path


def rows(path, without=frozenset()):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def assert_same_run(one, two):
    """Weights and logs of two runs are the same to the last bit, the time columns excepted."""
    for name in ("log.csv", "val.csv"):
        assert rows(Path(one, name), TIMES) == rows(Path(two, name), TIMES)
    a, b = (load_file(sorted(Path(run, "checkpoints").glob("*"))[-1]) for run in (one, two))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_it_says_what_it_will_do_and_prints_the_run(here, capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/sound-001\n"
    assert "lstm, 2 layers of 12, normalised, embeddings of 6" in err
    assert "sound.txt: 2,000 symbols" in err
    assert "train 1,600, val 200, test 200" in err
    assert "4 rows x 8 steps, 49 iterations an epoch, 5 iterations; fp32 on cpu with 1 thread" in err
    assert "charrnn-sample runs/sound-001" in err


@pytest.mark.parametrize(
    ("name", "sentence", "brief"),
    [
        ("sound.txt", "{flac:.2f} bits per sample in FLAC, {order0:.2f}", "FLAC {flac:.2f}, order-0 {order0:.2f}"),
        ("poem.txt", "{bzip2:.2f} bits per symbol in bzip2, {order0:.2f}", "bzip2 {bzip2:.2f}, order-0 {order0:.2f}"),
    ],
)
def test_the_validation_loss_stands_beside_what_others_take(here, capsys, name, sentence, brief):
    Path("poem.txt").write_text("Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 40, encoding="utf-8")
    assert charrnn_train([name, *SMALL, "--max-iterations", "4", "--checkpoint-every", "2", "--run-dir", "r"]) == 0
    bits = json.loads(Path("r/config.json").read_text(encoding="utf-8"))["yardsticks"]
    err = capsys.readouterr().err
    plan = f"yardstick the validation part takes {sentence.format(**bits)} under the histogram of the training part\n"
    assert plan in err
    assert err.count(f" bits a symbol; {brief.format(**bits)}), checkpoint.\n") == 2


def test_without_a_validation_part_there_is_no_yardstick(here, capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--val-frac", "0", "--run-dir", "r"]) == 0
    assert "yardstick" not in capsys.readouterr().err
    assert json.loads(Path("r/config.json").read_text())["yardsticks"] == {}


def test_a_resumed_run_keeps_its_yardsticks_and_one_that_has_none_goes_on_without(here, capsys, monkeypatch):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    monkeypatch.delattr(baselines, "measure_baselines")  # nothing is measured again
    capsys.readouterr()
    assert charrnn_train(["--resume", "r", "--max-iterations", "4"]) == 0
    err = capsys.readouterr().err
    assert "yardstick the validation part takes" in err
    assert "; FLAC " in err
    config = json.loads(Path("r/config.json").read_text())
    del config["yardsticks"]
    Path("r/config.json").write_text(json.dumps(config))
    assert charrnn_train(["--resume", "r", "--max-iterations", "6"]) == 0
    err = capsys.readouterr().err
    assert "yardstick" not in err
    assert " bits a symbol), checkpoint.\n" in err


def test_the_next_run_counts_up(here, capsys):
    for number in ("001", "002"):
        assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "1", "-q"]) == 0
        assert capsys.readouterr().out == f"runs/sound-{number}\n"


def test_quiet_says_nothing_on_stderr(here, capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_has_the_files_and_columns_that_the_docs_name(here):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "6", "--checkpoint-every", "2", "--run-dir", "r", "-q"])
    log, val = rows("r/log.csv"), rows("r/val.csv")
    assert list(log[0]) == (
        "iteration,epoch,train_loss,train_bits,learning_rate,grad_norm,symbols_per_second,elapsed_seconds".split(",")
    )
    assert list(val[0]) == "iteration,epoch,val_loss,val_bits,elapsed_seconds".split(",")
    assert [int(row["iteration"]) for row in log] == [1, 2, 3, 4, 5, 6]
    assert [int(row["iteration"]) for row in val] == [2, 4, 6]
    names = [f"{step:08d}.safetensors" for step in (2, 4, 6)]
    assert sorted(path.name for path in Path("r/checkpoints").iterdir()) == names
    best = json.loads(Path("r/best.json").read_text())
    assert best["checkpoint"] == "checkpoints/" + min(zip((float(r["val_loss"]) for r in val), names, strict=True))[1]
    assert json.loads(Path("r/config.json").read_text())["training"]["precision"] == "fp32"


def test_sound_and_its_text_train_the_same_network(here):
    for name in ("sound.txt", "sound.wav"):
        charrnn_train([name, *SMALL, "--max-iterations", "4", "--run-dir", name + "-run", "-q"])
    assert_same_run("sound.txt-run", "sound.wav-run")


def test_several_inputs_and_folders_are_laid_end_to_end(here, capsys):
    Path("folder").mkdir()
    for name in ("b.txt", "a.txt"):
        Path("folder", name).write_text(bytecodec.encode(name[:1].encode() * 300), encoding="utf-8")
    charrnn_train(["sound.txt", "folder", *SMALL, "--max-iterations", "1", "--run-dir", "r"])
    assert "folder: 2 texts." in capsys.readouterr().err
    assert Path("r/corpus.bin").read_bytes()[2000:] == b"a" * 300 + b"b" * 300


def test_text_of_any_language_trains(here):
    Path("poem.txt").write_text("Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 40, encoding="utf-8")
    assert charrnn_train(["poem.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r", "-q"]) == 0
    vocab = json.loads(Path("r/config.json").read_text())["vocab"]["characters"]
    assert vocab == "".join(sorted(set("Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n")))


@pytest.mark.parametrize("stop_at", [1, 7, 49, 50, 60, 98, 119])
def test_a_stopped_and_resumed_run_ends_as_one_that_was_never_stopped(here, stop_at):
    length = [*SMALL, "--max-iterations", "120", "--checkpoint-every", "20", "--dropout", "0.2", "-q"]
    charrnn_train(["sound.txt", *length, "--run-dir", "whole"])
    with interrupted_at(stop_at):
        assert charrnn_train(["sound.txt", *length, "--run-dir", "parts"]) == 130
    assert charrnn_train(["--resume", "parts", "-q"]) == 0
    assert_same_run("whole", "parts")


def test_the_command_line_offers_the_cells_that_there_are():
    assert list(cells.CELLS) == list(train_flags.CELLS)
    forgetless = {name for name, cell in cells.CELLS.items() if "forget_bias" not in cell.OPTIONS}
    assert forgetless == set(train_flags.WITHOUT_FORGET_GATES)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cell", train_flags.CELLS)
def test_every_cell_trains_resumes_exactly_and_samples_from_a_saved_state(here, cell, precision):
    flags = [*SMALL, "--cell", cell, "--precision", precision, "--dropout", "0.1", "--checkpoint-every", "6", "-q"]
    flags += ["--learning-rate", "0.02"]
    assert charrnn_train(["sound.txt", *flags, "--max-iterations", "12", "--run-dir", "whole"]) == 0
    with interrupted_at(8):
        assert charrnn_train(["sound.txt", *flags, "--max-iterations", "12", "--run-dir", "parts"]) == 130
    assert charrnn_train(["--resume", "parts", "-q"]) == 0
    assert_same_run("whole", "parts")
    losses = [float(row["train_loss"]) for row in rows("whole/log.csv")]
    assert np.mean(losses[-3:]) < losses[0] - 0.5
    take = ["whole", "--seed", "5", "-q", "-o"]
    assert charrnn_sample([*take, "at-once.txt", "--length", "90"]) == 0
    assert charrnn_sample([*take, "a.txt", "--length", "40", "--state-out", "state"]) == 0
    assert charrnn_sample([*take, "b.txt", "--length", "50", "--state-in", "state"]) == 0
    assert Path("a.txt").read_text() + Path("b.txt").read_text() == Path("at-once.txt").read_text()


def test_the_plan_names_the_cell_and_its_projection(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--cell", "lstmp", "--max-iterations", "1"])
    assert "lstmp, 2 layers of 12 projected to 6, normalised, embeddings of 6: " in capsys.readouterr().err
    charrnn_train(["sound.txt", *SMALL, "--cell", "lstmp", "--proj-size", "11", "--max-iterations", "1"])
    assert "lstmp, 2 layers of 12 projected to 11, normalised, embeddings of 6: " in capsys.readouterr().err
    charrnn_train(["sound.txt", *SMALL, "--cell", "gru", "--max-iterations", "1"])
    assert "gru, 2 layers of 12, normalised, embeddings of 6: " in capsys.readouterr().err


def test_forget_biases_are_as_the_command_line_says(here):
    for bias in ("uniform", "-3"):
        flags = ["--forget-bias", bias, "--max-iterations", "1", "--run-dir", bias.strip("-"), "-q"]
        assert charrnn_train(["sound.txt", *SMALL, *flags]) == 0
    biases = {name: load_file(f"{name}/checkpoints/00000001.safetensors") for name in ("uniform", "3")}
    forget = {name: tensors["layers.1.bias_ih_l0"][12:24] for name, tensors in biases.items()}
    assert np.ptp(forget["uniform"]) > 0.3  # after one step of Adam, of 0.002
    assert forget["3"] == pytest.approx(-3, abs=0.01)


def test_a_network_to_begin_with_keeps_its_cell(here, capsys):
    for cell in ("gru", "lstmp"):
        charrnn_train(["sound.txt", *SMALL, "--cell", cell, "--max-iterations", "1", "--run-dir", cell, "-q"])
    assert charrnn_train(["sound.txt", *SMALL[6:], "--init-from", "lstmp", "--max-iterations", "1"]) == 0
    assert "lstmp, 2 layers of 12 projected to 6" in capsys.readouterr().err
    begin = ["sound.txt", "--init-from"]
    assert "gru has --cell gru: leave --cell out." in refusal(capsys, *begin, "gru", "--cell", "rnn")
    assert "lstmp has --proj-size 6: leave --proj-size out." in refusal(capsys, *begin, "lstmp", "--proj-size", "5")
    assert "gru has --cell gru, which knows no --proj-size: leave --proj-size out." in refusal(
        capsys, *begin, "gru", "--proj-size", "5"
    )
    assert charrnn_train([*begin, "lstmp", "--proj-size", "6", *SMALL[6:], "--max-iterations", "1", "-q"]) == 0


@contextlib.contextmanager
def interrupted_at(iteration):
    """Ctrl-C in the middle of an iteration."""
    original = Trainer._iterate

    def iterate(trainer):
        if trainer.place.iteration == iteration - 1:
            signal.raise_signal(signal.SIGINT)
        return original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_iterate", iterate)
        yield


def test_a_stopped_run_says_how_to_go_on_and_can_be_sampled(here, capsys):
    with interrupted_at(3):
        assert charrnn_train(["sound.txt", *SMALL, "--run-dir", str(here / "r")]) == 130
    err = capsys.readouterr().err
    assert f"stopped after iteration 3; all is saved. Go on with: charrnn-train --resume {here / 'r'}" in err
    assert [path.name for path in (here / "r/checkpoints").iterdir()] == ["00000003.safetensors"]


def test_a_resumed_run_may_get_a_new_length_and_says_so(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "5", "--run-dir", "r"])
    assert charrnn_train(["--resume", "r", "--max-iterations", "9"]) == 0
    assert "the length is new, so the schedule is planned anew." in capsys.readouterr().err
    assert [int(row["iteration"]) for row in rows("r/log.csv")] == list(range(1, 10))


def test_resume_finds_a_run_by_its_name_under_runs(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "1", "-q"])
    assert charrnn_train(["--resume", "sound-001", "--max-iterations", "2", "-q"]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume", "r", "--rnn-size", "9"], "--rnn-size"),
        (["--resume", "r", "sound.txt"], "INPUT"),
        (["--resume", "r", "--seed", "1", "--batch-size", "2"], "--batch-size, --seed"),
        (["sound.txt", "--rnn-size", "0"], "--rnn-size: 0 is too small: it must be from 1 to 1000000"),
        (["sound.txt", "--seq-length", "0"], "--seq-length: 0 is too small: it must be 1 or more"),
        (["--resume", ""], "--resume: it is empty: name a file or folder, or leave it out"),
        ([""], "INPUT: it is empty"),
        (["sound.txt", "--layers", "two"], "--layers/--num-layers: 'two' is not a whole number"),
        (["sound.txt", "--dropout", "1"], "--dropout: 1 is not at least 0 and finite, and at most 0.999"),
        (["sound.txt", "--learning-rate", "nan"], "--learning-rate: nan is not more than 0"),
        (["sound.txt", "--learning-rate", "0"], "--learning-rate: 0 is not more than 0"),
        (["sound.txt", "--val-frac", "0.6", "--test-frac", "0.4"], "leave nothing to train on"),
        (["sound.txt", "--rate", "999"], "--rate: 999 is too small"),
        (["sound.txt", "--what"], "--what"),
        (["sound.txt", "--cell", "gated"], "--cell: invalid choice: 'gated'"),
        (["sound.txt", "--proj-size", "3"], "--proj-size is for --cell lstmp: lstm has no projection."),
        (["x", "--init-from", "y", "--cell", "gru", "--proj-size", "3"], "gru has no projection."),
        (["sound.txt", "--cell", "lstmp", "--rnn-size", "9", "--proj-size", "9"], "--rnn-size 9 to fewer"),
        (["sound.txt", "--cell", "lstmp", "--rnn-size", "1"], "--rnn-size 1 to fewer"),
        (["sound.txt", "--cell", "gru", "--forget-bias", "1"], "gru has no forget gates: leave --forget-bias out."),
        (["sound.txt", "--cell", "rnn", "--forget-bias", "uniform"], "rnn has no forget gates"),
        (["sound.txt", "--forget-bias", "normal"], "--forget-bias: 'normal' is not a number"),
    ],
)
def test_a_wrong_command_line_exits_with_2(here, capsys, flags, words):
    with pytest.raises(SystemExit) as exit_:
        charrnn_train(flags)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()


def refusal(capsys, *argv):
    """What charrnn-train says as it refuses."""
    capsys.readouterr()
    assert charrnn_train(list(argv)) == 1
    message = capsys.readouterr().err
    assert message.startswith("charrnn-train: ")
    assert "Traceback" not in message
    return message


def test_too_little_data_is_refused_with_the_numbers(here, capsys):
    Path("tiny.txt").write_text("abc")
    message = refusal(capsys, "tiny.txt", *SMALL, "--run-dir", "r")
    assert message == (
        "charrnn-train: tiny.txt: 3 symbols to train on are too few for one batch of 4 rows x 8 steps, which takes 33. "
        "Lower --batch-size or --seq-length, or give more.\n"
    )
    assert not Path("r").exists()


def test_inputs_that_cannot_be_used_are_refused_and_leave_no_run(here, capsys):
    Path("empty.txt").write_text("")
    Path("noise.bin").write_bytes(bytes(range(128, 256)) * 9)
    Path("plain.txt").write_text("plain text " * 99)
    Path("empty-folder").mkdir()
    assert "there is no missing.wav" in refusal(capsys, "missing.wav", *SMALL)
    assert "empty.txt: there is nothing to learn from" in refusal(capsys, "empty.txt", *SMALL)
    assert "noise.bin is neither a recording" in refusal(capsys, "noise.bin", *SMALL)
    assert "plain.txt is plain text, and sound.wav is a recording" in refusal(capsys, "plain.txt", "sound.wav", *SMALL)
    assert "no recording and no .txt in the folder empty-folder" in refusal(capsys, "empty-folder", *SMALL)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_an_existing_run_is_never_trained_over(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    message = refusal(capsys, "sound.txt", *SMALL, "--run-dir", "r")
    assert "there is a run in r already: resume it with --resume r, or name another --run-dir." in message
    assert before == {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}


def test_a_folder_with_other_things_in_it_is_no_place_for_a_run(here, capsys):
    Path("things").mkdir()
    Path("things/letter").write_text("dear")
    assert "things exists and is not an empty folder" in refusal(capsys, "sound.txt", "--run-dir", "things")
    assert Path("things/letter").read_text() == "dear"


def test_what_a_killed_trainer_left_before_the_run_was_made_is_no_run_and_in_nobodys_way(here, monkeypatch):
    def killed(*_):
        os._exit(9)

    process = os.fork()
    if not process:
        monkeypatch.setattr("charrnn.storage.run_dir.Run.write_config", killed)
        charrnn_train(["sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r", "-q"])
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    assert sorted(path.name for path in Path("r").iterdir()) == sorted(
        ["corpus.bin", "lock", "log.csv", "resume.safetensors", "val.csv"]
    )
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r", "-q"]) == 0
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "whole", "-q"]) == 0
    assert_same_run("whole", "r")


@pytest.mark.parametrize("more", ["letter", "log.csv", ".config.json.abc.part/x"])
def test_a_folder_with_more_in_it_than_a_killed_trainer_leaves_is_left_alone(here, capsys, more):
    Path("r/.config.json.abc.part").mkdir(parents=True)
    for name in ("lock", "corpus.bin", more):
        Path("r", name).write_text("iteration\n1\n")
    assert "is not an empty folder" in refusal(capsys, "sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r")
    assert Path("r", more).read_text() == "iteration\n1\n"


def test_a_trainer_that_finds_another_one_making_the_run_leaves_it_alone(here, capsys):
    Path("r").mkdir()
    run = Run(Path("r"))
    with run.locked():
        run.corpus_file.write_bytes(b"theirs")
        assert "another process is training in r" in refusal(capsys, "sound.txt", *SMALL, "--run-dir", "r")
        assert run.corpus_file.read_bytes() == b"theirs"


def test_going_on_takes_away_what_a_killed_trainer_was_writing_and_nothing_else(here):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    gone = ["r/.log.csv.x1_.part", "r/.resume.safetensors.x1_.part", "r/checkpoints/.00000002.safetensors.x1_.part"]
    gone += ["r/samples/.00000002_t0.50.wav.x1_.part"]
    kept = ["r/.log.png.x1_.part", "r/checkpoints/.mine.part", "r/checkpoints/mine.safetensors"]
    Path("r/samples").mkdir()
    for name in gone + kept:
        Path(name).touch()
    assert charrnn_train(["--resume", "r", "--max-iterations", "3", "-q"]) == 0
    assert [name for name in gone + kept if Path(name).exists()] == kept


def test_a_run_that_cannot_be_resumed_is_refused_in_a_sentence(here, capsys):
    assert "there is no run nowhere, nor runs/nowhere." in refusal(capsys, "--resume", "nowhere")
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    good = Path("r/resume.safetensors").read_bytes()
    Path("r/resume.safetensors").write_bytes(good[: len(good) // 2])
    assert "resume.safetensors is not a whole safetensors file" in refusal(capsys, "--resume", "r")
    Path("r/resume.safetensors").write_bytes(good)
    Path("r/corpus.bin").write_bytes(b"\0" * 1000)
    assert "corpus.bin holds 1,000 symbols, and the run began with 2,000" in refusal(capsys, "--resume", "r")
    Path("r/config.json").write_text("{}")
    assert "config.json" in refusal(capsys, "--resume", "r")


def test_a_config_that_somebody_changed_is_refused_in_a_sentence(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    good = json.loads(Path("r/config.json").read_text())
    changes = {"val_frac": "x", "test_frac": 2, "rate": "x", "threads": -3, "inputs": [3], "yardsticks": {"flac": "x"}}
    training = {"batch_size": -5, "seq_length": 0, "checkpoint_every": 0, "keep": -1, "seed": "x", "grad_clip": "x"}
    training |= {"max_epochs": "x", "device": "tpu", "precision": "fp8"}
    training |= {"gpu_layers": "faster", "pad_layers": 1}
    bad = [{**good, name: value} for name, value in changes.items()]
    model = {"layers": 10**9, "forget_bias": 10**400, "rnn_size": 10**6, "wordvec_size": 10**30, "cell": []}
    bad += [{**good, "model": {**good["model"], name: value}} for name, value in model.items()]
    bad += [{**good, "training": {**good["training"], name: value}} for name, value in training.items()]
    for config in bad:
        Path("r/config.json").write_text(json.dumps(config))
        assert "config.json" in refusal(capsys, "--resume", "r")


def test_without_a_gpu_the_layers_are_torchs_and_others_are_refused_in_a_sentence(here, capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "--device", "cpu", "-q"]) == 0
    assert training_of("r")["gpu_layers"] == "torch"
    assert refusal(
        capsys, "sound.txt", *SMALL, "--device", "cpu", "--gpu-layers", "kernel", "--run-dir", "s", "-q"
    ) == (
        "charrnn-train: --gpu-layers kernel is not possible here (it is for NVIDIA GPUs, and this run is on cpu): "
        "leave it out, or use torch.\n"
    )
    assert not Path("s").exists()


@pytest.mark.parametrize(("device", "asked"), [("cpu", "auto"), ("cuda", None)])
def test_a_run_that_moves_to_a_gpu_chooses_its_backend_again(here, monkeypatch, device, asked):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"]) == 0
    config = json.loads(Path("r/config.json").read_text())
    config["training"]["device"] = device
    Path("r/config.json").write_text(json.dumps(config))
    chosen = []

    def trainer(*args):
        chosen.append(args[7])
        raise InputError("as far as a machine without a GPU goes")

    monkeypatch.setattr("charrnn.runtime.choose_device", lambda name: "cuda")
    monkeypatch.setattr("charrnn.commands.train._trainer", trainer)
    assert charrnn_train(["--resume", "r", "--device", "cuda", "--max-iterations", "4", "-q"]) == 1
    assert chosen == [asked]


def test_what_was_chosen_for_a_gpu_is_in_the_config_and_stays_there(here, monkeypatch):
    asked = []
    monkeypatch.setattr(backends, "choose", lambda name, *args: asked.append(name) or "kernel")
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"]) == 0
    assert training_of("r")["gpu_layers"] == "kernel"
    monkeypatch.undo()
    assert charrnn_train(["--resume", str(here / "r"), "--max-iterations", "4", "-q"]) == 0
    assert training_of(here / "r")["gpu_layers"] == "kernel"
    assert asked == ["auto"]


def test_a_run_without_its_resume_file_is_not_begun_anew_over_its_logs(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "-q"])
    log = Path("r/log.csv").read_bytes()
    Path("r/resume.safetensors").unlink()
    message = refusal(capsys, "--resume", "r", "--max-iterations", "4")
    assert "there is no r/resume.safetensors to go on from: start a new run with --init-from r instead." in message
    assert Path("r/log.csv").read_bytes() == log


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a file name be any bytes")
def test_an_inputs_name_may_be_any_bytes_and_a_runs_any_text(here, capsys):
    name = os.fsdecode(b"a\xff.txt")
    Path("sound.txt").rename(name)
    assert charrnn_train([name, *SMALL, "--max-iterations", "2", "-q"]) == 0
    assert capsys.readouterr().out == f"{Path('runs/a?-001')}\n"
    assert json.loads(Path("runs/a?-001/config.json").read_text())["inputs"] == [name]
    assert charrnn_train(["--resume", "a?-001", "--max-iterations", "3", "-q"]) == 0


def test_the_run_is_printed_as_the_system_spells_it_whatever_the_locale(here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "ů n", "-q"]) == 0
    assert sys.stdout.buffer.getvalue() == os.fsencode("ů n") + os.linesep.encode()


def test_init_from_starts_a_new_run_from_old_weights_on_other_data(here, capsys):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "40", "--run-dir", "old", "-q"])
    flags = "--batch-size 2 --seq-length 8 --precision fp32 --threads 1 --learning-rate 1e-9 --max-iterations 1".split()
    Path("other.txt").write_text(bytecodec.encode(bytes(range(256)) * 2), encoding="utf-8")
    assert charrnn_train(["other.txt", *flags, "--init-from", "old", "--run-dir", "new", "-q"]) == 0
    old, new = (load_file(sorted(Path(run, "checkpoints").iterdir())[-1]) for run in ("old", "new"))
    assert all(np.allclose(old[name], new[name], atol=1e-6) for name in old)
    message = refusal(capsys, "other.txt", *flags, "--init-from", "old", "--rnn-size", "13", "--run-dir", "x")
    assert "old has --rnn-size 12: leave --rnn-size out." in message
    Path("plain.txt").write_text("plain text " * 99)
    assert "knows bytes as braille characters" in refusal(capsys, "plain.txt", *flags, "--init-from", "old")


def test_init_from_keeps_the_rate_and_the_encoding_of_the_old_network(here):
    start = ["sound.wav", *SMALL, "--max-iterations", "1", "-q"]
    charrnn_train([*start, "--rate", "8000", "--mulaw", "--run-dir", "old"])
    flags = [*SMALL[6:], "--max-iterations", "1", "--init-from", "old", "-q"]
    for more, rate in (([], 8000), (["--rate", "4000"], 4000)):
        assert charrnn_train(["sound.wav", *flags, *more, "--run-dir", f"new{rate}"]) == 0
        config = json.loads(Path(f"new{rate}/config.json").read_text())
        assert (config["rate"], config["encoding"]) == (rate, "mulaw")


def test_a_text_that_begins_like_a_recordings_name_is_still_a_text(here):
    for number, start in enumerate(("FORMAL poems", "RIFFRAFF", "ID3 and OggS")):
        Path(f"{number}.txt").write_text(start * 40)
        assert charrnn_train([f"{number}.txt", *SMALL, "--max-iterations", "1", "-q"]) == 0


def test_without_input_it_says_loudly_what_it_takes(here, capsys):
    assert charrnn_train([*SMALL, "--max-iterations", "1", "--run-dir", "r"]) == 0
    assert "NO INPUT WAS GIVEN: training on the demo recording" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(here, capsys):
    flags = [*SMALL, "--learning-rate", "1e29", "--grad-clip", "0", "--max-iterations", "50", "--checkpoint-every", "1"]
    message = refusal(capsys, "sound.txt", *flags, "--val-frac", "0", "--run-dir", "r", "-q")
    assert "is not finite" in message
    assert "The last good checkpoint is r/checkpoints/0000000" in message
    assert "--init-from" in message


def test_keep_leaves_the_newest_and_the_best(here):
    charrnn_train(["sound.txt", *SMALL, "--max-iterations", "12", "--checkpoint-every", "2", "--keep", "2",
                   "--run-dir", "r", "-q"])  # fmt: skip
    steps = {int(path.stem) for path in Path("r/checkpoints").iterdir()}
    best = json.loads(Path("r/best.json").read_text())["iteration"]
    assert steps == {10, 12, best}


def test_help_shows_an_example_and_version_a_number(capsys):
    for flag, word in (("--help", "Examples:\n  wav2utf8 in.wav out.txt"), ("--version", "charrnn-train 0.")):
        with pytest.raises(SystemExit) as exit_:
            charrnn_train([flag])
        assert exit_.value.code == 0
        assert word in capsys.readouterr().out


def trainer(*argv):
    """charrnn-train in a process of its own."""
    code = "import sys; from charrnn.commands.train import charrnn_train; sys.exit(charrnn_train())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_rows(path, count, process):
    """Until a log has so many rows; readers are never hindered."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come to {count} rows: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_process_that_a_signal_stops_goes_on_exactly(here, number, code):
    flags = [*SMALL, "--max-iterations", "4000", "--checkpoint-every", "300", "-q"]
    assert charrnn_train(["sound.txt", *flags, "--run-dir", "whole"]) == 0
    process = trainer("sound.txt", *flags, "--run-dir", "parts")
    wait_for_rows(Path("parts/log.csv"), 700, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert len(rows("parts/log.csv")) < 4000
    assert charrnn_train(["--resume", "parts", "-q"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.slow
def test_a_second_trainer_on_the_same_run_is_refused(here, capsys):
    process = trainer("sound.txt", *SMALL, "--run-dir", "r", "-q")
    wait_for_rows(Path("r/log.csv"), 10, process)
    try:
        assert "another process is training in r" in refusal(capsys, "--resume", "r")
    finally:
        process.kill()
        process.communicate()
    assert charrnn_train(["--resume", "r", "--max-iterations", "1", "-q"]) == 0  # a dead process holds no lock


# Recipes


def training_of(run):
    return json.loads(Path(run, "config.json").read_text())["training"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fills_in_what_was_not_asked_for(here, recipe):
    flags = [*SMALL, "--max-iterations", "3", "--recipe", recipe, "--learning-rate", "0.125", "-q"]
    assert charrnn_train(["sound.txt", *flags, "--run-dir", "r"]) == 0
    wanted = {"recipe": recipe, **RECIPES[recipe], "learning_rate": 0.125, "batch_size": 4, "seq_length": 8}
    assert {name: training_of("r")[name] for name in wanted} == wanted


@pytest.mark.parametrize("flag", ["--lr-decay-every", "--lr-decay-factor"])
def test_a_decay_in_steps_is_refused_beside_a_recipe_that_has_none(here, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        charrnn_train(["sound.txt", "--recipe", "modern", flag, "1"])
    assert stop.value.code == 2
    assert f"{flag} goes with --recipe torch-rnn" in capsys.readouterr().err


def test_samples_are_written_at_each_checkpoint_and_change_nothing(here):
    flags = [*SMALL, "--max-iterations", "6", "--checkpoint-every", "3", "-q"]
    assert charrnn_train(["sound.txt", *flags, "--run-dir", "silent"]) == 0
    sampling = ["--sample-seconds", "0.01", "--temperature", "0.5,1"]
    assert charrnn_train(["sound.txt", *flags, *sampling, "--run-dir", "heard"]) == 0
    names = [path.name for path in sorted(Path("heard/samples").iterdir())]
    assert names == [f"{step:08d}_t{t}.wav" for step in (3, 6) for t in ("0.50", "1.00")]
    assert_same_run("silent", "heard")
    assert charrnn_train(["--resume", "heard", "--max-iterations", "9", "-q"]) == 0
    assert len(list(Path("heard/samples").iterdir())) == 6


FRAMES = (
    "--frames --rnn-size 8 --layers 1 --frame-taps 4 --seq-length 20 --batch-size 8 --rate 11025 --threads 1".split()
)


@pytest.mark.parametrize("flags", [SMALL, FRAMES])
@pytest.mark.parametrize("iteration", [3, 6])
def test_a_sample_that_ctrl_c_interrupts_is_written_when_the_run_is_resumed(here, monkeypatch, flags, iteration):
    flags = [*flags, "--max-iterations", "6", "--checkpoint-every", "3", "--sample-seconds", "0.1", "-q"]
    assert charrnn_train(["sound.wav", *flags, "--run-dir", "whole"]) == 0
    original = Trainer._make_sound

    def interrupted(trainer):
        if trainer.place.iteration == iteration:
            signal.raise_signal(signal.SIGINT)
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_make_sound", interrupted)
        assert charrnn_train(["sound.wav", *flags, "--run-dir", "parts"]) == 130
    assert not Run(Path("parts")).sample_file(iteration, 1.0).exists()
    assert charrnn_train(["--resume", "parts", "-q"]) == 0
    assert_same_run("whole", "parts")
    for step in (3, 6):
        whole, parts = (Run(Path(run)).sample_file(step, 1.0).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


@pytest.mark.parametrize("flags", [SMALL, FRAMES])
def test_a_validation_without_memory_leaves_a_checkpoint_and_is_repeated(here, monkeypatch, capsys, flags):
    flags = [*flags, "--max-iterations", "6", "--checkpoint-every", "3", "-q"]
    assert charrnn_train(["sound.wav", *flags, "--run-dir", "whole"]) == 0

    def fail(trainer, stopped):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", fail)
        assert "not enough memory" in refusal(capsys, "sound.wav", *flags, "--run-dir", "parts")
    assert [path.stem for path in Run(Path("parts")).checkpoints()] == ["00000003"]
    assert charrnn_train(["--resume", "parts", "-q"]) == 0
    assert_same_run("whole", "parts")
    for name in ("best.json", "checkpoints/00000003.safetensors", "checkpoints/00000006.safetensors"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


@pytest.mark.parametrize("longer", [[], ["--max-iterations", "5"]])
def test_a_run_goes_on_whose_checkpoints_and_samples_were_deleted(here, longer):
    flags = ["--sample-seconds", "0.01", "--checkpoint-every", "2", "--max-iterations", "4", "-q"]
    assert charrnn_train(["sound.wav", *SMALL, *flags, "--run-dir", "r"]) == 0
    shutil.rmtree("r/checkpoints")
    shutil.rmtree("r/samples")
    assert charrnn_train(["--resume", "r", *longer, "-q"]) == 0
    newest = 5 if longer else 4
    assert [int(file.stem) for file in Run(Path("r")).checkpoints()][-1] == newest


def test_a_text_has_no_seconds_to_sample(here, capsys):
    Path("plain.txt").write_text("to be or not to be " * 100)
    assert charrnn_train(["plain.txt", *SMALL, "--sample-seconds", "1", "--run-dir", "r"]) == 1
    assert "text, which has no seconds" in capsys.readouterr().err
    assert not Path("r").exists()


def test_temperature_goes_with_sample_seconds(here, capsys):
    with pytest.raises(SystemExit) as stop:
        charrnn_train(["sound.txt", "--temperature", "1"])
    assert stop.value.code == 2
    assert "--temperature goes with --sample-seconds" in capsys.readouterr().err


def test_an_early_end_says_so_and_names_the_best(here, capsys):
    flags = [
        *SMALL,
        "--learning-rate",
        "0.5",
        "--checkpoint-every",
        "5",
        "--early-stop",
        "1",
        "--max-iterations",
        "900",
    ]
    assert charrnn_train(["sound.txt", *flags]) == 0
    assert "1 validations brought no new best" in capsys.readouterr().err
    assert len(rows("runs/sound-001/log.csv")) < 900
