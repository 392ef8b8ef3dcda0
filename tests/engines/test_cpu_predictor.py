"""The compiled predictor, the kernel for GPUs and the one in torch's operations are the reference to the last bit."""

from functools import cache

import numpy as np
import pytest
import torch
from compiled_kernel import kernel_variants

from bytecodec.errors import InputError
from charrnn.data import predictor as reference
from charrnn.data.predictor import PERIOD, PREDICTORS, history
from charrnn.engines.cpu import library as cpu_library
from charrnn.engines.cpu import predictor as compiled
from charrnn.engines.eager import EagerEngine
from charrnn.models import predictor as in_torch
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint_format import Streams, load_streams, save_streams

STEPS = 37
KINDS = [kind for kind in PREDICTORS if kind != "none"]


def sounds(length):
    """Return rows of samples: silence, full scale, noises, tones, an onset, and one sample that is not zero."""
    random, t = np.random.default_rng(0), np.arange(length)
    onset = length - STEPS
    rows = [0 * t, 0 * t + 127, 0 * t - 128, np.where(t % 2, 127, -128), np.where(t > onset + 9, 90, 0)]
    rows += [random.normal(0, deviation, length) for deviation in (0.5, 3, 300)]
    rows += [amplitude * np.sin(frequency * t) for amplitude in (1, 127) for frequency in (0.01, 0.9, 3.1)]
    rows += [np.where(t == onset + 3, 127, 0), np.cumsum(random.normal(0, 1, length))]
    return np.clip(np.rint(rows), -128, 127).astype(np.int8)


@cache
def example(kind):
    """Return rows of samples, their phases, the predictors, and what the reference predicts."""
    predictors = PREDICTORS[kind]
    rows = sounds(history(predictors) + STEPS)
    phases = np.arange(len(rows)) * 5 % PERIOD
    return rows, phases, predictors, reference.predict(rows, phases, predictors)


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_predictor_is_the_reference_in_every_variant(monkeypatch, kind):
    *arguments, expected = example(kind)
    for variant in kernel_variants():  # not a parameter, because the other tests need no kernel
        monkeypatch.setenv(cpu_library.VARIANT_VARIABLE, variant)
        np.testing.assert_array_equal(compiled.predict(*arguments), expected, variant)


@pytest.mark.parametrize("kind", KINDS)
def test_the_predictor_in_torch_is_the_reference(kind):
    rows, phases, predictors, expected = example(kind)
    found = in_torch.predict(*(torch.from_numpy(array.astype(np.float32)) for array in (rows, phases)), predictors)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("part", "value"), [(0, 128), (0, 0.5), (0, np.nan), (1, PERIOD), (1, -1), (1, 1e30)])
def test_a_state_with_impossible_samples_is_rejected(tmp_path, part, value):
    """A phase out of range would let the kernel read memory that is not its own."""
    model = build(ModelConfig(256, 4, 5, 1, prediction="lpc"), 0)
    engine = EagerEngine(model, 2)
    state, last = engine.get_state()
    state[-2][part][1, 0] = value
    with pytest.raises(InputError, match=r"samples|finite"):
        engine.set_state(state, last)
    save_streams(tmp_path / "state", Streams(state, last, 0, 0))
    with pytest.raises(InputError, match="samples"):
        load_streams(tmp_path / "state", model.config)
    with pytest.raises(ValueError, match="samples"):
        model.check_state(tuple(tuple(map(torch.from_numpy, layer)) for layer in state[:-1]))


def test_without_the_compiled_predictor_a_network_uses_the_reference_and_reports_it(monkeypatch, tmp_path, capfd):
    kernel_variants()
    rows, phases, predictors, expected = example("lpc")
    calls = []
    for name, module in (("compiled", compiled), ("numpy", reference)):
        monkeypatch.setattr(module, "predict", lambda *arguments, name=name: calls.append(name) or expected)
    config = ModelConfig(256, 4, 5, 1, prediction="lpc")
    tensors = (*(torch.from_numpy(array.astype(np.float32)) for array in (rows, phases)), predictors)
    model = build(config, 0)
    compiled.use_compiled(model)
    model.samples.predict(*tensors)
    other = build(config, 0)
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, str(tmp_path / "missing"))
    cpu_library.library.cache_clear()
    try:
        compiled.use_compiled(other)
    finally:
        cpu_library.library.cache_clear()
    other.samples.predict(*tensors)
    assert calls == ["compiled", "numpy"]
    assert "numpy" in capfd.readouterr().err


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "some"), [("lpc", [1, 7]), ("lpc-long", [5, 12])])
def test_the_kernel_for_gpus_is_the_reference_for_sequences_and_single_steps(kind, some):
    pytest.importorskip("triton", reason="the kernel is tested where Triton is installed")
    from charrnn.cuda.predictor import StepPredictor, predict

    *arrays, predictors, expected = example(kind)
    rows, phases = (torch.from_numpy(array[some].astype(np.float32)) for array in arrays)
    np.testing.assert_array_equal(predict(rows, phases, predictors).numpy(), expected[some])
    single, length = StepPredictor(predictors, len(some), rows.device), history(predictors)
    single.begin(rows[:, :length], phases)
    for t in range(STEPS):
        found = single(rows[:, t : t + length + 1], (phases + t) % PERIOD, predictors)
        np.testing.assert_array_equal(found.numpy(), expected[some, t : t + 2])
