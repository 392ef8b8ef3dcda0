"""A network's step as ONNX, for the programs that run such files.

    ids (N,) int64, state.0.0 (N, ·), ... -> logits (N, V), new.state.0.0 (N, ·), ...

N is free, and the arrays of the state have the names, the places and the shapes of a resume file's. Whoever runs it
hands the new state back in with the next symbols; zeros are the state before the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bytecodec import __version__
from bytecodec.console import open_output
from bytecodec.errors import InputError
from charrnn.models.config import state_sizes

if TYPE_CHECKING:
    from onnx import ModelProto

Floats = NDArray[np.float32]

OPSET, IR_VERSION = 17, 8  # of 2022: the first with LayerNormalization
STATE = "state.{}.{}"  # of a layer, the place in its state
NEW = "new."  # before it: what the step makes of it
METADATA_KEY = "charrnn"  # one JSON text in the model's metadata
MOST_BYTES = 2**31 - 2**20  # what protobuf holds in one file, but for what stands around the weights
EPSILON = 1e-5  # of torch's LayerNorm
FED_BACK = "output.recurrent_weight"  # of an lstmor: its rows limited as charrnn.models.cells does it
PRODUCT = ".product"  # what the node that multiplies by a weight is called after it
FEEDBACK_LIMIT = 0.99  # as there; that module takes torch


def needed(*packages: str) -> None:
    """Raise an InputError that says how to get packages, onnx or onnxruntime, where they are not installed."""
    for name in packages:
        try:
            import_module(name)
        except ImportError:
            raise InputError(
                f"{name} is not installed, which this takes: pip install 'charrnn-sound[onnx]' brings it."
            ) from None


def installed() -> bool:
    """Whether both packages are there."""
    try:
        needed("onnx", "onnxruntime")
    except InputError:
        return False
    return True


def save(path: str, tensors: Mapping[str, Floats], config: Any, facts: Mapping[str, Any]) -> None:
    """Write a network's step to a file that appears whole or not at all.

    Parameters
    ----------
    tensors
        The weights by the names of a checkpoint, float32.
    config
        A `charrnn.models.char_rnn.ModelConfig` of any cell.
    facts
        What is known of the network, which the file keeps as JSON in its metadata.

    Raises
    ------
    InputError
        The onnx package is not installed, or the network is larger than an ONNX file can be.
    """
    needed("onnx")
    if sum(array.nbytes for array in tensors.values()) > MOST_BYTES:
        raise InputError("the network is larger than the 2 GB that an ONNX file can hold.")
    data = step_model(tensors, config, facts).SerializeToString()
    with open_output(path) as file:
        file.write(data)


def step_model(tensors: Mapping[str, Floats], config: Any, facts: Mapping[str, Any] | None = None) -> ModelProto:
    """The step as a model; see `save`, and `charrnn.models.char_rnn.CharRNN.step` for what it computes."""
    from onnx import TensorProto, checker, helper

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

    sizes = {
        STATE.format(i, j): size
        for i, layer_sizes in enumerate(state_sizes(config))
        for j, size in enumerate(layer_sizes)
    }
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
    helper.set_model_props(model, {METADATA_KEY: json.dumps(facts or {})})
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants as they come; every name is used once."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.tensors = tensors

    def constant(self, name: str, array: NDArray[Any] | None = None) -> str:
        """An array, or the network's own tensor of that name."""
        from onnx import numpy_helper

        array = self.tensors[name] if array is None else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node of one output, which has the node's name."""
        return self._add(kind, inputs, [name or f"{kind}.{len(self.nodes)}"], attributes)[0]

    def split(self, x: str, parts: int) -> list[str]:
        """An array (N, ·) cut into so many equal parts."""
        number = len(self.nodes)
        return self._add("Split", (x,), [f"Split.{number}.{part}" for part in range(parts)], {"axis": 1})

    def product(self, x: str, weight: str, name: str = "", rows: Floats | None = None) -> str:
        """What x (N, D) times the transpose of a weight (M, D) is, the weight laid out as MatMul takes it."""
        rows = self.tensors[weight] if rows is None else rows
        return self.add("MatMul", x, self.constant(weight, rows.T), name=name or weight + PRODUCT)

    def _add(self, kind: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs


def _layer(graph: _Graph, config: Any, layer: int, x: str) -> str:
    """What a layer hands on; its new state gets its name."""
    part = f"layers.{layer}."
    h, c = STATE.format(layer, 0), STATE.format(layer, 1)
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


def _output(graph: _Graph, config: Any, x: str) -> None:
    """The logits; a recurrent output layer's are its new state as well."""
    product, bias = graph.product(x, "output.weight"), graph.constant("output.bias")
    if config.cell != "lstmor":
        graph.add("Add", product, bias, name="logits")
        return
    state, weight = STATE.format(config.layers, 0), graph.tensors[FED_BACK]
    limited = weight / np.maximum(np.abs(weight).sum(axis=1, keepdims=True) / FEEDBACK_LIMIT, 1)
    back = graph.product(state, FED_BACK, rows=limited.astype(np.float32))
    y = graph.add("Add", graph.add("Add", product, bias), back, name=NEW + state)
    graph.add("Identity", y, name="logits")
