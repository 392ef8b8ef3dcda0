"""Runs of every kind for tests/test_matrix.py."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch_rnn_model as torch_rnn

from bytecodec import encode
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.train import charrnn_train
from charrnn.frames import noise as frame_noise
from charrnn.training import own_sound

RATE = 8000
NETWORK = "--rnn-size 8 --layers 1 --batch-size 4 --seq-length 10 --threads 1 --precision fp32 -q".split()
TRAINING = "--max-iterations 6 --checkpoint-every 3".split()
SOUND = ["sound.wav", "--rate", str(RATE)]
FRAMES = [*SOUND, "--frames", "--frame-taps", "4", "--loss"]
BYTES = list(encode(bytes(range(120, 137))))


@dataclass(frozen=True)
class Kind:
    """A kind of run; ``unit`` and ``loss`` match the units of its losses in bits and as they were trained."""

    data: tuple[str, ...]
    unit: str = r"bits \w+ symbol"
    loss: str = r"nats \w+ symbol"
    is_frames: bool = False
    is_text: bool = False
    is_resumed: bool = False
    is_validated: bool = True
    has_samples: bool = True

    @property
    def flags(self) -> list[str]:
        """Flags of the training."""
        flags = [*TRAINING, *self.data, "--sample-seconds", "0.05" if self.has_samples else "0"]
        return flags if self.is_validated else [*flags, "--val-frac", "0"]


FRAME_UNIT, DENSITY = r"bits \w+ 16-bit sample", r"nats of density \w+ sample"
MSE, GAUSSIAN = (*FRAMES, "mse"), (*FRAMES, "gaussian")
KINDS = {
    "symbols": Kind((*SOUND,)),
    "resumed": Kind((*SOUND,), is_resumed=True, is_validated=False, has_samples=False),
    "text": Kind(("poem.txt",), is_text=True, has_samples=False),
    "mse": Kind(MSE, FRAME_UNIT, "mean squared error", is_frames=True, is_resumed=True),
    "gaussian": Kind(GAUSSIAN, FRAME_UNIT, DENSITY, is_frames=True, is_validated=False),
    "resumed-gaussian": Kind(GAUSSIAN, FRAME_UNIT, DENSITY, is_frames=True, is_resumed=True, has_samples=False),
}
CONVERTED = "converted.safetensors"


def make_runs(patch):
    """Train a run of each kind in the current folder, and convert a checkpoint of torch-rnn."""
    t = np.arange(RATE) / RATE
    sound = 300 * np.sin(2 * np.pi * 210 * t) + np.random.default_rng(0).normal(0, 20, t.size)
    patch.setattr(frame_noise, "MIN_ROUND_SAMPLES", 20)
    patch.setattr(frame_noise, "MAX_GENERATED_PASSES", 8)
    patch.setattr(own_sound, "EVERY", 20)  # 2 iterations
    soundfile.write("sound.wav", sound.astype(np.int16), RATE, subtype="PCM_16")
    Path("poem.txt").write_text("O rose, thou art sick! " * 40)
    for name, kind in KINDS.items():
        length = ["--max-iterations", "3"] if kind.is_resumed else []
        assert charrnn_train([*NETWORK, *kind.flags, *length, "--run-dir", name]) == 0
        if kind.is_resumed:
            assert charrnn_train(["--resume", name, "--max-iterations", "6", "-q"]) == 0
    torch_rnn.write(Path("voice.t7"), BYTES, torch_rnn.layers(BYTES, sizes=(4, 8)))
    assert charrnn_convert(["voice.t7", CONVERTED, "--rate", str(RATE), "-q"]) == 0
