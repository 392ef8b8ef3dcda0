"""The compiled predictor, and the one in torch's operations, are the reference in numpy to the last bit."""

import numpy as np
import pytest
import torch

from bytecodec.errors import InputError
from charrnn.data import predictor as reference
from charrnn.data.predictor import HISTORY, HOP
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu import predictor as compiled
from charrnn.engines.eager import EagerEngine
from charrnn.models import predictor as in_torch
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint_format import Streams, load_streams, save_streams

STEPS = 37


def sounds():
    """Return rows of samples: silence, full scale, noises, tones, an onset, and one sample that is not zero."""
    random, t = np.random.default_rng(0), np.arange(HISTORY + STEPS)
    rows = [0 * t, 0 * t + 127, 0 * t - 128, np.where(t % 2, 127, -128), np.where(t > HISTORY + 9, 90, 0)]
    rows += [random.normal(0, deviation, len(t)) for deviation in (0.5, 3, 300)]
    rows += [amplitude * np.sin(frequency * t) for amplitude in (1, 127) for frequency in (0.01, 0.9, 3.1)]
    rows += [np.where(t == HISTORY + 3, 127, 0), np.cumsum(random.normal(0, 1, len(t)))]
    return np.clip(np.rint(rows), -128, 127).astype(np.int8)


ROWS = sounds()
PHASES = np.arange(len(ROWS)) * 5 % HOP
EXPECTED = reference.predict(ROWS, PHASES)


@pytest.mark.parametrize("variant", list(cpu_library.variants()))
def test_the_compiled_predictor_is_the_reference_in_every_variant(monkeypatch, variant):
    monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
    for found, expected in zip(compiled.predict(ROWS, PHASES), EXPECTED, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_predictor_in_torch_is_the_reference():
    rows, phases = torch.from_numpy(ROWS.astype(np.float32)), torch.from_numpy(PHASES.astype(np.float32))
    for found, expected in zip(in_torch.predict(rows, phases), EXPECTED, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("part", "value"), [(0, 128), (0, 0.5), (0, np.nan), (1, HOP), (1, -1), (1, 1e30)])
def test_a_state_with_impossible_samples_is_rejected(tmp_path, part, value):
    """A phase out of range would let the kernel read memory that is not its own."""
    model = build(ModelConfig(256, 4, 5, 1, prediction="lpc"), 0)
    engine = EagerEngine(model, 2)
    state, last = engine.get_state()
    state[-1][part][1, 0] = value
    with pytest.raises(InputError, match=r"samples|finite"):
        engine.set_state(state, last)
    save_streams(tmp_path / "state", Streams(state, last, 0, 0))
    with pytest.raises(InputError, match="samples"):
        load_streams(tmp_path / "state", model.config)
    with pytest.raises(ValueError, match="samples"):
        model.check_state(tuple(tuple(map(torch.from_numpy, layer)) for layer in state))


def test_without_the_compiled_predictor_a_network_uses_the_reference_and_reports_it(monkeypatch, tmp_path, capfd):
    calls = []
    for name, module in (("compiled", compiled), ("numpy", reference)):
        monkeypatch.setattr(module, "predict", lambda *arrays, name=name: calls.append(name) or EXPECTED)
    config = ModelConfig(256, 4, 5, 1, prediction="lpc")
    rows, phases = (torch.from_numpy(array.astype(np.float32)) for array in (ROWS, PHASES))
    model = build(config, 0)
    compiled.use_compiled(model)
    model.samples.predict(rows, phases)
    other = build(config, 0)
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, str(tmp_path / "missing"))
    cpu_library.library.cache_clear()
    try:
        compiled.use_compiled(other)
    finally:
        cpu_library.library.cache_clear()
    other.samples.predict(rows, phases)
    assert calls == ["compiled", "numpy"]
    assert "numpy" in capfd.readouterr().err


@pytest.mark.integration
def test_the_kernel_for_gpus_is_the_reference_for_sequences_and_single_steps():
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    from charrnn.cuda.predictor import StepPredictor, predict

    some = [1, 3, 4, 7, 12]
    rows, phases = torch.from_numpy(ROWS[some].astype(np.float32)), torch.from_numpy(PHASES[some].astype(np.float32))
    expected = [array[some] for array in EXPECTED]
    for found, wanted in zip(predict(rows, phases), expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)
    single = StepPredictor(len(some), rows.device)
    single.begin(rows[:, :HISTORY], phases)
    for t in range(STEPS):
        pair = single(rows[:, t : t + HISTORY + 1], (phases + t) % HOP)
        for found, wanted in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), wanted[:, t : t + 2])
