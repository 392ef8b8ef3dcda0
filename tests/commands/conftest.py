"""Small runs that the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import frame_runs
import numpy as np
import pytest
import soundfile

import bytecodec

SMALL = "--rnn-size 16 --layers 2 --wordvec-size 6 --batch-size 4 --seq-length 8 --precision fp32 --threads 1".split()


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """A folder with runs called sound and poem, each trained for 20 iterations, and their data."""
    from charrnn.commands.train import charrnn_train

    folder = tmp_path_factory.mktemp("networks")
    data = np.random.default_rng(1).integers(100, 130, 2000, dtype=np.uint8)
    with open(folder / "sound.wav", "wb") as file, bytecodec.WavWriter(file, 11025) as wav:
        wav.write(data)
    (folder / "poem.txt").write_text("Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 40, encoding="utf-8")
    for name in ("sound.wav", "poem.txt"):
        run = ["--run-dir", str(folder / Path(name).stem), "--max-iterations", "20", "--checkpoint-every", "10", "-q"]
        assert charrnn_train([str(folder / name), *SMALL, *run]) == 0
    return folder


@pytest.fixture
def in_networks(networks, tmp_path, monkeypatch):
    """An empty working directory with links to the runs sound and poem; the folder of their data."""
    monkeypatch.chdir(tmp_path)
    for name in ("sound", "poem"):
        Path(name).symlink_to(networks / name)
    return networks


@pytest.fixture(scope="session")
def frame_recordings(tmp_path_factory):
    """A folder with voice.wav, short.wav and poem.txt."""
    folder = tmp_path_factory.mktemp("frames")
    soundfile.write(folder / "voice.wav", frame_runs.voice(6), frame_runs.RATE, subtype="PCM_16")
    soundfile.write(folder / "short.wav", frame_runs.voice(0.1), frame_runs.RATE, subtype="PCM_16")
    (folder / "poem.txt").write_text("O rose, thou art sick! " * 100)
    return folder


def set_short_rounds(patch):
    patch.setattr("charrnn.frames.noise.MIN_ROUND_SAMPLES", 200)
    patch.setattr("charrnn.frames.noise.MAX_GENERATED_PASSES", 60)


@pytest.fixture
def short_rounds(monkeypatch):
    """Fit the noise of frame predictors in rounds of 10 passes."""
    set_short_rounds(monkeypatch)


@pytest.fixture(scope="session")
def frame_networks(frame_recordings):
    """The folder of `frame_recordings` with runs called mse and gaussian, each trained for 12 iterations."""
    from charrnn.commands.train import charrnn_train

    with pytest.MonkeyPatch.context() as patch:
        set_short_rounds(patch)
        for loss in ("mse", "gaussian"):
            flags = (
                f"--loss {loss} --max-iterations 12 --checkpoint-every 6 --run-dir {frame_recordings / loss}".split()
            )
            assert charrnn_train([str(frame_recordings / "voice.wav"), *frame_runs.SMALL, *flags]) == 0
    return frame_recordings


@pytest.fixture
def in_frame_networks(frame_networks, tmp_path, monkeypatch):
    """An empty working directory with links to the runs and files of `frame_networks`."""
    monkeypatch.chdir(tmp_path)
    for name in ("mse", "gaussian", "voice.wav", "short.wav", "poem.txt"):
        Path(name).symlink_to(frame_networks / name)
