"""Write the checkpoints of the current format that the tests load, with their expected results.

    python tools/make_fixtures.py tests/storage/format1

The files of a format are written once and stay unchanged. A later format gets a folder of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from charrnn.data.vocab import Vocab
from charrnn.engines import engine
from charrnn.frames import generate as frame_generate
from charrnn.frames import model as frame_model
from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint


def main() -> None:
    """Write a checkpoint of each cell, a frame predictor, and the expected results."""
    folder = Path(sys.argv[1])
    if any(folder.glob("*")):
        sys.exit(f"{folder} is not empty; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    ids = np.arange(24)[None] * 7 % 5
    for cell in CELLS:
        model = build(ModelConfig(5, 3, 4, 2, cell, dropout=0.1, layer_norm=cell != "gru"), seed=1).eval()
        made = checkpoint.Checkpoint(model, Vocab("abcdé"), step=12, epoch=1.5, train_loss=1.25, val_loss=1.5)
        checkpoint.save(folder / f"{cell}.safetensors", made)
        expected[cell] = engine(made, "eager").score(ids)[0].tolist()
    samples = np.rint(8000 * np.sin(np.arange(400) / 5)).astype(np.int16)
    predictor = frame_model.build(frame_model.FrameConfig(4, 1, taps=3, spacing=8, loss="gaussian"), 1, samples).eval()
    checkpoint.save(folder / "frames.safetensors", frame_model.FrameCheckpoint(predictor, 12, 1.5, 16000, 0.1, 0.2))
    expected["frames"] = frame_generate.FrameStream(predictor).read(8).tolist()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
