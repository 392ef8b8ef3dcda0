"""Export of one step of a network to ONNX.

    ids (N,) int64, state.0.0 (N, ·), ... -> logits (N, V), new.state.0.0 (N, ·), ...

N is free. The arrays of the state have the names, order and shapes of those in a file of --state-out. The caller passes
the new state back in with the next symbols; the initial state is zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bytecodec import __version__
from bytecodec.errors import InputError
from bytecodec.files import open_output
from charrnn.models.config import FEEDBACK_LIMIT, STATE_NAME, ModelConfig, state_shapes

if TYPE_CHECKING:
    from onnx import ModelProto

Floats = NDArray[np.float32]

OPSET, IR_VERSION = 17, 8  # of 2022: the first with LayerNormalization
NEW = "new."  # prefix of the state after the step
METADATA_KEY = "charrnn"  # one JSON text in the model's metadata
MAX_BYTES = 2**31 - 2**20  # of weights; a protobuf file holds at most 2 GB, including the graph and metadata
EPSILON = 1e-5  # of torch's LayerNorm
RECURRENT_WEIGHT = "output.recurrent_weight"  # of an lstmor; its rows are limited as in charrnn.models.cells
PRODUCT = ".product"  # suffix of the node that multiplies by a weight


def require(*packages: str) -> None:
    """Raise InputError, with the command to install them, if a package, onnx or onnxruntime, is missing."""
    for name in packages:
        try:
            import_module(name)
        except ImportError:
            raise InputError(
                f"this needs {name}, which is not installed: install it with pip install 'charrnn-sound[onnx]'."
            ) from None


def save(path: str, tensors: Mapping[str, Floats], config: ModelConfig, metadata: Mapping[str, Any]) -> None:
    """Write the step of a network, with its float32 weights by their names in a checkpoint, to a file.

    The network has any cell, and reads symbols alone. The file appears whole or not at all. Its metadata hold the
    network's metadata as JSON. Raise InputError if the network is larger than an ONNX file can be.
    """
    require("onnx")
    if sum(array.nbytes for array in tensors.values()) > MAX_BYTES:
        raise InputError("the network is larger than the 2 GB that an ONNX file can hold.")
    data = step_model(tensors, config, metadata).SerializeToString()
    with open_output(path) as file:
        file.write(data)


def step_model(
    tensors: Mapping[str, Floats], config: ModelConfig, metadata: Mapping[str, Any] | None = None
) -> ModelProto:
    """Return the step as a model; see `save`, and `charrnn.models.char_rnn.CharRNN.step` for what it computes."""
    from onnx import TensorProto, checker, helper

    if config.reads_samples:
        raise InputError(
            "this network reads samples as numbers, which an ONNX step cannot do: "
            "train with --context 0 --prediction none."
        )
    graph = _Graph(tensors)
    x = graph.add("Gather", graph.constant("embedding.weight"), "ids")
    for layer in range(config.layers):
        x = _layer(graph, config, layer, x)
        if config.layer_norm:
            norm = [graph.constant(f"norms.{layer}.{part}") for part in ("weight", "bias")]
            x = graph.add("LayerNormalization", x, *norm, axis=-1, epsilon=EPSILON)
    _output(graph, config, x)

    def array(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    sizes = {name: size for name, (_, size) in state_shapes(config, 1).items()}
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])
    inputs = [ids, *(array(name, "N", size) for name, size in sizes.items())]
    outputs = [array("logits", "N", config.vocab_size), *(array(NEW + name, "N", size) for name, size in sizes.items())]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "step", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="charrnn",
        producer_version=__version__,
    )
    helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata or {})})
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants in the order of their creation; every name is used once."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.tensors = tensors

    def constant(self, name: str, array: NDArray[Any] | None = None) -> str:
        """Add an array, by default the network's tensor of that name; return the name."""
        from onnx import numpy_helper

        array = self.tensors[name] if array is None else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; return their common name."""
        return self._add(kind, inputs, [name or f"{kind}.{len(self.nodes)}"], attributes)[0]

    def split(self, x: str, parts: int) -> list[str]:
        """Split an array (N, ·) into equal parts; return their names."""
        number = len(self.nodes)
        return self._add("Split", (x,), [f"Split.{number}.{part}" for part in range(parts)], {"axis": 1})

    def product(self, x: str, weight: str, name: str = "", rows: Floats | None = None) -> str:
        """Multiply x (N, D) by the transpose of a weight (M, D); return the name of the product."""
        rows = self.tensors[weight] if rows is None else rows
        return self.add("MatMul", x, self.constant(weight, rows.T), name=name or weight + PRODUCT)

    def _add(self, kind: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs


def _layer(graph: _Graph, config: ModelConfig, layer: int, x: str) -> str:
    """Add a layer; return the name of its output."""
    part = f"layers.{layer}."
    h, c = STATE_NAME.format(layer, 0), STATE_NAME.format(layer, 1)
    add = graph.add
    from_x = add("Add", graph.product(x, part + "weight_ih_l0"), graph.constant(part + "bias_ih_l0"))
    from_h = graph.product(h, part + "weight_hh_l0")
    if config.cell == "rnn":
        return add("Tanh", add("Add", from_x, from_h), name=NEW + h)
    if config.cell == "gru":
        xr, xz, xn = graph.split(from_x, 3)
        hr, hz, hn = graph.split(add("Add", from_h, graph.constant(part + "bias_hh_l0")), 3)
        r, z = add("Sigmoid", add("Add", xr, hr)), add("Sigmoid", add("Add", xz, hz))
        n = add("Tanh", add("Add", xn, add("Mul", r, hn)))
        return add("Add", n, add("Mul", z, add("Sub", h, n)), name=NEW + h)  # (1 - z) n + z h
    i, f, g, o = graph.split(add("Add", from_x, from_h), 4)
    kept = add("Mul", add("Sigmoid", f), c)
    new_c = add("Add", kept, add("Mul", add("Sigmoid", i), add("Tanh", g)), name=NEW + c)
    new_h = add("Mul", add("Sigmoid", o), add("Tanh", new_c), name="" if config.cell == "lstmp" else NEW + h)
    return new_h if config.cell != "lstmp" else graph.product(new_h, part + "weight_hr_l0", name=NEW + h)


def _output(graph: _Graph, config: ModelConfig, x: str) -> None:
    """Add the output layer; the logits of a recurrent one are also its new state."""
    product, bias = graph.product(x, "output.weight"), graph.constant("output.bias")
    if config.cell != "lstmor":
        graph.add("Add", product, bias, name="logits")
        return
    state, weight = STATE_NAME.format(config.layers, 0), graph.tensors[RECURRENT_WEIGHT]
    limited = weight / np.maximum(np.abs(weight).sum(axis=1, keepdims=True) / FEEDBACK_LIMIT, 1)
    back = graph.product(state, RECURRENT_WEIGHT, rows=limited.astype(np.float32))
    y = graph.add("Add", graph.add("Add", product, bias), back, name=NEW + state)
    graph.add("Identity", y, name="logits")
