"""An exported step, run by onnxruntime, computes what the network's own step computes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from charrnn.engines import arrays  # noqa: E402
from charrnn.engines.eager import EagerEngine  # noqa: E402
from charrnn.models.char_rnn import ModelConfig, build  # noqa: E402
from charrnn.storage import onnx_export  # noqa: E402

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)


def random_network(config, seed=0):
    """Return a network whose parameters are all random, also those that are zero or one at first."""
    model = build(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    return model


def session(model, tmp_path):
    onnx_export.save(str(tmp_path / "x.onnx"), arrays(model), model.config, {"rate": 8000})
    return onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("cell", "layer_norm", "streams"),
    [
        ("lstm", False, 1),
        ("lstm", True, 5),
        ("lstmp", True, 1),
        ("lstmor", False, 5),
        ("gru", True, 5),
        ("rnn", False, 1),
    ],
)
def test_steps_in_onnxruntime_are_those_of_the_eager_engine(tmp_path, cell, layer_norm, streams):
    model = random_network(replace(CONFIG, cell=cell, layer_norm=layer_norm))
    step = session(model, tmp_path)
    ids = np.random.default_rng(0).integers(0, 7, (streams, 12))
    engine = EagerEngine(model, streams)
    engine.prime(ids[:, :1])
    state = model.initial_state(streams)
    feed = {f"state.{i}.{j}": zeros.numpy() for i, layer in enumerate(state) for j, zeros in enumerate(layer)}
    for t in range(11):
        logits, *new = step.run(None, {"ids": ids[:, t], **feed})
        feed = dict(zip(feed, new, strict=True))
        with torch.no_grad():
            expected, state = model.step(torch.from_numpy(ids[:, t]), state)
        np.testing.assert_allclose(
            logits, expected.numpy(), atol=1e-4
        )  # layer norm of three numbers amplifies rounding
        engine.prime(ids[:, t + 1 : t + 2])
        eager = [array for layer in engine.get_state()[0] for array in layer]
        for own, array in zip(new, eager, strict=True):
            np.testing.assert_allclose(own, array, atol=1e-4)


def test_names_shapes_and_metadata_are_the_documented_ones(tmp_path):
    model = random_network(replace(CONFIG, cell="lstmor"))
    step, state = session(model, tmp_path), model.initial_state(1)
    names = {f"state.{i}.{j}": ["N", t.shape[1]] for i, layer in enumerate(state) for j, t in enumerate(layer)}
    assert {i.name: i.shape for i in step.get_inputs()} == {"ids": ["N"], **names}
    assert [o.name for o in step.get_outputs()] == ["logits", *(f"new.{name}" for name in names)]
    assert {o.name: o.shape for o in step.get_outputs()} == {
        "logits": ["N", 7],
        **{f"new.{name}": shape for name, shape in names.items()},
    }
    assert json.loads(step.get_modelmeta().custom_metadata_map["charrnn"]) == {"rate": 8000}


def test_the_row_sums_of_a_recurrent_output_are_limited_in_these_tests():
    model = random_network(replace(CONFIG, cell="lstmor"))
    assert (model.output.scale() < 1).any()


def test_a_network_of_one_symbol_one_unit_and_one_layer_is_exported(tmp_path):
    step = session(random_network(ModelConfig(1, 1, 1, 1)), tmp_path)
    zeros = np.zeros((3, 1), dtype=np.float32)
    logits, _, _ = step.run(None, {"ids": np.zeros(3, dtype=np.int64), "state.0.0": zeros, "state.0.1": zeros})
    assert logits.shape == (3, 1)
