"""Conversion of torch-rnn networks to checkpoints of charrnn.

A checkpoint of torch-rnn is a table with the network under ``model``, an nn.LanguageModel, whose ``net`` is a list of
layers: nn.LookupTable; for each layer nn.LSTM or nn.VanillaRNN, optionally nn.BatchNormalization between two nn.View,
optionally nn.Dropout; at the end nn.View, nn.Linear, nn.View (LanguageModel.lua).

A trained batch normalisation (Ioffe and Szegedy 2015) scales and shifts the output of each unit, y = a x + c. The
conversion includes it in the next layer's matrix and bias: W y + b = (W a) x + (W c + b). The function is the same, but
training the converted network further does not update the statistics.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bytecodec import ALPHABETS, alphabet_of
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab
from charrnn.models.char_rnn import CharRNN
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint import Checkpoint, set_model_tensors
from charrnn.storage.torch7 import Numbers, TorchObject
from charrnn.storage.torch7 import load as load_torch7

Floats = NDArray[np.floating[Any]]
RATE = 11025
MAX_COLUMNS = 1 << 18  # of a matrix: the four gates of 65,536 units
MAX_LAYERS = 1000
UNSEEN = 20.0  # nats by which a byte that is not in the vocabulary is less likely than the mean of the others

# Positions in torch-rnn's matrices (input, forget, output, candidate) of the gates in the order of torch.nn (input,
# forget, candidate, output).
_CELLS = {"nn.LSTM": ("lstm", (0, 1, 3, 2)), "nn.VanillaRNN": ("rnn", (0,))}
_BATCH_NORMS = ("nn.BatchNormalization", "cudnn.BatchNormalization")
_LEARNT = ("weight", "bias", "running_mean", "running_var", "running_std")


def load(
    path: str | os.PathLike[str], vocab_file: str | None = None, rate: int = RATE, mulaw: bool = False
) -> Checkpoint:
    """Read a checkpoint of torch-rnn, a .t7 file, or raise InputError if charrnn cannot represent it.

    The network has the log-probabilities of torch-rnn in evaluation mode, up to the rounding of 32-bit floats. A
    vocabulary within one alphabet of the codec becomes its 256 characters (see `_as_bytes`); any other keeps its order.
    The epoch is 0, since torch-rnn does not store it.

    ``vocab_file`` is the .json file of torch-rnn's preprocess.py, by default the .json file of the same name if the
    checkpoint has no vocabulary. Rate and encoding of the sound are not in a .t7 file; they are not used for text.
    """
    root = load_torch7(path)
    try:
        model = root.get("model") if isinstance(root, dict) else None
        if not isinstance(model, TorchObject) or model.name != "nn.LanguageModel":
            raise ValueError("it has no network of torch-rnn, an nn.LanguageModel called model")
        cell, tensors = _tensors(_layers(model, os.path.getsize(path)))
        characters = _characters(path, root, model, vocab_file)
        if len(characters) != (symbols := len(tensors["embedding.weight"])):
            raise ValueError(f"the network has {symbols} symbols, its vocabulary {len(characters)}")
        alphabet = alphabet_of(characters)
        vocab = Vocab.of_alphabet(alphabet) if alphabet else Vocab(characters)
        if alphabet:
            _as_bytes(tensors, np.array([ord(c) - ALPHABETS[alphabet] for c in characters]))
        return Checkpoint(
            _built(cell, tensors, model.fields.get("dropout", 0.0)),
            vocab,
            step=_step(root),
            rate=rate if alphabet else None,
            encoding=("mulaw" if mulaw else "linear") if alphabet else None,
            train_loss=_last(root.get("train_loss_history")),
            val_loss=_last(root.get("val_loss_history")),
            path=os.fspath(path),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{os.fspath(path)} cannot be converted: {error}.") from None


@dataclass(frozen=True)
class _Input:
    """Input of the next matrix: scale * x + shift of the ``width`` outputs x of the layer before."""

    width: int
    scale: Floats | float = 1.0
    shift: Floats | float = 0.0

    def then(self, scale: Floats | float, shift: Floats | float) -> _Input:
        """Return the input after another step, scale * · + shift."""
        return _Input(self.width, self.scale * scale, self.shift * scale + shift)

    def into(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Return weight (width, M) and bias (M,) with the same result for x as the given ones for scale * x + shift."""
        if isinstance(self.scale, float) and isinstance(self.shift, float) and (self.scale, self.shift) == (1, 0):
            return weight, bias  # without any rounding
        scale, shift = (np.broadcast_to(np.float64(v), self.width) for v in (self.scale, self.shift))
        with np.errstate(all="ignore"):  # `_built` rejects weights that are not finite
            return scale[:, None] * weight, shift @ weight + bias


def _layers(model: TorchObject, file_size: int) -> list[TorchObject]:
    """Return the layers of ``net`` in order."""
    net = model.fields.get("net")
    modules = net.fields.get("modules") if isinstance(net, TorchObject) else None
    found = [modules.get(float(i + 1)) for i in range(len(modules))] if isinstance(modules, dict) else []
    layers = [layer for layer in found if isinstance(layer, TorchObject)]
    if not layers or len(layers) != len(found):
        raise ValueError("its model has no list of layers")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"it has {len(layers):,} layers, and at most {MAX_LAYERS:,} are possible")
    arrays = [layer.fields.get(name) for layer in layers for name in _LEARNT]
    if sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) > file_size:
        raise ValueError("its layers share their weights, and together are larger than the file")
    return layers


def _tensors(layers: list[TorchObject]) -> tuple[str, dict[str, Floats]]:
    """Return the cell, and the tensors of a CharRNN by name."""
    if layers[0].name != "nn.LookupTable":
        raise ValueError(f"its first layer is {layers[0].name[:60]!r}, and not 'nn.LookupTable'")
    tensors = {"embedding.weight": _numbers(layers[0], "weight", 2)}
    x = _Input(tensors["embedding.weight"].shape[1])
    cells: list[str] = []
    for layer in layers[1:]:
        if "output.bias" in tensors and layer.name != "nn.View":
            raise ValueError("it has layers after 'nn.Linear'")
        if layer.name in _CELLS:
            name = f"layers.{len(cells)}."
            cells.append(_CELLS[layer.name][0])
            matrices = _recurrent(layer, x)
            tensors.update({f"{name}{key}_l0": matrix for key, matrix in matrices.items()})
            x = _Input(matrices["weight_hh"].shape[1])
        elif layer.name in _BATCH_NORMS:
            x = x.then(*_batch_norm(layer, x.width))
        elif layer.name == "nn.Dropout":
            x = x.then(1.0 if layer.fields.get("v2") else 1 - _number(layer, "p"), 0.0)  # version 1 scaled it here
        elif layer.name == "nn.Linear":
            bias = _numbers(layer, "bias", 1)
            weight, tensors["output.bias"] = x.into(_numbers(layer, "weight", 2, (len(bias), x.width)).T, bias)
            tensors["output.weight"] = weight.T
        elif layer.name != "nn.View":
            raise ValueError(f"it has a layer of class {layer.name[:60]!r}, which charrnn does not support")
    if "output.bias" not in tensors or len(set(cells)) != 1:
        raise ValueError(f"its layers are {', '.join(layer.name[:60] for layer in layers[:20])}")
    return cells[0], tensors


def _recurrent(layer: TorchObject, x: _Input) -> dict[str, Floats]:
    """Return matrices and bias of an LSTM or RNN; torch-rnn has one matrix (D+H, gates * H), a column per unit."""
    _, order = _CELLS[layer.name]
    bias = _numbers(layer, "bias", 1)
    units = len(bias) // len(order)
    weight = _numbers(layer, "weight", 2, (x.width + units, len(bias)))
    if units * len(order) != len(bias):
        raise ValueError(f"the bias of its {layer.name} has {len(bias)} numbers for {len(order)} gates")
    weight_ih, bias = x.into(weight[: x.width], bias)
    parts = [slice(gate * units, (gate + 1) * units) for gate in order]
    return {
        "weight_ih": np.concatenate([weight_ih[:, part] for part in parts], axis=1).T,
        "weight_hh": np.concatenate([weight[x.width :, part] for part in parts], axis=1).T,
        "bias_ih": np.concatenate([bias[part] for part in parts]),
    }


def _batch_norm(layer: TorchObject, width: int) -> tuple[Floats, Floats]:
    """Return the scale and the shift of batch normalisation, (width,) each."""

    def vector(name: str) -> Floats:
        return _numbers(layer, name, 1, (width,)).astype(np.float64)

    with np.errstate(all="ignore"):  # `_built` rejects weights that are not finite
        if "running_std" in layer.fields:  # version 1 stored the inverse of the standard deviation
            scale = vector("running_std")
        else:
            scale = 1 / np.sqrt(vector("running_var") + _number(layer, "eps"))
        if "weight" in layer.fields:
            scale = scale * vector("weight")
        shift = -vector("running_mean") * scale
        if "bias" in layer.fields:
            shift = shift + vector("bias")
    return scale, shift


def _numbers(layer: TorchObject, name: str, dimensions: int, shape: tuple[int, ...] | None = None) -> Floats:
    """Return a tensor of a layer; raise ValueError if it does not have these dimensions or this shape."""
    array = layer.fields.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != dimensions or not array.size:
        raise ValueError(f"the {name} of its {layer.name} is missing, or is not an array of the right type")
    if shape and array.shape != shape:
        raise ValueError(
            f"the {name} of its {layer.name} is {array.shape}, and must be {shape} to fit the other layers"
        )
    if max(array.shape[1:], default=1) > MAX_COLUMNS:
        raise ValueError(f"the {name} of its {layer.name} is {array.shape}, which is too large")
    return array


def _number(layer: TorchObject, name: str) -> float:
    value = layer.fields.get(name)
    if not isinstance(value, float):
        raise ValueError(f"the {name} of its {layer.name} is missing")
    return value


def _characters(
    path: str | os.PathLike[str], root: Mapping[Any, Any], model: TorchObject, vocab_file: str | None
) -> str:
    """Return the symbols in order, each of which is one character."""
    tokens = _read_json(Path(vocab_file)) if vocab_file else model.fields.get("idx_to_token")
    if vocab_file and not tokens:
        raise InputError(f"{vocab_file} has no idx_to_token: give the .json file of torch-rnn's preprocess.py.")
    json_path = Path(path).with_suffix(".json")
    if not tokens and json_path.is_file():
        tokens = _read_json(json_path)
    if not isinstance(tokens, dict) or not tokens:
        options = root.get("opt")
        source = options.get("input_json") if isinstance(options, dict) else None
        named = f", which is called {Path(source).name[:60]!r} there" if isinstance(source, str) and source else ""
        raise ValueError(f"it has no vocabulary: give the .json of torch-rnn's preprocess.py with --vocab{named}")
    characters: list[str] = []
    for i in range(len(tokens)):
        character = tokens.get(float(i + 1))
        if not isinstance(character, str) or len(character) != 1 or "\ud800" <= character <= "\udfff":
            shown = repr(character[:30]) if isinstance(character, str) else "missing"
            raise ValueError(f"its symbol {i + 1} is {shown}, and must be one character, as without --encoding bytes")
        characters.append(character)
    if len(set(characters)) != len(characters):
        raise ValueError("two symbols of its vocabulary are the same")
    return "".join(characters)


def _read_json(path: Path) -> dict[float, Any]:
    """Return the symbols of preprocess.py's .json by number; {} for another .json, such as torch-rnn's history."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tokens = data.get("idx_to_token") if isinstance(data, dict) else None
        return {float(number): token for number, token in tokens.items()} if isinstance(tokens, dict) else {}
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a vocabulary of torch-rnn's preprocess.py.") from None


def _as_bytes(tensors: dict[str, Floats], values: NDArray[np.int64]) -> None:
    """Convert the tensors of a network of the bytes ``values`` (V,), in this order, to all 256 with id = byte.

    Another byte has the embedding of the nearest of these bytes, as if a louder sound were clipped. Its logit is the
    mean of theirs less `UNSEEN`. By Jensen's inequality the mean is at most log(sum(exp)) - log(V), so the
    log-probability of each of the V bytes falls by at most (256 - V) / V * exp(-UNSEEN), less than 1e-6, whatever the
    state; and the other bytes can still be learnt when the network is trained on another sound.
    """
    every = np.arange(256)
    nearest = np.abs(values[None, :] - every[:, None]).argmin(axis=1)
    tensors["embedding.weight"] = tensors["embedding.weight"][nearest]
    weight, bias = tensors["output.weight"], tensors["output.bias"]
    tensors["output.weight"] = np.repeat(weight.mean(axis=0, keepdims=True, dtype=np.float64), 256, axis=0)
    tensors["output.bias"] = np.repeat(bias.mean(keepdims=True, dtype=np.float64) - UNSEEN, 256)
    tensors["output.weight"][values], tensors["output.bias"][values] = weight, bias


def _built(cell: str, tensors: dict[str, Floats], dropout: Any) -> CharRNN:
    """Return the network in evaluation mode. It empties ``tensors``, so that few arrays are in memory twice."""
    with np.errstate(over="ignore"):
        single = {name: np.array(tensors.pop(name), dtype=np.float32, order="C") for name in list(tensors)}
    if not all(np.isfinite(array).all() for array in single.values()):
        raise ValueError("its weights are not all finite numbers")
    symbols, wordvec_size = single["embedding.weight"].shape
    units = single["output.weight"].shape[1]
    layers = sum(name.endswith("weight_hh_l0") for name in single)
    config = ModelConfig(symbols, wordvec_size, units, layers, cell, dropout)
    with torch.device("meta"):
        model = CharRNN(config)
    set_model_tensors(model, {name: torch.from_numpy(array) for name, array in single.items()}, assign=True)
    return model.eval()


def _step(root: Mapping[Any, Any]) -> int:
    """Return the number of iterations of training, or 0 if unknown."""
    step = root.get("i") if isinstance(root.get("i"), float) else _last(root.get("val_loss_history_it"))
    return int(step) if step is not None and math.isfinite(step) and 0 <= step < 2**53 else 0


def _last(history: Any) -> float | None:
    """Return the newest value of a history, or None if there is none."""
    if not isinstance(history, Numbers):
        return None
    value = float(history.values[history.keys.argmax()])
    return value if math.isfinite(value) else None
