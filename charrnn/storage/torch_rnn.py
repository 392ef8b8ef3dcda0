"""Networks that torch-rnn trained, as checkpoints of ours.

torch-rnn's checkpoint is a table with the network under ``model``, an nn.LanguageModel, whose ``net`` is a list of
layers: nn.LookupTable; then, as often as there are layers, nn.LSTM or nn.VanillaRNN, nn.BatchNormalization between two
nn.View where it was asked for, nn.Dropout where it was asked for; at the end nn.View, nn.Linear, nn.View
(LanguageModel.lua).

Batch normalisation (Ioffe and Szegedy 2015), once trained, multiplies and shifts each unit's output by what it has
learnt, y = a x + c, so it goes into the next layer's matrix and bias: W y + b = (W a) x + (W c + b). The function is
the same. Trained further, though, such a network is one without batch normalisation: its statistics stay as they were.
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
MOST_COLUMNS = 1 << 18  # of a matrix, such as the four gates of 65,536 units
MOST_LAYERS = 1000
UNSEEN = 20.0  # nats by which a byte that the network never saw is less likely than the mean of the others

# Where the gates of ours stand in torch-rnn's matrices: input, forget, output, candidate there; input, forget,
# candidate, output in torch.nn.
_CELLS = {"nn.LSTM": ("lstm", (0, 1, 3, 2)), "nn.VanillaRNN": ("rnn", (0,))}
_BATCH_NORMS = ("nn.BatchNormalization", "cudnn.BatchNormalization")
_LEARNT = ("weight", "bias", "running_mean", "running_var", "running_std")


def load(
    path: str | os.PathLike[str], vocab_file: str | None = None, rate: int = RATE, mulaw: bool = False
) -> Checkpoint:
    """Read torch-rnn's checkpoint, a .t7.

    Parameters
    ----------
    vocab_file
        The .json that torch-rnn's preprocess.py wrote, instead of the vocabulary in the checkpoint; where that has
        none, the .json of the same name beside it is tried.
    rate, mulaw
        What the bytes mean if they are sound; no .t7 says so.

    Returns
    -------
    A network whose log-probabilities are torch-rnn's in evaluation mode, to the rounding of 32-bit floats. Characters
    that all lie in one alphabet of the codec become its 256 (see `_as_bytes`); others keep torch-rnn's order. The
    epoch is 0, since torch-rnn keeps none.

    Raises
    ------
    InputError
        The file is no checkpoint of torch-rnn's, is damaged, or has layers or symbols that charrnn has not.
    OSError
        It cannot be opened.
    """
    root = load_torch7(path)
    try:
        model = root.get("model") if isinstance(root, dict) else None
        if not isinstance(model, TorchObject) or model.name != "nn.LanguageModel":
            raise ValueError("it holds no network of torch-rnn's, which is an nn.LanguageModel called model")
        cell, tensors = _tensors(_layers(model, os.path.getsize(path)))
        characters = _characters(path, root, model, vocab_file)
        if len(characters) != len(tensors["embedding.weight"]):
            raise ValueError(
                f"the network has {len(tensors['embedding.weight'])} symbols, its vocabulary {len(characters)}"
            )
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
    """What the next matrix reads: scale * x + shift of the ``width`` numbers x that the layer before gives."""

    width: int
    scale: Floats | float = 1.0
    shift: Floats | float = 0.0

    def then(self, scale: Floats | float, shift: Floats | float) -> _Input:
        """The same after another step, scale * · + shift."""
        return _Input(self.width, self.scale * scale, self.shift * scale + shift)

    def into(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """The weight (width, M) and bias (M,) that do with x what the given ones do with scale * x + shift."""
        if isinstance(self.scale, float) and isinstance(self.shift, float) and (self.scale, self.shift) == (1, 0):
            return weight, bias  # to the last bit
        scale, shift = (np.broadcast_to(np.float64(v), self.width) for v in (self.scale, self.shift))
        with np.errstate(all="ignore"):  # what is not finite is refused in the end
            return scale[:, None] * weight, shift @ weight + bias


def _layers(model: TorchObject, file_size: int) -> list[TorchObject]:
    """The layers of ``net`` in their order."""
    net = model.fields.get("net")
    modules = net.fields.get("modules") if isinstance(net, TorchObject) else None
    found = [modules.get(float(i + 1)) for i in range(len(modules))] if isinstance(modules, dict) else []
    layers = [layer for layer in found if isinstance(layer, TorchObject)]
    if not layers or len(layers) != len(found):
        raise ValueError("its model has no list of layers")
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"it has {len(layers):,} layers, and {MOST_LAYERS:,} are the most")
    arrays = [layer.fields.get(name) for layer in layers for name in _LEARNT]
    if sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) > file_size:
        raise ValueError("its layers share their weights, and together are larger than the file")
    return layers


def _tensors(layers: list[TorchObject]) -> tuple[str, dict[str, Floats]]:
    """The kind of cell, and the tensors of a CharRNN by name."""
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
            x = x.then(_dropout(layer), 0.0)
        elif layer.name == "nn.Linear":
            bias = _numbers(layer, "bias", 1)
            weight, tensors["output.bias"] = x.into(_numbers(layer, "weight", 2, (len(bias), x.width)).T, bias)
            tensors["output.weight"] = weight.T
        elif layer.name != "nn.View":
            raise ValueError(f"it has a layer of class {layer.name[:60]!r}, and charrnn has none like it")
    if "output.bias" not in tensors or len(set(cells)) != 1:
        raise ValueError(f"its layers are {', '.join(layer.name[:60] for layer in layers[:20])}")
    return cells[0], tensors


def _recurrent(layer: TorchObject, x: _Input) -> dict[str, Floats]:
    """The matrices and bias of an LSTM or RNN: there one, (D+H, gates * H), with a column for each unit of a gate."""
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
    """What batch normalisation multiplies with and adds, (width,) each."""
    mean = _numbers(layer, "running_mean", 1, (width,)).astype(np.float64)
    with np.errstate(all="ignore"):  # what is not finite is refused in the end
        if "running_std" in layer.fields:  # before version 2 it was kept, and was the inverse
            scale = _numbers(layer, "running_std", 1, (width,)).astype(np.float64)
        else:
            variance = _numbers(layer, "running_var", 1, (width,)).astype(np.float64)
            scale = 1 / np.sqrt(variance + _number(layer, "eps"))
        if "weight" in layer.fields:
            scale = scale * _numbers(layer, "weight", 1, (width,))
        shift = -mean * scale
        if "bias" in layer.fields:
            shift = shift + _numbers(layer, "bias", 1, (width,))
    return scale, shift


def _dropout(layer: TorchObject) -> float:
    """What dropout multiplies with in evaluation mode: nothing, but for the first version of nn.Dropout."""
    return 1.0 if layer.fields.get("v2") else 1 - _number(layer, "p")


def _numbers(layer: TorchObject, name: str, dimensions: int, shape: tuple[int, ...] | None = None) -> Floats:
    """A tensor of a layer, with ``dimensions``, or of one ``shape``."""
    array = layer.fields.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != dimensions or not array.size:
        raise ValueError(f"the {name} of its {layer.name} is missing, or of an unknown form")
    if shape and array.shape != shape:
        raise ValueError(f"the {name} of its {layer.name} is {array.shape}, and not {shape} as its neighbours want")
    if max(array.shape[1:], default=1) > MOST_COLUMNS:
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
    """The symbols in their order, each one character."""
    tokens = _read_json(Path(vocab_file)) if vocab_file else model.fields.get("idx_to_token")
    if vocab_file and not tokens:
        raise InputError(f"{vocab_file} has no idx_to_token, as the .json of torch-rnn's preprocess.py has.")
    beside = Path(path).with_suffix(".json")
    if not tokens and beside.is_file():
        tokens = _read_json(beside)
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
            raise ValueError(
                f"its symbol {i + 1} is {shown}, and has to be one character; preprocess.py makes others "
                "with --encoding bytes, and so do versions of it for words or syllables"
            )
        characters.append(character)
    if len(set(characters)) != len(characters):
        raise ValueError("two symbols of its vocabulary are the same")
    return "".join(characters)


def _read_json(path: Path) -> dict[float, Any]:
    """The symbols of preprocess.py's .json by number; empty if it is another .json, such as torch-rnn's history."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tokens = data.get("idx_to_token") if isinstance(data, dict) else None
        return {float(number): token for number, token in tokens.items()} if isinstance(tokens, dict) else {}
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not as torch-rnn's preprocess.py writes a vocabulary.") from None


def _as_bytes(tensors: dict[str, Floats], known: NDArray[np.int64]) -> None:
    """Turn the tensors of a network of the bytes ``known`` (V,), in its order, into one of all 256 with id = byte.

    A byte that it never saw is read as the nearest one that it knows, as if a louder sound were clipped. Its
    logit is the mean of the known ones less `UNSEEN`. By Jensen's inequality the mean is at most
    log(sum(exp)) - log(V), so a known byte's log-probability falls by at most (256 - V) / V * exp(-UNSEEN), less than
    1e-6, whatever the state; and it stays near enough to be learnt when training goes on with another sound.
    """
    every = np.arange(256)
    nearest = np.abs(known[None, :] - every[:, None]).argmin(axis=1)
    tensors["embedding.weight"] = tensors["embedding.weight"][nearest]
    weight, bias = tensors["output.weight"], tensors["output.bias"]
    tensors["output.weight"] = np.repeat(weight.mean(axis=0, keepdims=True, dtype=np.float64), 256, axis=0)
    tensors["output.bias"] = np.repeat(bias.mean(keepdims=True, dtype=np.float64) - UNSEEN, 256)
    tensors["output.weight"][known], tensors["output.bias"][known] = weight, bias


def _built(cell: str, tensors: dict[str, Floats], dropout: Any) -> CharRNN:
    """The network of the tensors, in evaluation mode. It takes them out of ``tensors``, so that few are there twice."""
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
    """The iterations that it was trained for."""
    step = root.get("i") if isinstance(root.get("i"), float) else _last(root.get("val_loss_history_it"))
    return int(step) if step is not None and math.isfinite(step) and 0 <= step < 2**53 else 0


def _last(history: Any) -> float | None:
    """The newest value of a history, or None where there is none."""
    if not isinstance(history, Numbers):
        return None
    value = float(history.values[history.keys.argmax()])
    return value if math.isfinite(value) else None
