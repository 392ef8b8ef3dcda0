"""Checkpoints of format 1, made by tools/make_fixtures.py, are loaded and give the same results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from charrnn.engines import engine
from charrnn.frames import generate as frame_generate
from charrnn.frames import model as frame_model
from charrnn.storage import checkpoint

FOLDER = Path(__file__).parent / "format1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("cell", ["lstm", "lstmp", "lstmor", "gru", "rnn"])
def test_a_network_of_format_1_has_the_same_log_probabilities(cell):
    found = checkpoint.load(FOLDER / f"{cell}.safetensors")
    assert (found.step, found.epoch, found.train_loss, found.val_loss) == (12, 1.5, 1.25, 1.5)
    assert found.vocab.characters == "abcdé"
    assert (found.model.config.cell, found.model.config.dropout) == (cell, 0.1)
    np.testing.assert_allclose(engine(found, "eager").score(np.arange(24)[None] * 7 % 5)[0], EXPECTED[cell], atol=1e-5)


def test_a_frame_predictor_of_format_1_generates_the_same_samples():
    found = frame_model.load(FOLDER / "frames.safetensors")
    assert (found.step, found.rate, found.val_loss) == (12, 16000, 0.2)
    np.testing.assert_allclose(frame_generate.FrameStream(found.model).read(8), EXPECTED["frames"], atol=1e-5)
