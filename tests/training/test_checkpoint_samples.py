"""Each checkpoint of a run is heard, and the training does not notice."""

import shutil
import wave

import pytest

from charrnn.commands.sample import charrnn_sample
from charrnn.engines import engine
from charrnn.storage.run_dir import Run
from charrnn.training import samples
from charrnn.training.samples import CheckpointSampler


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a run that has learnt the tone, to write to."""
    shutil.copytree(trained_run, tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_sample_is_what_charrnn_sample_makes_of_the_checkpoint_with_the_seed(run, tmp_path):
    CheckpointSampler(run, 0.05, [0.8, 1.0], seed=3)(200)
    assert sorted(path.name for path in run.samples_folder.iterdir()) == ["00000200_t0.80.wav", "00000200_t1.00.wav"]
    for temperature in ("0.8", "1"):
        other = tmp_path / "other.wav"
        flags = f"--checkpoint 200 --seconds 0.05 --temperature {temperature} --seed 3 -q -o {other}"
        assert charrnn_sample([str(run.path), *flags.split()]) == 0
        assert run.sample_file(200, float(temperature)).read_bytes() == other.read_bytes()


def test_it_has_the_length_that_was_asked_for(run):
    CheckpointSampler(run, 0.1, [1.0])(400)
    with wave.open(str(run.sample_file(400, 1.0))) as file:
        assert (file.getframerate(), file.getnframes()) == (11025, 1102)


def test_stopped_in_the_middle_it_leaves_no_half_file(run):
    looks = iter([False, False, True])
    CheckpointSampler(run, 1, [0.5, 1.0], stopped=lambda: next(looks))(400)
    assert list(run.samples_folder.iterdir()) == []


def test_missing_samples_are_written_and_others_kept(run):
    run.samples_folder.mkdir()
    run.sample_file(400, 0.5).write_bytes(b"mine")
    CheckpointSampler(run, 0.01, [0.5, 1.0])(400)
    assert run.sample_file(400, 0.5).read_bytes() == b"mine"
    assert run.sample_file(400, 1.0).exists()


def test_its_engine_has_the_threads_of_the_run(run, monkeypatch):
    asked = []

    def spy(checkpoint, threads):
        asked.append(threads)
        return engine(checkpoint, threads=threads)

    monkeypatch.setattr(samples, "engine", spy)
    CheckpointSampler(run, 0.01, [0.5, 1.0], threads=1)(400)
    assert asked == [1, 1]
