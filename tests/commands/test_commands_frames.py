"""charrnn-train --frames and charrnn-sample on such a run, as their users meet them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from charrnn.commands import sample as sampling
from charrnn.commands import sample_frames
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.commands.train_flags import check, parser
from charrnn.engines.cpu import library as cpu_library
from charrnn.frames import model as frame_model
from charrnn.frames import noise as frame_noise
from charrnn.sampling.stitch import measure_seams
from charrnn.storage import checkpoint
from charrnn.storage.csv_log import TIME_COLUMNS, read_rows
from charrnn.storage.run_dir import Run

SPACING = 100
KERNEL = Path(cpu_library.__file__).with_name("kernel.library")
SMALL = "--frames --cell lstmp --rnn-size 12 --layers 1 --frame-taps 4 --seq-length 20 --batch-size 8".split()
SMALL += ["--threads", "1", "-q"]
COMMAND = "import sys; from charrnn.commands.sample import charrnn_sample as run; sys.exit(run())"
RATE = 16000


def voice(seconds):
    """Glides of a harmonic sound with a little noise, (n,) int16 at 16 kHz."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    x = sum(np.sin(k * phase) / k for k in range(1, 6)) * (1 + 0.5 * np.sin(2 * np.pi * 1.3 * t))
    return (3000 * x + np.random.default_rng(0).normal(0, 60, t.size)).astype(np.int16)


@pytest.fixture(scope="module", autouse=True)
def short_rounds():
    """The noise is fitted in rounds of 10 passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_noise, "LEAST_ROUND", 200)
        patch.setattr(frame_noise, "FREE_PASSES", 60)
        yield


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    soundfile.write(folder / "voice.wav", voice(6), RATE, subtype="PCM_16")
    soundfile.write(folder / "short.wav", voice(0.1), RATE, subtype="PCM_16")
    (folder / "poem.txt").write_text("O rose, thou art sick! " * 100)
    return folder


@pytest.fixture(scope="module")
def runs(recordings):
    """Runs called mse and gaussian, hardly trained."""
    for loss in ("mse", "gaussian"):
        flags = f"--loss {loss} --max-iterations 12 --checkpoint-every 6 --run-dir {recordings / loss}".split()
        assert charrnn_train([str(recordings / "voice.wav"), *SMALL, *flags]) == 0
    return recordings


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """An empty folder to work in, with the runs in it as ``mse`` and ``gaussian``."""
    monkeypatch.chdir(tmp_path)
    for name in ("mse", "gaussian", "voice.wav", "short.wav", "poem.txt"):
        Path(name).symlink_to(runs / name)


def sample(*argv):
    """The int16 samples that charrnn-sample writes to x.wav."""
    assert charrnn_sample([*argv, "-q", "-o", "x.wav"]) == 0
    sound, rate = soundfile.read("x.wav", dtype="int16")
    assert rate == RATE
    return sound


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("flags", "variable", "weights", "asked"),
    [((), "0", 10**9, 1), ((), "0", 1, 0), ((), "3", 10**9, 3), (("--threads", "2"), "0", 10**9, 2)],
)
def test_a_small_network_takes_one_thread_unless_it_is_told_otherwise(monkeypatch, flags, variable, weights, asked):
    threads = []
    monkeypatch.setenv("CHARRNN_THREADS", variable)
    monkeypatch.setattr(sample_frames, "ALONE", weights)  # up to which it is small
    monkeypatch.setattr(sample_frames.runtime, "set_threads", threads.append)
    sample("mse", "--length", "10", *flags)
    assert threads == [asked]


def without_times(path):
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in read_rows(path)]


def settled(*argv):
    """The command line as it is taken."""
    p = parser()
    args = p.parse_args(argv)
    check(p, args, {arg.lstrip("-").replace("-", "_") for arg in argv if arg.startswith("--")})
    return args


# Training


def test_the_data_are_the_recordings_own_16_bit_samples(runs):
    stored = np.fromfile(runs / "mse" / "corpus.bin", dtype="<i2")
    assert np.array_equal(stored, voice(6))
    config = Run(runs / "mse").config()
    assert (config["kind"], config["rate"], config["symbols"]) == ("frames", RATE, 6 * RATE)


def test_the_run_directory_is_that_of_every_run(runs):
    run = Run(runs / "gaussian")
    assert [file.name for file in run.checkpoints()] == ["00000006.safetensors", "00000012.safetensors"]
    assert len(read_rows(run.log_file)) == 12
    assert len(read_rows(run.val_file)) == 2
    assert run.best() is not None
    assert checkpoint.read_tensors(run.resume_file, "resume")
    assert frame_model.load(run.path).model.noise.abs().sum() > 0


@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_a_stopped_run_goes_on_as_if_it_had_never_been_stopped(here, loss):
    flags = f"--loss {loss} --dropout 0.2 --recipe torch-rnn --checkpoint-every 5".split()
    for name, first in (("whole", "14"), ("parts", "7")):
        assert charrnn_train(["voice.wav", *SMALL, *flags, "--run-dir", name, "--max-iterations", first]) == 0
    assert charrnn_train(["--resume", "parts", "--max-iterations", "14", "-q"]) == 0
    whole, parts = Run(Path("whole")), Run(Path("parts"))
    assert without_times(whole.log_file) == without_times(parts.log_file)
    assert without_times(whole.val_file)[-1] == without_times(parts.val_file)[-1]
    for file in (lambda run: run.resume_file, lambda run: run.checkpoints()[-1]):
        kind = "resume" if file(whole).stem == "resume" else "frames"
        (facts, a), (others, b) = (checkpoint.read_tensors(file(run), kind) for run in (whole, parts))
        assert {**facts, "seconds": 0} == {**others, "seconds": 0}
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name].numpy(), b[name].numpy()) for name in a)


def test_training_goes_on_from_another_networks_weights(here):
    flags = "--frames --init-from mse --batch-size 8 --max-iterations 1 --learning-rate 1e-9 --threads 1 -q".split()
    assert charrnn_train(["voice.wav", *flags, "--run-dir", "more"]) == 0
    old, new = frame_model.load("mse").model, frame_model.load("more").model
    assert new.config == old.config
    assert np.allclose(old.output.weight.detach(), new.output.weight.detach(), atol=1e-6)


@pytest.mark.parametrize("flag", ["--cell lstm", "--frame-taps 5", "--seq-length 30", "--loss gaussian"])
def test_another_shape_than_that_of_the_weights_is_refused(here, capsys, flag):
    argv = ["voice.wav", "--frames", "--init-from", "mse", "--run-dir", "more", "-q", *flag.split()]
    assert charrnn_train(argv) == 1
    assert f"leave {flag.split()[0]} out" in capsys.readouterr().err
    assert not Path("more").exists()


def test_checkpoints_are_heard_while_it_trains(here):
    flags = "--loss gaussian --max-iterations 2 --sample-seconds 0.1 --temperature 0.5,1 --run-dir heard".split()
    assert charrnn_train(["voice.wav", *SMALL, *flags]) == 0
    assert [path.name for path in sorted(Path("heard/samples").iterdir())] == [
        "00000002_t0.50.wav",
        "00000002_t1.00.wav",
    ]
    assert soundfile.info("heard/samples/00000002_t1.00.wav").frames == 1600


def test_presets_are_those_of_2016_and_flags_beside_them_win():
    day12 = settled("a.wav", "--frames", "--preset", "day12")
    assert (day12.layers, day12.rnn_size, day12.frame_taps, day12.seq_length) == (2, 300, 40, 40000)
    assert (day12.learning_rate, day12.max_epochs, day12.cell, day12.forget_bias) == (0.002, 128, "lstm", "uniform")
    assert day12.frame_taps * day12.seq_length / day12.rate == 100
    finale = settled("a.wav", "--frames", "--preset", "finale", "--rnn-size", "64", "--max-minutes", "1")
    assert (finale.layers, finale.cell, finale.frame_taps, finale.seq_length) == (1, "lstmp", 240, 4000)
    assert (finale.rnn_size, finale.max_epochs) == (64, None)


def test_without_frames_nothing_of_them_changes():
    args = settled("a.wav")
    assert (args.rate, args.rnn_size, args.layers, args.forget_bias, args.seq_length) == (11025, 680, 3, 1.0, None)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["voice.wav", "--loss", "mse"], "--loss goes with --frames"),
        (["voice.wav", "--preset", "day12"], "--preset goes with --frames"),
        (["voice.wav", "--frame-taps", "3"], "--frame-taps goes with --frames"),
        (["voice.wav", "--frames", "--mulaw"], "--mulaw is for networks of symbols"),
        (["voice.wav", "--frames", "--wordvec-size", "3"], "--wordvec-size is for networks of symbols"),
        (["voice.wav", "--frames", "--preset", "day13"], "invalid choice"),
        (["--resume", "mse", "--frames"], "--frames cannot be given"),
    ],
)
def test_flags_that_do_not_go_together_exit_with_2(here, capsys, argv, words):
    with pytest.raises(SystemExit) as stop:
        charrnn_train(argv)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["poem.txt"], "is no recording, and --frames learns sound"),
        (["short.wav", "--seq-length", "1000"], "are no more than one window"),
        (["voice.wav", "--batch-size", "5000"], "too few for one batch"),
        (["voice.wav", "--init-from", "poem.txt"], "is not a whole safetensors file"),
    ],
)
def test_what_cannot_be_trained_on_is_said_and_leaves_nothing(here, capsys, argv, words):
    assert charrnn_train([*argv, "--frames", "-q", "--run-dir", "new"]) == 1
    assert words in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_run_of_symbols_says_whose_weights_these_are(here, capsys):
    assert charrnn_train(["poem.txt", "--init-from", "mse", "--run-dir", "new", "-q"]) == 1
    assert "holds 'frames'" in capsys.readouterr().err


def test_a_config_that_was_changed_is_refused_in_a_sentence(here, capsys, recordings, tmp_path):
    folder = tmp_path / "changed"
    assert charrnn_train(["voice.wav", *SMALL, "--max-iterations", "1", "--run-dir", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    for model in ({**config["model"], "taps": 5}, {**config["model"], "loss": "x"}, None):
        (folder / "config.json").write_text(json.dumps({**config, "model": model}))
        assert charrnn_train(["--resume", str(folder), "--max-iterations", "2"]) == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert str(folder) in error


# Sampling


def test_ten_seconds_of_16_bit_sound_are_the_default(here, monkeypatch):
    assert sampling.DEFAULT_SECONDS == 10
    monkeypatch.setattr(sampling, "DEFAULT_SECONDS", 1)
    assert len(sample("mse")) == RATE
    assert soundfile.info("x.wav").subtype == "PCM_16"


def test_floats_are_the_same_sound_unrounded(here):
    rounded = sample("gaussian", "--seconds", "0.5")
    assert charrnn_sample(["gaussian", "--seconds", "0.5", "--float", "-q", "-o", "f.wav"]) == 0
    assert soundfile.info("f.wav").subtype == "FLOAT"
    assert np.abs(soundfile.read("f.wav")[0] * 32768 - rounded).max() <= 0.501


@pytest.mark.parametrize("name", ["mse", "gaussian"])
def test_the_compiled_layers_make_the_sound_that_torchs_do(here, name):
    if not KERNEL.exists():
        pytest.skip("the compiled engine was not built")
    compiled = sample(name, "--seconds", "0.5", "--engine", "cpu")
    assert np.array_equal(sample(name, "--seconds", "0.5"), compiled)
    assert np.abs(sample(name, "--seconds", "0.5", "--engine", "eager").astype(int) - compiled).max() <= 2


def test_where_they_were_not_built_torch_samples_and_it_is_said(here, monkeypatch, capfd):
    eager = sample("mse", "--length", "300", "--engine", "eager")
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, "none.library")
    cpu_library.library.cache_clear()
    try:
        assert charrnn_sample(["mse", "--length", "300", "-o", "y.wav"]) == 0
        assert "was not built here" in (said := capfd.readouterr().err)
        assert "Sampling with torch, which is slower." in said
        assert np.array_equal(soundfile.read("y.wav", dtype="int16")[0], eager)
        assert charrnn_sample(["mse", "--length", "300", "--engine", "cpu", "-o", "z.wav"]) == 1
        assert "was not built here" in capfd.readouterr().err
    finally:
        cpu_library.library.cache_clear()


def test_a_seed_and_a_temperature_mean_what_they_mean_elsewhere(here):
    first = sample("gaussian", "--length", "999")
    assert len(first) == 999
    assert np.array_equal(first, sample("gaussian", "--length", "999", "--seed", "0"))
    assert not np.array_equal(first, sample("gaussian", "--length", "999", "--seed", "1"))
    assert np.std(sample("gaussian", "--length", "999", "--temperature", "0.1")) < np.std(first)


def test_a_take_is_the_same_alone_and_beside_others(here):
    argv = ["gaussian", "--seconds", "0.2", "-q"]
    assert charrnn_sample([*argv, "--streams", "3", "-o", "takes"]) == 0
    takes = [soundfile.read(f"takes/00{k}.wav", dtype="int16")[0] for k in (1, 2, 3)]
    assert np.array_equal(takes[0], sample(*argv))
    assert not np.array_equal(takes[0], takes[1])
    assert charrnn_sample([*argv, "--temperature", "0.5,1", "-o", "warm"]) == 0
    assert np.array_equal(soundfile.read("warm/002.wav", dtype="int16")[0], takes[0])


def test_segments_are_cut_from_one_sound_and_marked(here):
    whole = sample("mse", "--seconds", "0.3")
    joined = sample("mse", "--segments", "3", "--segment-seconds", "0.1", "--segments-dir", "parts")
    assert np.array_equal(whole, joined)
    parts = [soundfile.read(f"parts/00{k}.wav", dtype="int16")[0] for k in (1, 2, 3)]
    assert np.array_equal(np.concatenate(parts), whole)
    data = Path("x.wav").read_bytes()
    assert data[data.rindex(b"cue ") + 8] == 2


def test_a_reset_is_of_every_pass(here):
    carried, reset = sample("mse", "--length", "80"), sample("mse", "--length", "80", "--join", "reset")
    assert np.array_equal(carried[:20], reset[:20])
    assert not np.array_equal(carried[20:], reset[20:])


@pytest.mark.parametrize("name", ["mse", "gaussian"])
def test_going_on_another_day_is_as_if_it_had_never_stopped(here, name):
    whole = sample(name, "--length", "500", "--seed", "4")
    first = sample(name, "--length", "213", "--seed", "4", "--state-out", "s")
    second = sample(name, "--length", "287", "--state-in", "s")
    assert np.array_equal(np.concatenate([first, second]), whole)


def test_it_begins_from_the_end_of_a_recording(here):
    model = frame_model.load("mse").model
    assert not np.array_equal(
        sample("mse", "--length", "50"), sample("mse", "--length", "50", "--start-file", "voice.wav")
    )
    heard = frame_model.as_numbers(voice(6)[-80:])
    means, _, _ = model(heard[None], model.initial_state(1))
    found = sample("mse", "--length", "20", "--start-file", "voice.wav")
    assert np.abs(found - means[0].detach().numpy() * 32768).max() < 1


def test_sound_goes_to_a_pipe_and_a_closed_pipe_is_an_end(here):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", COMMAND, "gaussian", "--seconds", "0.1"]
    done = subprocess.run(argv, capture_output=True, env=environment, check=True)
    assert np.array_equal(
        soundfile.read(io.BytesIO(done.stdout), dtype="int16")[0], sample("gaussian", "--seconds", "0.1")
    )
    argv[-1] = "0"
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.read(5000)
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(60) == 0
    assert "Traceback" not in error


def test_samples_beyond_full_scale_are_counted_in_a_line(here, capsys):
    loud = frame_model.load("mse")
    loud.model.output.bias.data.fill_(100)
    checkpoint.save("loud.safetensors", loud)
    assert charrnn_sample(["loud.safetensors", "--length", "50", "-o", "x.wav"]) == 0
    assert "50 of 50 samples were beyond full scale" in capsys.readouterr().err
    assert set(soundfile.read("x.wav", dtype="int16")[0]) == {32767}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["mse", "--temperature", "0.5"], 1, "draws nothing: leave --temperature out"),
        (["mse", "--start-text", "a"], 2, "--start-text is for networks of text"),
        (["mse", "--play"], 2, "--play is for networks of symbols"),
        (["mse", "--precision", "bf16"], 2, "--precision bf16"),
        (["mse", "--precision", "int7"], 2, "--precision int7"),
        (["mse", "--engine", "onnx"], 2, "--engine onnx runs networks of symbols"),
        (["mse", "-o", "x.txt"], 2, "makes sound"),
        (["mse", "-o", "x.mp3"], 2, "ends in .wav"),
        (["mse", "--start-file", "poem.txt"], 1, "is no recording"),
        (["mse", "--start-file", "none.wav"], 1, "none.wav"),
        (["mse", "--state-in", "voice.wav"], 1, "is not a whole safetensors file"),
        (["mse", "--checkpoint", "7"], 1, "has no checkpoint 7"),
        (["mse", "--segments-dir", "d"], 2, "go with --segments"),
        (["mse", "--seconds", "0.00001"], 1, "less than one sample"),
        (["nothing"], 1, "there is no run nothing"),
    ],
)
def test_what_cannot_be_sampled_is_said(here, capsys, argv, code, words):
    try:
        found = charrnn_sample(["-q", *argv] if "-o" in argv else ["-q", *argv, "-o", "x.wav"])
    except SystemExit as stop:
        found = stop.code
    error = capsys.readouterr().err
    assert (found, words in error, "Traceback" in error) == (code, True, False), error
    assert not Path("x.wav").exists()


def test_a_window_longer_than_the_recording_to_start_from_is_refused(here, capsys):
    soundfile.write("tiny.wav", voice(0.1)[:50], RATE, subtype="PCM_16")
    assert charrnn_sample(["mse", "--start-file", "tiny.wav", "-o", "x.wav", "-q"]) == 1
    assert "too short" in capsys.readouterr().err


def test_a_network_of_symbols_writes_no_floats(here, trained_run, capsys):
    with pytest.raises(SystemExit) as stop:
        charrnn_sample([str(trained_run), "--float", "-o", "x.wav"])
    assert stop.value.code == 2
    assert "--float is for frame predictors" in capsys.readouterr().err


def test_a_cut_checkpoint_is_refused(here, capsys):
    data = frame_model.load("mse").path
    Path("cut.safetensors").write_bytes(Path(data).read_bytes()[:-100])
    assert charrnn_sample(["cut.safetensors", "-o", "x.wav", "-q"]) == 1
    assert "cut.safetensors is not a whole safetensors file" in capsys.readouterr().err


# Seams


@pytest.fixture(scope="module")
def trained_frames(recordings):
    """A network that has learnt the voice with its state carried from window to window."""
    flags = "--frames --loss mse --cell lstm --rnn-size 32 --layers 1 --seq-length 100 --frame-taps 8 --batch-size 10"
    more = f"--max-iterations 400 --learning-rate 0.01 --threads 1 -q --run-dir {recordings / 'seams'}"
    assert charrnn_train([str(recordings / "voice.wav"), *flags.split(), *more.split()]) == 0
    return recordings / "seams"


def test_carried_seams_are_like_the_inside_and_reset_seams_are_worse(trained_frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seams = range(SPACING, 5 * RATE, SPACING)
    measures = {
        join: measure_seams(sample(str(trained_frames), "--seconds", "5", "--join", join), seams, window=SPACING // 4)
        for join in ("carry", "reset")
    }
    assert measures["carry"].jump < 0.6
    assert not measures["carry"].audible()
    assert measures["reset"].jump > 0.75
    assert measures["reset"].audible()
