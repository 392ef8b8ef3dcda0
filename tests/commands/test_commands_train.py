"""charrnn-train: new runs, their files and messages."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from train_command import LEARNING, SMALL, assert_same_run, config, error, newest_weights, rows, train, write_sound

import bytecodec
import charrnn
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.cuda import backends
from charrnn.sampling import calibration
from charrnn.storage.checkpoint_format import load, set_calibration
from charrnn.storage.run_dir import Run
from charrnn.training.recipe import RECIPES, Settings

TEXT = "Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with sound.txt and sound.wav."""
    monkeypatch.chdir(tmp_path)
    write_sound()
    return tmp_path


# Messages


def test_the_plan_is_printed_to_stderr_and_the_run_to_stdout(capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/sound-001\n"
    assert "lstm, 2 layers of 12, layer normalisation" in err
    assert "sound.txt: 2,000 symbols" in err
    assert "train 1,600, val 200, test 200" in err
    assert "4 rows x 8 steps, 49 iterations per epoch, 5 iterations; fp32 on cpu with 1 thread" in err
    assert "charrnn-sample runs/sound-001" in err


def test_quiet_prints_the_run_only(capsys):
    for number in ("001", "002"):  # names of runs are counted up
        assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--quiet"]) == 0
        assert capsys.readouterr() == (f"runs/sound-{number}\n", "")


def test_the_plan_names_the_cell_and_its_projection(capsys):
    charrnn_train(["sound.txt", *SMALL, "--cell", "lstmp", "--max-iterations", "1"])
    assert "lstmp, 2 layers of 12 projected to 6, layer normalisation" in capsys.readouterr().err
    charrnn_train(["sound.txt", *SMALL, "--cell", "gru", "--max-iterations", "1", "--recipe", "torch-rnn"])
    assert "gru, 2 layers of 12, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "full", "brief"),
    [
        ("sound.txt", ("{flac:.2f}", "FLAC", "{order0:.2f}"), "FLAC {flac:.2f}, order-0 {order0:.2f}"),
        ("poem.txt", ("{bzip2:.2f}", "bzip2", "{order0:.2f}"), "bzip2 {bzip2:.2f}, order-0 {order0:.2f}"),
    ],
)
def test_the_validation_loss_is_printed_with_baselines(capsys, name, full, brief):
    Path("poem.txt").write_text(TEXT * 40, encoding="utf-8")
    assert charrnn_train([name, *SMALL, "--max-iterations", "4", "--checkpoint-every", "2", "--run-dir", "r"]) == 0
    bits = config("r")["yardsticks"]
    lines = capsys.readouterr().err.splitlines()
    (plan,) = (line for line in lines if "baseline " in line)
    assert all(word.format(**bits) in plan for word in full)
    assert sum(f" bits per symbol; {brief.format(**bits)})" in line for line in lines) == 2


def test_the_displayed_loss_is_at_first_a_mean(capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "30", "--print-every", "30", "--run-dir", "r"]) == 0
    mean = np.mean([float(row["train_loss"]) for row in rows("r/log.csv")])
    assert f": loss {mean:#.4g} " in capsys.readouterr().err


def test_without_a_validation_part_there_are_no_baselines(capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--val-frac", "0", "--run-dir", "r"]) == 0
    assert "baseline" not in capsys.readouterr().err
    assert config("r")["yardsticks"] == {}


def test_an_early_end_is_reported_with_the_best_checkpoint(capsys):
    flags = "--learning-rate 0.5 --checkpoint-every 5 --early-stop 1 --max-iterations 900".split()
    assert charrnn_train(["sound.txt", *SMALL, *flags]) == 0
    assert "--checkpoint best" in capsys.readouterr().err
    assert len(rows("runs/sound-001/log.csv")) < 900


@pytest.mark.parametrize(("rate", "is_last_best"), [("0.5", False), ("0.002", True)])
def test_a_better_checkpoint_than_the_last_is_reported(capsys, rate, is_last_best):
    flags = f"--learning-rate {rate} --recipe torch-rnn --checkpoint-every 5 --max-iterations 40 --run-dir r".split()
    assert charrnn_train(["sound.txt", *SMALL, *flags]) == 0
    losses = [float(row["val_loss"]) for row in rows("r/val.csv")]
    assert (losses[-1] == min(losses)) == is_last_best
    assert ("charrnn-sample r --checkpoint best" not in capsys.readouterr().err) == is_last_best


def test_without_input_the_demo_recording_is_announced(capsys):
    assert charrnn_train([*SMALL, "--max-iterations", "1", "--run-dir", "r"]) == 0
    assert "demo recording" in capsys.readouterr().err


def test_the_path_of_the_run_is_printed_as_bytes_whatever_the_locale(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "ů n")
    assert sys.stdout.buffer.getvalue() == os.fsencode("ů n") + os.linesep.encode()


def test_help_shows_an_example_and_version_a_number(capsys):
    for flag, word in (("--help", "Examples:\n  wav2utf8 in.wav out.txt"), ("--version", "charrnn-train 0.")):
        with pytest.raises(SystemExit) as exit_:
            charrnn_train([flag])
        assert exit_.value.code == 0
        assert word in capsys.readouterr().out


# Files and inputs


def test_a_run_has_the_documented_files_and_columns():
    train("sound.txt", *SMALL, "--max-iterations", "6", "--checkpoint-every", "2", "--run-dir", "r")
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
    assert config("r")["training"]["precision"] == "fp32"


def test_a_recording_and_its_text_train_the_same_network():
    for name in ("sound.txt", "sound.wav"):
        train(name, *SMALL, "--max-iterations", "4", "--run-dir", name + "-run")
    assert_same_run("sound.txt-run", "sound.wav-run")


def test_several_inputs_and_folders_are_joined_in_order():
    Path("folder").mkdir()
    for name in ("b.txt", "a.txt"):
        Path("folder", name).write_text(bytecodec.encode(name[:1].encode() * 300), encoding="utf-8")
    train("sound.txt", "folder", *SMALL, "--max-iterations", "1", "--run-dir", "r")
    assert Path("r/corpus.bin").read_bytes()[2000:] == b"a" * 300 + b"b" * 300


@pytest.mark.parametrize("text", [TEXT, "RIFFRAFF and ID3"])
def test_any_text_can_be_trained_on(text):
    Path("poem.txt").write_text(text * 40, encoding="utf-8")
    train("poem.txt", *SMALL, "--max-iterations", "1", "--run-dir", "r")
    assert config("r")["vocab"]["characters"] == "".join(sorted(set(text)))


@pytest.mark.parametrize(
    ("flag", "file", "is_reported"),
    [
        ("--normalize", "poem.txt", True),
        ("--gain=-6", "sound.wav", False),
        ("--rate=16000", "sound.txt", False),
    ],
)
def test_flags_of_recordings_that_have_no_effect_are_reported(flag, file, is_reported, capsys):
    Path("poem.txt").write_text(TEXT * 40, encoding="utf-8")
    assert charrnn_train([file, *SMALL, "--max-iterations", "1", "--run-dir", "r", flag]) == 0
    assert ("no effect" in capsys.readouterr().err) == is_reported


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow arbitrary bytes in names")
def test_the_name_of_an_input_may_be_any_bytes(capsys):
    name = os.fsdecode(b"a\xff.txt")
    Path("sound.txt").rename(name)
    train(name, *SMALL, "--max-iterations", "2")
    assert capsys.readouterr().out == f"{Path('runs/a?-001')}\n"
    assert config("runs/a?-001")["inputs"] == [name]
    train("--resume", "a?-001", "--max-iterations", "3")


def test_samples_are_written_at_each_checkpoint_and_do_not_change_the_training():
    flags = [*SMALL, "--max-iterations", "6", "--checkpoint-every", "3"]
    train("sound.txt", *flags, "--run-dir", "without")
    train("sound.txt", *flags, "--sample-seconds", "0.01", "--temperature", "0.5,1", "--run-dir", "with")
    names = [path.name for path in sorted(Path("with/samples").iterdir())]
    assert names == [f"{step:08d}_t{t}.wav" for step in (3, 6) for t in ("0.50", "1.00")]
    assert_same_run("without", "with")
    train("--resume", "with", "--max-iterations", "9")
    assert len(list(Path("with/samples").iterdir())) == 6


# Network and settings


def test_forget_biases_are_those_of_the_command_line():
    for bias in ("uniform", "-3"):
        flags = ["--forget-bias", bias, "--max-iterations", "1", "--run-dir", bias.strip("-")]
        train("sound.txt", *SMALL, *flags)
    biases = {name: load_file(f"{name}/checkpoints/00000001.safetensors") for name in ("uniform", "3")}
    forget = {name: tensors["layers.1.bias_ih_l0"][12:24] for name, tensors in biases.items()}
    assert np.ptp(forget["uniform"]) > 0.3
    assert forget["3"] == pytest.approx(-3, abs=0.01)  # one step of Adam changes it by at most 0.003


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_provides_the_settings_that_are_not_given(recipe):
    train(
        "sound.txt", *SMALL, "--max-iterations", "3", "--recipe", recipe, "--learning-rate", "0.125", "--run-dir", "r"
    )
    expected = {"recipe": recipe, **RECIPES[recipe], "learning_rate": 0.125, "batch_size": 4, "seq_length": 8}
    settings = Settings.from_json(config("r")["training"])
    assert {name: getattr(settings, name) for name in expected} == expected


def test_init_from_starts_a_new_run_with_old_weights_on_other_data(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "40", "--run-dir", "old")
    flags = [*LEARNING, "--learning-rate", "1e-9", "--max-iterations", "1"]
    Path("other.txt").write_text(bytecodec.encode(bytes(range(256)) * 2), encoding="utf-8")
    train("other.txt", *flags, "--init-from", "old", "--run-dir", "new")
    old, new = newest_weights("old"), newest_weights("new")
    assert all(np.allclose(old[name], new[name], atol=1e-6) for name in old)
    assert charrnn_train(["other.txt", *flags, "--init-from", "old", "--preset", "quick", "--run-dir", "preset"]) == 0
    assert "the network is that of old" in capsys.readouterr().err
    assert config("preset")["model"] == config("old")["model"]
    message = error(capsys, "other.txt", *flags, "--init-from", "old", "--rnn-size", "13", "--run-dir", "x")
    assert "old has --rnn-size 12" in message
    Path("plain.txt").write_text("plain text " * 99)
    assert "braille" in error(capsys, "plain.txt", *flags, "--init-from", "old")


def test_init_from_keeps_rate_and_encoding_of_the_old_network():
    train("sound.wav", *SMALL, "--max-iterations", "1", "--rate", "8000", "--mulaw", "--run-dir", "old")
    flags = [*LEARNING, "--max-iterations", "1", "--init-from", "old"]
    for more, rate in (([], 8000), (["--rate", "4000"], 4000)):
        train("sound.wav", *flags, *more, "--run-dir", f"new{rate}")
        assert (config(f"new{rate}")["rate"], config(f"new{rate}")["encoding"]) == (rate, "mulaw")


def test_a_network_of_linear_samples_is_not_trained_on_mulaw(capsys):
    train("sound.wav", *SMALL, "--max-iterations", "1", "--run-dir", "old")
    assert "--mulaw" in error(capsys, "sound.wav", *LEARNING, "--init-from", "old", "--mulaw", "--run-dir", "new")
    assert not Path("new").exists()


def test_init_from_can_change_dropout_and_noise(capsys):
    train("sound.wav", *SMALL, "--max-iterations", "1", "--run-dir", "old")
    flags = [*LEARNING, "--learning-rate", "1e-9", "--max-iterations", "1", "--init-from", "old"]
    train("sound.wav", *flags, "--noise", "0.5", "--dropout", "0.25", "--run-dir", "new")
    assert config("new")["model"] == config("old")["model"] | {"noise": 0.5, "dropout": 0.25}
    old, new = newest_weights("old"), newest_weights("new")
    assert all(np.allclose(old[name], new[name], atol=1e-6) for name in old)
    train("sound.wav", *SMALL, "--recipe", "torch-rnn", "--max-iterations", "1", "--run-dir", "symbols")
    assert "--context" in error(capsys, "sound.wav", *LEARNING, "--init-from", "symbols", "--noise", "1", "-q")


def test_init_from_keeps_the_cell_of_the_old_network(capsys):
    for cell in ("gru", "lstmp"):
        train("sound.txt", *SMALL, "--cell", cell, "--max-iterations", "1", "--run-dir", cell)
    train(
        "sound.txt", *LEARNING, "--init-from", "lstmp", "--proj-size", "6", "--max-iterations", "1", "--run-dir", "new"
    )
    assert config("new")["model"]["cell"] == "lstmp"
    start = ["sound.txt", "--init-from"]
    assert "gru has --cell gru" in error(capsys, *start, "gru", "--cell", "rnn")
    assert "lstmp has --proj-size 6" in error(capsys, *start, "lstmp", "--proj-size", "5")
    assert "gru has --cell gru, which has no --proj-size" in error(capsys, *start, "gru", "--proj-size", "5")


def test_without_a_gpu_the_backend_is_torch_and_the_kernel_is_rejected(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r", "--device", "cpu")
    assert config("r")["training"]["gpu_layers"] == "torch"
    flags = "--device cpu --gpu-layers kernel --run-dir s".split()
    assert "on cpu" in error(capsys, "sound.txt", *SMALL, *flags)
    assert not Path("s").exists()


def test_the_backend_is_chosen_once_and_stored_in_the_config(monkeypatch):
    requests = []
    with monkeypatch.context() as patch:
        patch.setattr(backends, "choose_backend", lambda name, *args, **options: requests.append(name) or "kernel")
        train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    assert config("r")["training"]["gpu_layers"] == "kernel"
    train("--resume", "r", "--max-iterations", "4")
    assert config("r")["training"]["gpu_layers"] == "kernel"
    assert requests == ["auto"]


@pytest.fixture
def short_calibration(monkeypatch):
    """Let calibration take little time, after however few symbols of training."""
    monkeypatch.setattr(calibration, "MAX_GENERATED_RATIO", 1e6)
    monkeypatch.setattr(calibration, "MAX_SECONDS", 2.0)
    monkeypatch.setattr(calibration, "STREAMS", 2)


@pytest.mark.usefixtures("short_calibration")
def test_at_its_end_a_network_of_samples_is_calibrated_once(capsys):
    flags = "--max-iterations 2 --sample-seconds 0.5 --run-dir run".split()
    assert charrnn_train(["sound.wav", *SMALL, *flags]) == 0
    assert "free running" in capsys.readouterr().err
    checkpoint = load(Run(Path("run")).checkpoint_file(2))
    assert checkpoint.calibration is not None
    assert charrnn.engine(checkpoint).calibration == checkpoint.calibration
    assert charrnn_sample(["run", "--seconds", "0.5", "--seed", "0", "-o", "again.wav"]) == 0
    assert Path("again.wav").read_bytes() == Run(Path("run")).sample_file(2, 1.0).read_bytes()
    charrnn_train(["--resume", "run"])
    assert "free running" not in capsys.readouterr().err
    set_calibration(checkpoint.path, None)  # as if the calibration had been interrupted
    charrnn_train(["--resume", "run"])
    assert load(checkpoint.path).calibration == checkpoint.calibration
    train("sound.wav", *SMALL, "--recipe", "torch-rnn", "--max-iterations", "2", "--run-dir", "symbols")
    assert load(Run(Path("symbols")).checkpoint_file(2)).calibration is None


@pytest.mark.usefixtures("short_calibration")
def test_the_best_checkpoint_is_calibrated_too_and_sampled_again(monkeypatch):
    measured = calibration.Measures(*[0.0] * 6)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: (0.5, measured, measured))
    losses = iter([3.0, 4.0, 5.0])  # of the validations
    monkeypatch.setattr("charrnn.training.trainer.evaluate", lambda *_: next(losses))
    train("sound.wav", *SMALL, *"--max-iterations 6 --checkpoint-every 2 --sample-seconds 0.5 --run-dir run".split())
    run = Run(Path("run"))
    assert [load(run.checkpoint_file(step)).calibration for step in (2, 4, 6)] == [0.5, None, 0.5]
    assert charrnn_sample(["run", "--checkpoint", "best", "--seconds", "0.5", "--seed", "0", "-o", "again.wav"]) == 0
    assert Path("again.wav").read_bytes() == run.sample_file(2, 1.0).read_bytes()


def test_a_network_of_samples_that_starts_from_another_is_calibrated_after_a_short_training(monkeypatch, capsys):
    monkeypatch.setattr(calibration, "STREAMS", 2)
    flags = ["--max-iterations", "2", "--run-dir"]
    assert charrnn_train(["sound.wav", *SMALL, *flags, "first"]) == 0
    assert "checkpoint 2 is not calibrated" in capsys.readouterr().err
    assert charrnn_train(["sound.wav", *LEARNING, *flags, "second", "--init-from", "first"]) == 0
    assert "checkpoint 2 in free running" in capsys.readouterr().err


# Texts of other formats


def test_a_text_that_looks_like_another_format_is_reported(capsys):
    samples = (8000 * np.sin(0.1 * np.arange(4000))).astype(np.int16)
    Path("mulaw.txt").write_text(bytecodec.encode(bytecodec.encode_mulaw(samples).tobytes()), encoding="utf-8")
    Path("linear.txt").write_text(bytecodec.encode((samples // 256 + 128).astype(np.uint8).tobytes()), encoding="utf-8")
    for name, flags, message in (
        ("mulaw.txt", [], "looks like mu-law: give --mulaw"),
        ("linear.txt", ["--mulaw"], "looks like linear samples: leave --mulaw out"),
        ("mulaw.txt", ["--mulaw"], None),
        ("linear.txt", [], None),
    ):
        assert charrnn_train([name, *SMALL, *flags, "--max-iterations", "1"]) == 0
        err = capsys.readouterr().err
        assert message in err if message else "looks like" not in err


def test_flags_that_disable_the_samples_are_accepted_for_texts(capsys):
    Path("plain.txt").write_text(TEXT * 20, encoding="utf-8")
    train("plain.txt", *SMALL, "--max-iterations", "1", "--context", "0", "--prediction", "none")
    assert "--context" in error(capsys, "plain.txt", *SMALL, "--context", "8")
