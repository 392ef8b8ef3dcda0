"""The step as ONNX, run by onnxruntime, is the network's own step."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from charrnn.engines import arrays  # noqa: E402
from charrnn.engines.eager import EagerEngine  # noqa: E402
from charrnn.models.cells import CELLS, FEEDBACK_LIMIT  # noqa: E402
from charrnn.models.char_rnn import ModelConfig, build  # noqa: E402
from charrnn.storage import onnx_export  # noqa: E402

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)


def worked(config, seed=0):
    """A network in which also what begins at zero or one is at work."""
    model = build(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    return model


@pytest.fixture(params=[(cell, norm) for cell in CELLS for norm in (False, True)], ids=str)
def model(request):
    cell, norm = request.param
    return worked(replace(CONFIG, cell=cell, layer_norm=norm))


def session(model, tmp_path):
    onnx_export.save(str(tmp_path / "x.onnx"), arrays(model), model.config, {"rate": 8000})
    return onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("streams", [1, 5])
def test_steps_in_onnxruntime_are_the_eager_engines(model, tmp_path, streams):
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
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)  # a norm of three numbers makes rounding larger
        engine.prime(ids[:, t + 1 : t + 2])
        there = [array for layer in engine.get_state()[0] for array in layer]
        for own, array in zip(new, there, strict=True):
            np.testing.assert_allclose(own, array, atol=1e-4)


def test_names_shapes_and_facts_are_the_promised_ones(model, tmp_path):
    step, state = session(model, tmp_path), model.initial_state(1)
    names = {f"state.{i}.{j}": ["N", t.shape[1]] for i, layer in enumerate(state) for j, t in enumerate(layer)}
    assert {i.name: i.shape for i in step.get_inputs()} == {"ids": ["N"], **names}
    assert [o.name for o in step.get_outputs()] == ["logits", *(f"new.{name}" for name in names)]
    assert {o.name: o.shape for o in step.get_outputs()} == {
        "logits": ["N", 7],
        **{f"new.{name}": shape for name, shape in names.items()},
    }
    assert json.loads(step.get_modelmeta().custom_metadata_map["charrnn"]) == {"rate": 8000}


def test_the_limit_of_a_recurrent_output_is_that_of_the_cell():
    assert onnx_export.FEEDBACK_LIMIT == FEEDBACK_LIMIT
    model = worked(replace(CONFIG, cell="lstmor"))
    assert (model.output.scale() < 1).any()  # or the other tests would not see it


def test_one_symbol_one_unit_one_layer(tmp_path):
    step = session(worked(ModelConfig(1, 1, 1, 1)), tmp_path)
    zeros = np.zeros((3, 1), dtype=np.float32)
    logits, _, _ = step.run(None, {"ids": np.zeros(3, dtype=np.int64), "state.0.0": zeros, "state.0.1": zeros})
    assert logits.shape == (3, 1)
