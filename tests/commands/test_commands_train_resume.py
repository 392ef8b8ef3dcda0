"""charrnn-train --resume: a run that was interrupted ends as if it had not been."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from train_command import FRAMES, SMALL, assert_same_run, config, error, interrupted_at, rows, train, write_sound

from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.models.config import CELLS
from charrnn.sampling import calibration
from charrnn.storage.checkpoint import read_tensors
from charrnn.storage.run_dir import Run
from charrnn.training.trainer import Trainer


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with sound.txt and sound.wav."""
    monkeypatch.chdir(tmp_path)
    write_sound()


def test_the_command_that_samples_a_finished_run_can_be_pasted_into_a_shell(capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "a b"]) == 0
    line = re.search(r"Sample from it with: (.*)", capsys.readouterr().err)[1]
    assert shlex.split(line) == ["charrnn-sample", "a b"]


def test_a_finished_run_is_resumed_with_the_advice_to_raise_its_limit(capsys):
    assert charrnn_train(["sound.txt", *SMALL, "--max-iterations", "10", "--run-dir", "r"]) == 0
    assert "--max-iterations" not in capsys.readouterr().err
    assert charrnn_train(["--resume", "r"]) == 0
    assert "--max-iterations" in capsys.readouterr().err


@pytest.mark.parametrize("stop_at", [49, 60])
def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(stop_at):
    flags = [*SMALL, "--max-iterations", "70", "--checkpoint-every", "20", "--dropout", "0.2", "-q"]
    train("sound.txt", *flags, "--run-dir", "whole")
    with interrupted_at(stop_at):
        assert charrnn_train(["sound.txt", *flags, "--run-dir", "parts"]) == 130
    train("--resume", "parts")
    assert_same_run("whole", "parts")


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(("cell", "precision"), [*((cell, "fp32") for cell in CELLS), ("lstmp", "bf16")])
def test_every_cell_learns_resumes_exactly_and_samples_from_a_saved_state(cell, precision):
    flags = [*SMALL, "--cell", cell, "--precision", precision, "--dropout", "0.1", "--checkpoint-every", "6"]
    flags += ["--learning-rate", "0.02", "--max-iterations", "12", "-q"]
    train("sound.txt", *flags, "--run-dir", "whole")
    with interrupted_at(8):
        assert charrnn_train(["sound.txt", *flags, "--run-dir", "parts"]) == 130
    train("--resume", "parts")
    assert_same_run("whole", "parts")
    losses = [float(row["train_loss"]) for row in rows("whole/log.csv")]
    assert np.mean(losses[-3:]) < losses[0] - 0.5
    command = ["whole", "--seed", "5", "-q", "-o"]
    assert charrnn_sample([*command, "whole.txt", "--length", "90"]) == 0
    assert charrnn_sample([*command, "a.txt", "--length", "40", "--state-out", "state"]) == 0
    assert charrnn_sample([*command, "b.txt", "--length", "50", "--state-in", "state"]) == 0
    assert Path("a.txt").read_text() + Path("b.txt").read_text() == Path("whole.txt").read_text()


def test_a_run_in_bf16_continues_in_fp32_on_a_processor_that_cannot_compute_in_bf16(bf16, monkeypatch, capsys):
    train("sound.txt", *SMALL, "--precision", "bf16", "--max-iterations", "3", "--run-dir", "r")
    monkeypatch.setattr(runtime, "computes_bf16", lambda device: False)
    capsys.readouterr()
    assert charrnn_train(["--resume", "r", "--max-iterations", "5"]) == 0
    assert "cannot compute in bf16: the run continues in fp32" in capsys.readouterr().err
    assert config("r")["training"]["precision"] == "fp32"
    assert len(rows("r/log.csv")) == 5


@pytest.mark.parametrize("is_long_enough", [True, False])
def test_a_run_that_is_stopped_has_a_checkpoint_and_prints_how_to_resume(capsys, monkeypatch, is_long_enough):
    monkeypatch.setattr(calibration, "MIN_SECONDS", 1e-9 if is_long_enough else 0.5)
    with interrupted_at(3):
        assert charrnn_train(["sound.txt", *SMALL, "--run-dir", "r"]) == 130
    err = capsys.readouterr().err
    assert "after iteration 3" in err
    assert "charrnn-train --resume r" in err
    assert ("calibrated, add --max-iterations 3." in err) == is_long_enough
    assert [path.name for path in Path("r/checkpoints").iterdir()] == ["00000003.safetensors"]


def test_a_run_is_found_by_its_name_and_may_have_a_new_length(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "5")
    assert charrnn_train(["--resume", "sound-001", "--max-iterations", "9"]) == 0
    assert "the limit changed" in capsys.readouterr().err
    assert [int(row["iteration"]) for row in rows("runs/sound-001/log.csv")] == list(range(1, 10))


def test_baselines_are_kept_and_may_be_missing(capsys, monkeypatch):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    monkeypatch.delattr("charrnn.data.baselines.measure_baselines")  # nothing is measured again
    capsys.readouterr()
    assert charrnn_train(["--resume", "r", "--max-iterations", "4"]) == 0
    assert "; FLAC " in capsys.readouterr().err
    old = config("r")
    del old["yardsticks"]
    Path("r/config.json").write_text(json.dumps(old))
    assert charrnn_train(["--resume", "r", "--max-iterations", "6"]) == 0
    err = capsys.readouterr().err
    assert "baseline" not in err
    assert " bits per symbol), checkpoint." in err


def test_unfinished_files_of_a_killed_process_are_removed_and_others_kept():
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    removed = ["r/.log.csv.x1_.part", "r/.resume.safetensors.x1_.part", "r/checkpoints/.00000002.safetensors.x1_.part"]
    removed += ["r/samples/.00000002_t0.50.wav.x1_.part"]
    kept = ["r/.log.png.x1_.part", "r/checkpoints/.mine.part", "r/checkpoints/mine.safetensors"]
    Path("r/samples").mkdir()
    for name in removed + kept:
        Path(name).touch()
    train("--resume", "r", "--max-iterations", "3")
    assert [name for name in removed + kept if Path(name).exists()] == kept


@pytest.mark.parametrize("longer", [[], ["--max-iterations", "5"]])
def test_a_run_can_be_resumed_without_its_checkpoints_and_samples(longer):
    flags = ["--sample-seconds", "0.01", "--checkpoint-every", "2", "--max-iterations", "4"]
    train("sound.wav", *SMALL, *flags, "--run-dir", "r")
    shutil.rmtree("r/checkpoints")
    shutil.rmtree("r/samples")
    train("--resume", "r", *longer)
    assert [int(file.stem) for file in Run(Path("r")).checkpoints()][-1] == (5 if longer else 4)


@pytest.mark.parametrize(("device", "requested"), [("cpu", "auto"), ("cuda", None)])
def test_a_run_that_moves_to_a_gpu_chooses_its_backend_again(monkeypatch, device, requested):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    old = config("r")
    old["training"]["device"] = device
    Path("r/config.json").write_text(json.dumps(old))
    requests = []

    def choose(name, *args, **options):
        requests.append(name)
        raise InputError("this test has no GPU")

    monkeypatch.setattr("charrnn.runtime.choose_device", lambda name: "cuda")
    monkeypatch.setattr("charrnn.runtime.select_gpu", lambda name: None)
    monkeypatch.setattr("torch.nn.Module.to", lambda model, device: model)
    monkeypatch.setattr("charrnn.cuda.backends.choose_backend", choose)
    assert charrnn_train(["--resume", "r", "--device", "cuda", "--max-iterations", "4", "-q"]) == 1
    assert requests == [requested]


# Runs that cannot be resumed


def test_a_run_without_its_resume_file_is_rejected_and_its_log_kept(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    log = Path("r/log.csv").read_bytes()
    Path("r/resume.safetensors").unlink()
    assert "--init-from r" in error(capsys, "--resume", "r", "--max-iterations", "4")
    assert Path("r/log.csv").read_bytes() == log


def test_a_damaged_run_is_rejected(capsys):
    assert "there is no run nowhere" in error(capsys, "--resume", "nowhere")
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    good = Path("r/resume.safetensors").read_bytes()
    Path("r/resume.safetensors").write_bytes(good[: len(good) // 2])
    assert "resume.safetensors" in error(capsys, "--resume", "r")
    Path("r/resume.safetensors").write_bytes(good)
    Path("r/corpus.bin").write_bytes(b"\0" * 1000)
    assert "1,000 symbols" in error(capsys, "--resume", "r")
    Path("r/config.json").write_text("{}")
    assert "config.json" in error(capsys, "--resume", "r")


def test_a_wrong_value_in_config_json_is_rejected(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    good = config("r")
    changes = {"val_frac": "x", "test_frac": 2, "rate": "x", "threads": -3, "inputs": [3], "yardsticks": {"flac": "x"}}
    changes["kind"] = "other"
    training = {"batch_size": -5, "seq_length": 0, "checkpoint_every": 0, "keep": -1, "seed": "x", "grad_clip": "x"}
    training |= {"max_epochs": "x", "device": "tpu", "precision": "fp8", "gpu_layers": "faster", "pad_layers": 1}
    model = {"layers": 10**9, "forget_bias": 10**400, "rnn_size": 10**6, "wordvec_size": 10**30, "cell": []}
    bad = [{**good, name: value} for name, value in changes.items()]
    bad += [{**good, "model": {**good["model"], name: value}} for name, value in model.items()]
    bad += [{**good, "training": {**good["training"], name: value}} for name, value in training.items()]
    for changed in bad:
        Path("r/config.json").write_text(json.dumps(changed))
        assert "config.json" in error(capsys, "--resume", "r")


# Interruptions of symbols and frames


@pytest.mark.parametrize(("flags", "iteration"), [(SMALL, 3), (FRAMES, 6)])
def test_a_sample_that_ctrl_c_interrupts_is_written_when_the_run_is_resumed(monkeypatch, flags, iteration):
    flags = [*flags, "--max-iterations", "6", "--checkpoint-every", "3", "--sample-seconds", "0.1", "-q"]
    train("sound.wav", *flags, "--run-dir", "whole")
    original = Trainer._write_samples

    def interrupted(trainer):
        if trainer.state.iteration == iteration:
            signal.raise_signal(signal.SIGINT)
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_write_samples", interrupted)
        assert charrnn_train(["sound.wav", *flags, "--run-dir", "parts"]) == 130
    assert not Run(Path("parts")).sample_file(iteration, 1.0).exists()
    train("--resume", "parts")
    assert_same_run("whole", "parts")
    for step in (3, 6):
        whole, parts = (Run(Path(run)).sample_file(step, 1.0).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


@pytest.mark.parametrize("flags", [SMALL, FRAMES])
def test_a_validation_without_memory_leaves_a_checkpoint_and_is_repeated(monkeypatch, capsys, flags):
    flags = [*flags, "--max-iterations", "6", "--checkpoint-every", "3", "-q"]
    train("sound.wav", *flags, "--run-dir", "whole")

    def fail(trainer, stopped):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", fail)
        assert "not enough memory" in error(capsys, "sound.wav", *flags, "--run-dir", "parts")
    assert [path.stem for path in Run(Path("parts")).checkpoints()] == ["00000003"]
    train("--resume", "parts")
    assert_same_run("whole", "parts")
    for name in ("best.json", "checkpoints/00000003.safetensors", "checkpoints/00000006.safetensors"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


# Processes


def start(*argv):
    """Start charrnn-train in a process of its own."""
    code = "import sys; from charrnn.commands.train import charrnn_train; sys.exit(charrnn_train())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_rows(path, count, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} has fewer than {count} rows: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_process_that_a_signal_ends_resumes_exactly(number, code):
    flags = [*SMALL, "--max-iterations", "4000", "--checkpoint-every", "300", "-q"]
    train("sound.txt", *flags, "--run-dir", "whole")
    process = start("sound.txt", *flags, "--run-dir", "parts")
    wait_for_rows(Path("parts/log.csv"), 700, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert len(rows("parts/log.csv")) < 4000
    train("--resume", "parts")
    assert_same_run("whole", "parts")


@pytest.mark.slow
def test_a_run_is_locked_while_a_process_trains_in_it(capsys):
    process = start("sound.txt", *SMALL, "--run-dir", "r", "-q")
    wait_for_rows(Path("r/log.csv"), 10, process)
    try:
        assert "another process is training in r" in error(capsys, "--resume", "r")
    finally:
        process.kill()
        process.communicate()
    train("--resume", "r", "--max-iterations", "1")  # the lock ended with the process


def test_a_run_of_an_earlier_version_that_read_samples_in_another_way_is_not_resumed(capsys):
    sound = ["--context", "3", "--prediction", "lpc"]
    train("sound.wav", *SMALL, *sound, "--max-iterations", "2", "--run-dir", "r")
    run = Run(Path("r"))
    metadata, tensors = read_tensors(run.resume_file, "resume")
    text = json.dumps(metadata | {"format": 3, "kind": "resume"})
    save_file(tensors, run.resume_file, {"charrnn": text})
    before = config("r")
    capsys.readouterr()
    assert charrnn_train(["--resume", "r", "--max-iterations", "4"]) == 1
    message = capsys.readouterr().err
    assert "start a new run" in message
    assert "the limit changed" not in message
    assert config("r") == before
