"""Samples of a run's checkpoints."""

import shutil
import wave

import pytest

from charrnn.commands.sample import charrnn_sample
from charrnn.engines import engine
from charrnn.storage.run_dir import Run
from charrnn.training import samples
from charrnn.training.samples import SymbolSampler


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a trained run, to write to."""
    shutil.copytree(trained_run, tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_sample_is_what_charrnn_sample_writes_with_the_same_seed(run, tmp_path):
    SymbolSampler(run, 0.05, [0.8, 1.0], seed=3)(200)
    assert sorted(path.name for path in run.samples_folder.iterdir()) == ["00000200_t0.80.wav", "00000200_t1.00.wav"]
    for temperature in ("0.8", "1"):
        other = tmp_path / "other.wav"
        flags = f"--checkpoint 200 --seconds 0.05 --temperature {temperature} --seed 3 -q -o {other}"
        assert charrnn_sample([str(run.path), *flags.split()]) == 0
        assert run.sample_file(200, float(temperature)).read_bytes() == other.read_bytes()
    with wave.open(str(run.sample_file(200, 1.0))) as file:
        assert (file.getframerate(), file.getnframes()) == (11025, 551)


def test_a_sample_that_is_stopped_leaves_no_file(run):
    answers = iter([False, False, True])
    SymbolSampler(run, 1, [0.5, 1.0], stopped=lambda: next(answers))(400)
    assert list(run.samples_folder.iterdir()) == []


def test_missing_samples_are_written_and_others_kept(run):
    run.samples_folder.mkdir()
    run.sample_file(400, 0.5).write_bytes(b"mine")
    SymbolSampler(run, 0.01, [0.5, 1.0])(400)
    assert run.sample_file(400, 0.5).read_bytes() == b"mine"
    assert run.sample_file(400, 1.0).exists()


def test_the_engine_has_the_threads_of_the_run(run, monkeypatch):
    threads = []
    monkeypatch.setattr(samples, "engine", lambda *args, **options: threads.append(options) or engine(*args, **options))
    SymbolSampler(run, 0.01, [1.0], threads=1)(400)
    assert threads == [{"threads": 1}]
