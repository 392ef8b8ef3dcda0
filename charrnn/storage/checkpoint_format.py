"""Checkpoints and hidden states as files, read without torch: safetensors files, written whole or not at all.

This module unpickles nothing, so an untrusted file cannot run code. `load` lists how a checkpoint is checked.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from bytecodec.errors import InputError, first_line, is_utf8, printable
from bytecodec.files import open_output
from charrnn.data.vocab import Vocab
from charrnn.models.config import (
    ModelConfig,
    check_finite,
    check_stream,
    named_state,
    state_of,
    state_shapes,
    state_sizes,
    weight_shapes,
)
from charrnn.storage import run_dir, schema
from charrnn.storage.schema import MAX_SHOWN, quote

FORMAT = 4  # 2 added networks that read samples; 3 and 4 changed what those with predictions read
PREDICTIONS_FORMAT = 4  # the first with the present predictions; networks without them are also read from older files
KIND = "symbols"
STREAMS_KIND = "streams"
STATES = (STREAMS_KIND, "frame-streams")  # kinds of a state that sampling continues from
#: Errors that the constructors of a network raise for a damaged file; the last two are torch's, for sizes.
LOAD_ERRORS = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32"}  # numpy's names
MAX_HEADER = 1 << 25  # bytes of JSON before the tensors; safetensors itself allows 100 MB
MAX_METADATA = 1 << 24  # characters of JSON; a vocabulary of all 1.1 million characters, escaped, is shorter
OTHER_NETWORK = "{} is damaged, or a state of another network: {}. Name the network that wrote it."
METADATA_KEY = "charrnn"  # one JSON text in safetensors' metadata
KIND_NAMES = {  # descriptions of each kind of file in messages
    KIND: "checkpoint of a character network",
    "frames": "checkpoint of a frame predictor",
    "resume": "resume file of a run",
    STREAMS_KIND: "sampling state of a character network",
    "frame-streams": "sampling state of a frame predictor",
}
REMEDIES = {  # for a file that is not what was expected, by the first words of its name
    "checkpoint": "name a run or another .safetensors file",
    "resume file": "start a new run from a checkpoint with --init-from",
    "sampling state": "name a file that --state-out wrote",
}
TensorInfo = tuple[tuple[int, ...], str]  # shape and type


@dataclass(kw_only=True)
class CheckpointMeta:
    """Metadata of a trained network."""

    step: int = 0  # iterations of training
    epoch: float = 0.0
    rate: int | None = None  # sampling rate in Hz of the sound that it was trained on; None for text
    encoding: str | None = None  # of a byte of that sound, linear or mulaw; None for text
    sound: dict[str, Any] | None = None  # a `charrnn.data.recordings.SoundOptions.to_json`; None if unknown
    train_loss: float | None = None  # in nats per symbol; None if not measured, as the next one
    val_loss: float | None = None
    level: float | None = None  # root mean square of the training part's samples in steps; None without predictions
    loudest: float | None = None  # that of its loudest block, or None
    calibration: float | None = None  # factor of temperatures in sampling; None if not calibrated
    path: str = ""  # file from which it was read


@dataclass
class StoredCheckpoint(CheckpointMeta):
    """A checkpoint with its weights as arrays by name; `charrnn.storage.checkpoint.to_torch` makes a torch module."""

    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    vocab: Vocab


def load(path: str | Path) -> StoredCheckpoint:
    """Read a checkpoint, or a run directory's newest one. Each step checks what the next one relies on:

    1. The file is complete, and its header is of a sensible size (`_open`).
    2. The metadata have a supported format and kind, and each field a possible value (`read_metadata`).
    3. The vocabulary and the configuration are possible, and have the same number of symbols.
    4. The names, shapes and types of the tensors are those of the network (`check_tensor_info`), so a small file cannot
       make the program allocate much memory.
    5. Only then are the weights read, and all of them are finite (`charrnn.models.config.check_finite`). Float16
       weights are converted to float32.

    Raise InputError if one of them fails.
    """
    path = run_dir.checkpoint_path(path)
    metadata = read_metadata(path, KIND)
    try:
        vocab, config = Vocab.from_json(metadata["vocab"]), ModelConfig.from_json(metadata["model"])
        if config.predictors and metadata["format"] < PREDICTIONS_FORMAT:
            raise InputError(f"{path} is from an earlier version, with other predictions: train a new network.")
        if config.vocab_size != len(vocab):
            raise ValueError(f"the network has {config.vocab_size} symbols, its vocabulary {len(vocab)}")
        tensor_info = {  # float16 weights are accepted, and converted below
            name: (shape, "float32" if dtype == "float16" else dtype)
            for name, (shape, dtype) in read_tensor_info(path).items()
        }
        check_depth(config.layers, tensor_info)
        check_tensor_info(tensor_info, weight_shapes(config))
        weights = {name: array.astype(np.float32, copy=False) for name, array in read(path, KIND)[1].items()}
        check_finite(weights, path)
        fields = {name: metadata[name] for name in schema.SYMBOLS}
        return StoredCheckpoint(config, weights, vocab, path=str(path), **fields)
    except LOAD_ERRORS as error:
        raise load_error(path, error) from None


def load_error(path: str | Path, error: Exception) -> InputError:
    """Return the error for a file whose metadata or tensors do not form a network."""
    if isinstance(error, InputError):
        return error
    return InputError(f"{path} is not a checkpoint that this version can use: {first_line(error)}.")


def save_float16(path: str | Path, source: str | Path) -> None:
    """Write a copy of a checkpoint of a character network with its weights in float16."""
    metadata, weights = read(source, KIND)
    write(path, KIND, metadata, partial(serialise, {name: w.astype(np.float16) for name, w in weights.items()}))


def set_calibration(path: str | Path, calibration: float | None) -> None:
    """Store the factor of temperatures in a checkpoint of a character network."""
    metadata, weights = read(path, KIND)
    write(path, KIND, metadata | {"calibration": calibration}, partial(serialise, weights))


def check_depth(layers: int, tensor_info: Mapping[str, Any]) -> None:
    """Raise a ValueError if there are more layers than tensors."""
    if layers > len(tensor_info):
        raise ValueError(f"the network has {layers} layers, and the file {len(tensor_info)} tensors")


def check_tensor_info(tensor_info: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError that names the first tensor that is missing, foreign, or not float32 of the given shape."""
    for name in sorted(shapes.keys() | tensor_info.keys()):
        if name not in tensor_info:
            raise ValueError(f"{name} is missing")
        if name not in shapes:
            raise ValueError(f"the network has no tensor {printable(name, MAX_SHOWN)}")
        if tensor_info[name] != (shapes[name], "float32"):
            shape, dtype = tensor_info[name]
            raise ValueError(f"{name} is {printable(shape, MAX_SHOWN)} {dtype}, and must be {shapes[name]} float32")


def write(
    path: str | Path, kind: str, metadata: Mapping[str, Any], serialised: Callable[[dict[str, str]], bytes]
) -> None:
    """Write the bytes that ``serialised`` returns for safetensors' metadata."""
    data = serialised({METADATA_KEY: json.dumps({"format": FORMAT, "kind": kind, **metadata})})
    with open_output(str(path)) as file:
        file.write(data)


def read(path: str | Path, kind: str, framework: str = "np") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and the arrays, or the tensors of a framework, by safetensors' name for it.

    See `read_metadata` for the errors.
    """
    metadata = read_metadata(path, kind)
    try:
        with _open(path, framework) as file:
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (TypeError, AttributeError) as error:  # a type of numbers that numpy does not have
        raise load_error(path, error) from None


def read_metadata(path: str | Path, kind: str) -> dict[str, Any]:
    """Return the validated metadata of a file, without reading its tensors, or raise InputError."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name a file.")
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    with _open(path, kind=kind) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    return schema.validate(_parse_header(text, path, kind), schema.STORED[kind], path)


def kind_of(path: str | Path) -> str:
    """Return the kind of checkpoint in a file, or "" if it cannot be read."""
    try:
        with _open(path) as file:
            text = (file.metadata() or {})[METADATA_KEY]
        return str(json.loads(text)["kind"]) if len(text) <= MAX_METADATA else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def read_tensor_info(path: str | Path, kind: str = KIND) -> dict[str, TensorInfo]:
    """Return shape and type of each tensor of a file, without reading the tensors."""
    with _open(path, kind=kind) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: (tuple(one.get_shape()), DTYPES.get(one.get_dtype(), one.get_dtype())) for name, one in slices.items()
        }


@contextlib.contextmanager
def _open(path: str | Path, framework: str = "np", kind: str = KIND) -> Iterator[Any]:
    """Open a safetensors file; an incomplete file, or a header that is larger than any network needs, is an error."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if MAX_HEADER < size <= Path(path).stat().st_size:
            raise InputError(f"{path} has a header of {size:,} bytes, which is more than any network needs.")
        # torch rejects a name that is not UTF-8, so such a file is opened by the number of its descriptor.
        name = str(path) if is_utf8(str(path)) else f"/dev/fd/{file.fileno()}"
        try:
            with safe_open(name, framework=framework) as opened:
                yield opened
        except (SafetensorError, UnicodeDecodeError):
            what = _short_name(kind)
            raise InputError(f"{path} is not a {what}, or is incomplete: {REMEDIES[what]}.") from None


def _parse_header(text: str | None, path: str | Path, kind: str) -> dict[str, Any]:
    """Return the metadata of a JSON text if its format and kind are the right ones."""
    if text is None:
        raise InputError(f"{path} is a safetensors file of another program: {REMEDIES[_short_name(kind)]}.")
    if len(text) > MAX_METADATA:
        raise InputError(f"{path} has {len(text):,} characters of metadata, which is more than any network needs.")
    try:
        metadata = json.loads(text)
        version, found = metadata["format"], metadata["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"the metadata of {path} cannot be read: {REMEDIES[_short_name(kind)]}.") from None
    if type(version) is not int or not 1 <= version <= FORMAT:
        newer = type(version) is int and version > FORMAT
        source, remedy = (", written by a newer version of charrnn", ": update it with pip") if newer else ("", "")
        raise InputError(
            f"{path} has format {quote(version)}{source}, and this version reads formats 1 to {FORMAT}{remedy}."
        )
    if found != kind:
        name = f"a {KIND_NAMES[str(found)]}" if str(found) in KIND_NAMES else f"of the unknown kind {quote(found)}"
        raise InputError(f"{path} is {name}: name a {KIND_NAMES[kind]}.")
    return dict(metadata)


def _short_name(kind: str) -> str:
    return KIND_NAMES[kind].partition(" of ")[0]


@dataclass(frozen=True)
class Streams:
    """State of N streams of which sampling was stopped and can be resumed."""

    state: tuple[tuple[NDArray[np.float32], ...], ...]  # per layer, a tuple of (N, ·) arrays
    last: NDArray[np.int64]  # (N,) symbols that the network has not read yet; -1 before the first one of a stream
    seed: int  # of the generator
    position: int  # how many of its numbers each stream has used


def save_streams(path: str | Path, streams: Streams) -> None:
    """Write streams to a file that appears whole or not at all."""
    arrays = {**named_state(streams.state), "last": streams.last}
    metadata = {"seed": streams.seed, "position": streams.position}
    write(path, STREAMS_KIND, metadata, partial(serialise, {n: np.asarray(a, order="C") for n, a in arrays.items()}))


def load_streams(path: str | Path, config: ModelConfig) -> Streams:
    """Read streams of a network of this configuration; those of another network, or a damaged file, are an error."""
    metadata, arrays = read(path, STREAMS_KIND)
    last = arrays.pop("last", np.empty(0))
    if (
        last.ndim != 1
        or not last.size
        or last.dtype != np.int64
        or not -1 <= last.min() <= last.max() < config.vocab_size
    ):
        raise InputError(OTHER_NETWORK.format(path, "its last symbols do not fit"))
    state = {name: array for name, array in arrays.items() if name.startswith("state.")}
    if {name: array.shape for name, array in state.items()} != state_shapes(config, len(last)) or any(
        array.dtype != np.float32 for array in state.values()
    ):
        raise InputError(OTHER_NETWORK.format(path, "the arrays of its hidden state do not fit"))
    streams = Streams(state_of(state, state_sizes(config)), last, metadata["seed"], metadata["position"])
    try:
        check_stream(config, streams.state)
    except ValueError as error:
        raise InputError(OTHER_NETWORK.format(path, error)) from None
    return streams
