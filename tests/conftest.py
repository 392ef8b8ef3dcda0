"""Shared fixtures: reproducible examples, one thread, a sound to learn, and small networks."""

import os
import shutil
import signal
import sys
import warnings
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

TRAINED = """
    --rnn-size 48 --layers 2 --wordvec-size 16 --batch-size 16 --seq-length 32 --learning-rate 0.01
    --max-iterations 400 --checkpoint-every 200 --precision fp32 --threads 1 --quiet
"""

# GPU kernels run in Triton's interpreter; the variable is read when Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Processes that a shell starts in the background ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "reproducible", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _one_thread():
    """Set torch to one thread, which an earlier test may have changed."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def bf16():
    """Let torch compute in bf16 on a CPU on which oneDNN cannot: without oneDNN it is emulated."""
    import torch

    from charrnn import runtime

    computes_bf16 = runtime.computes_bf16  # which a test may replace
    if computes_bf16("cpu"):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32 on Intel's GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            computes_bf16.cache_clear()
            yield
    computes_bf16.cache_clear()


@pytest.fixture(scope="session")
def shared_audio():
    """Return the folder of recordings that are too large to ship."""
    folder = Path(os.environ.get("AUDIO", ROOT.parent / "shared" / "audio"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: set AUDIO to the folder of the recordings")
    return folder


@pytest.fixture(scope="session")
def shared_torch_rnn():
    """Return the folder of checkpoints and results of torch-rnn."""
    folder = Path(os.environ.get("T7", ROOT.parent / "shared" / "torch_rnn"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: set T7 to the folder of torch-rnn's checkpoints")
    return folder


@pytest.fixture(scope="session")
def tone():
    """Return two seconds of two tones and a little noise, (22050,) bytes around silence."""
    t = np.arange(22050) / 11025
    noise = np.random.default_rng(0).normal(0, 2, t.size)
    x = 128 + 50 * np.sin(2 * np.pi * 210 * t) + 25 * np.sin(2 * np.pi * 525 * t) + noise
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def write_wav():
    """Return ``write_wav(path, samples, rate=11025)``, which writes 8-bit mono and returns the path."""

    def write(path, samples, rate=11025):
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(rate)
            file.writeframes(bytes(samples))
        return path

    return write


@pytest.fixture(scope="session")
def tone_file(tmp_path_factory, tone, write_wav):
    """Return the tone as a recording."""
    return write_wav(tmp_path_factory.mktemp("sound") / "tone.wav", tone)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, tone_file):
    """Return a run of charrnn-train that has learnt the tone. Tests must not change it."""
    from charrnn.commands.train import charrnn_train

    folder = tmp_path_factory.mktemp("runs") / "tone"
    assert charrnn_train([str(tone_file), "--run-dir", str(folder), *TRAINED.split()]) == 0
    return folder


@pytest.fixture(scope="session")
def sounding_run(tmp_path_factory, trained_run, tone, write_wav):
    """Return `trained_run` with samples that go from noise to the tone. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "sounding"
    shutil.copytree(trained_run, folder)
    (folder / "samples").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, 11025)
    for step, part in ((200, 0.5), (400, 0.0)):
        for temperature in (0.8, 1.0):
            mixed = part * noise + (1 - part) * tone[: len(noise)]
            write_wav(folder / "samples" / f"{step:08d}_t{temperature:.2f}.wav", mixed.astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def chromium():
    """Start a headless browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed: install it, or set CHROMIUM to its path")
    flags = ["--no-sandbox", "--disable-background-networking", "--autoplay-policy=no-user-gesture-required"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def trained(trained_run):
    """Return the checkpoint of `trained_run`."""
    from charrnn.storage.checkpoint import load

    return load(trained_run)


@pytest.fixture(scope="session")
def symbols_run(tmp_path_factory, tone_file):
    """Return a run of a network that has learnt the tone from symbols alone. Tests must not change it."""
    from charrnn.commands.train import charrnn_train

    folder = tmp_path_factory.mktemp("runs") / "symbols"
    flags = [*TRAINED.split(), "--context", "0", "--prediction", "none"]
    assert charrnn_train([str(tone_file), "--run-dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="session")
def trained_on_symbols(symbols_run):
    """Return the checkpoint of `symbols_run`."""
    from charrnn.storage.checkpoint import load

    return load(symbols_run)


@pytest.fixture
def tiny_config():
    """Return the configuration of a network with 7 symbols, embeddings of 5 and 2 layers of 6 units."""
    from charrnn.models.config import ModelConfig

    return ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)


@pytest.fixture
def tiny_model(tiny_config):
    """Return an untrained network whose output depends on its state as much as a trained network's."""
    import torch

    from charrnn.models.char_rnn import build

    model = build(tiny_config, seed=0)
    with torch.no_grad():
        model.output.weight.mul_(8)
    return model


@pytest.fixture
def tiny_checkpoint(tiny_model):
    """Return `tiny_model` as a checkpoint in memory, with the vocabulary a to g."""
    from charrnn.data.vocab import Vocab
    from charrnn.storage.checkpoint import Checkpoint

    return Checkpoint(tiny_model.eval(), Vocab("abcdefg"), step=12, epoch=1.5, train_loss=1.25, val_loss=1.5)
