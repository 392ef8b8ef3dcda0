"""charrnn-train --frames: data, run directory, resuming, presets and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from frame_runs import RATE, SMALL, voice

from charrnn.commands.train import charrnn_train
from charrnn.commands.train_flags import check, parser
from charrnn.frames import model as frame_model
from charrnn.storage import checkpoint
from charrnn.storage.csv_log import TIME_COLUMNS, read_rows
from charrnn.storage.run_dir import Run

pytestmark = pytest.mark.usefixtures("in_frame_networks", "short_rounds")


def without_times(path):
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in read_rows(path)]


def parsed(*argv):
    """Return the arguments after the defaults of --frames and of a preset are filled in."""
    p = parser()
    args = p.parse_args(argv)
    check(p, args, {arg.lstrip("-").replace("-", "_") for arg in argv if arg.startswith("--")})
    return args


def test_the_data_are_the_16_bit_samples_of_the_recordings():
    assert np.array_equal(np.fromfile("mse/corpus.bin", dtype="<i2"), voice(6))
    config = Run(Path("mse")).config()
    assert (config["kind"], config["rate"], config["symbols"]) == ("frames", RATE, 6 * RATE)


def test_the_run_directory_is_complete():
    run = Run(Path("gaussian"))
    assert [file.name for file in run.checkpoints()] == ["00000006.safetensors", "00000012.safetensors"]
    assert len(read_rows(run.log_file)) == 12
    assert len(read_rows(run.val_file)) == 2
    assert run.best() is not None
    assert checkpoint.read_tensors(run.resume_file, "resume")
    assert frame_model.load(run.path).model.noise.abs().sum() > 0


@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_a_resumed_run_equals_an_uninterrupted_one(loss):
    flags = f"--loss {loss} --dropout 0.2 --recipe torch-rnn --checkpoint-every 5".split()
    for name, first in (("whole", "14"), ("parts", "7")):
        assert charrnn_train(["voice.wav", *SMALL, *flags, "--run-dir", name, "--max-iterations", first]) == 0
    assert charrnn_train(["--resume", "parts", "--max-iterations", "14", "-q"]) == 0
    whole, parts = Run(Path("whole")), Run(Path("parts"))
    assert without_times(whole.log_file) == without_times(parts.log_file)
    assert without_times(whole.val_file)[-1] == without_times(parts.val_file)[-1]
    for file in (lambda run: run.resume_file, lambda run: run.checkpoints()[-1]):
        kind = "resume" if file(whole).stem == "resume" else "frames"
        (metadata, a), (other, b) = (checkpoint.read_tensors(file(run), kind) for run in (whole, parts))
        assert {**metadata, "seconds": 0} == {**other, "seconds": 0}
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name].numpy(), b[name].numpy()) for name in a)


def test_training_starts_from_the_weights_of_another_network():
    flags = "--frames --init-from mse --batch-size 8 --max-iterations 1 --learning-rate 1e-9 --threads 1 -q".split()
    assert charrnn_train(["voice.wav", *flags, "--run-dir", "more"]) == 0
    old, new = frame_model.load("mse").model, frame_model.load("more").model
    assert new.config == old.config
    assert np.allclose(old.output.weight.detach(), new.output.weight.detach(), atol=1e-6)


def test_dropout_can_differ_from_that_of_another_network():
    flags = "--frames --init-from mse --batch-size 8 --max-iterations 1 --learning-rate 1e-9 --dropout 0.3 -q".split()
    assert charrnn_train(["voice.wav", *flags, "--run-dir", "dropped"]) == 0
    old, new = frame_model.load("mse").model, frame_model.load("dropped").model
    assert new.config.dropout == 0.3 != old.config.dropout
    weights = new.state_dict()
    assert all(np.allclose(tensor, weights[name], atol=1e-6) for name, tensor in old.state_dict().items())


def test_flags_that_change_the_shape_of_the_weights_are_rejected(capsys):
    for flag in ("--cell lstm", "--frame-taps 5", "--seq-length 30", "--loss gaussian"):
        argv = ["voice.wav", "--frames", "--init-from", "mse", "--run-dir", "more", "-q", *flag.split()]
        assert charrnn_train(argv) == 1
        assert f"leave {flag.split()[0]} out" in capsys.readouterr().err
        assert not Path("more").exists()


def test_checkpoints_are_sampled_during_training():
    flags = "--loss gaussian --max-iterations 2 --sample-seconds 0.1 --temperature 0.5,1 --run-dir sampled".split()
    assert charrnn_train(["voice.wav", *SMALL, *flags]) == 0
    samples = sorted(path.name for path in Path("sampled/samples").iterdir())
    assert samples == ["00000002_t0.50.wav", "00000002_t1.00.wav"]
    assert soundfile.info("sampled/samples/00000002_t1.00.wav").frames == 1600


def test_presets_are_the_settings_of_2016_and_flags_override_them():
    day12 = parsed("a.wav", "--frames", "--preset", "day12")
    assert (day12.layers, day12.rnn_size, day12.frame_taps, day12.seq_length) == (2, 300, 40, 40000)
    assert (day12.learning_rate, day12.max_epochs, day12.cell, day12.forget_bias) == (0.002, 128, "lstm", "uniform")
    assert day12.frame_taps * day12.seq_length / day12.rate == 100
    finale = parsed("a.wav", "--frames", "--preset", "finale", "--rnn-size", "64", "--max-minutes", "1")
    assert (finale.layers, finale.cell, finale.frame_taps, finale.seq_length) == (1, "lstmp", 240, 4000)
    assert (finale.rnn_size, finale.max_epochs) == (64, None)


def test_presets_of_networks_of_symbols_set_sizes_and_length_and_flags_override_them():
    quick = parsed("a.wav", "--preset", "quick")
    assert (quick.layers, quick.rnn_size, quick.max_iterations, quick.max_epochs) == (2, 256, 5000, None)
    long = parsed("a.wav", "--preset", "long", "--layers", "1", "--max-minutes", "30")
    assert (long.layers, long.rnn_size, long.max_iterations, long.max_minutes) == (1, 384, None, 30)


def test_without_frames_the_defaults_are_those_of_a_network_of_symbols():
    args = parsed("a.wav")
    assert (args.rate, args.rnn_size, args.layers, args.forget_bias, args.seq_length) == (11025, 680, 3, 1.0, None)


def test_flags_that_cannot_be_combined_exit_with_2(capsys):
    for argv, flag in (
        (["voice.wav", "--loss", "mse"], "--loss"),
        (["voice.wav", "--frames", "--mulaw"], "--mulaw"),
        (["voice.wav", "--frames", "--wordvec-size", "3"], "--wordvec-size"),
        (["voice.wav", "--frames", "--preset", "day13"], "--preset"),
        (["voice.wav", "--frames", "--preset", "quick"], "--preset quick"),
        (["voice.wav", "--preset", "day12"], "--preset day12"),
        (["--resume", "mse", "--frames"], "--frames"),
    ):
        with pytest.raises(SystemExit) as stop:
            charrnn_train(argv)
        assert stop.value.code == 2
        assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["poem.txt", "--frames"], "a frame predictor needs sound"),
        (["short.wav", "--frames", "--seq-length", "1000"], "one window"),
        (["voice.wav", "--frames", "--batch-size", "5000"], "one batch"),
        (["voice.wav", "--frames", "--init-from", "poem.txt"], "safetensors"),
        (["poem.txt", "--init-from", "mse"], "frame predictor"),
    ],
)
def test_what_cannot_be_trained_on_is_rejected_and_leaves_no_run(capsys, argv, word):
    assert charrnn_train([*argv, "-q", "--run-dir", "new"]) == 1
    assert word in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_changed_config_is_rejected(capsys):
    folder = Path("changed")
    assert charrnn_train(["voice.wav", *SMALL, "--max-iterations", "1", "--run-dir", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    for model in ({**config["model"], "taps": 5}, {**config["model"], "loss": "x"}, None):
        (folder / "config.json").write_text(json.dumps({**config, "model": model}))
        assert charrnn_train(["--resume", str(folder), "--max-iterations", "2"]) == 1
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert str(folder) in message
