"""Checkpoints and hidden states on disk, read without torch: safetensors files, written whole or not at all.

Nothing here unpickles, so a file from a stranger cannot run code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from bytecodec.arguments import HIGHEST_RATE
from bytecodec.console import open_output
from bytecodec.errors import InputError
from bytecodec.safe_text import is_utf8, printable
from charrnn.data.recordings import check_sound
from charrnn.data.vocab import Vocab
from charrnn.models.config import ModelConfig, state_sizes, weight_shapes
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.models.char_rnn import CharRNN

FORMAT = 1
KIND = "symbols"
STREAMS_KIND = "streams"
LOAD_ERRORS = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)  # the last two are torch's, of sizes
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32"}  # as numpy says them
MOST_HEADER = 1 << 25  # bytes of JSON before the tensors; safetensors itself allows 100 MB
MOST_SHOWN = 60  # characters of a value in a message
MOST_METADATA = 1 << 24  # characters of JSON: 1.1 million characters, the most there are, escaped, fit in
TensorInfo = tuple[tuple[int, ...], str]  # shape and type
METADATA_KEY = "charrnn"  # one JSON text in safetensors' metadata
METADATA_TYPES: dict[str, tuple[type, ...]] = {  # what else a checkpoint holds, and of which types
    "step": (int,),
    "epoch": (int, float),
    "rate": (int, NoneType),
    "encoding": (str, NoneType),
    "sound": (dict, NoneType),
    "train_loss": (int, float, NoneType),
    "val_loss": (int, float, NoneType),
}


@dataclass(kw_only=True)
class CheckpointMeta:
    """What is known of a trained network beside its weights.

    Attributes
    ----------
    step, epoch
        Iterations and epochs of training.
    rate
        Samples a second of the sound that it was trained on, or None for text.
    encoding
        What a byte of that sound means, linear or mulaw; None for text.
    sound
        Options with which its recordings were read (`charrnn.data.recordings.SoundOptions.to_json`); None if unknown.
    train_loss, val_loss
        In nats a symbol; None where not measured.
    path
        Of the file that it was read from.
    """

    step: int = 0
    epoch: float = 0.0
    rate: int | None = None
    encoding: str | None = None
    sound: dict[str, Any] | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    path: str = ""


@dataclass
class StoredCheckpoint(CheckpointMeta):
    """A checkpoint as numbers."""

    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    vocab: Vocab

    @property
    def model(self) -> CharRNN:
        """The network in torch, made anew."""
        from charrnn.storage.checkpoint import to_torch

        return to_torch(self).model


def load(path: str | Path) -> StoredCheckpoint:
    """Read a checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, cut off, or no checkpoint of this program's.
    """
    path = run_dir.checkpoint_path(path)
    facts = read_metadata(path, KIND)
    try:
        vocab = Vocab.from_json(facts["vocab"])
        config = ModelConfig(**facts["model"])
        if config.vocab_size != len(vocab):
            raise ValueError(f"the network has {config.vocab_size} symbols, its vocabulary {len(vocab)}")
        found, heads = validated_metadata(facts), read_tensor_info(path)
        check_depth(config.layers, heads)
        check_tensor_info(heads, weight_shapes(config))  # before anything of their size is read
        return StoredCheckpoint(config, read_arrays(path, KIND)[1], vocab, path=str(path), **found)
    except LOAD_ERRORS as error:
        raise load_error(path, error) from None


def load_error(path: str | Path, error: Exception) -> InputError:
    """What to say of a file whose facts or tensors do not make a network."""
    if isinstance(error, InputError):  # has a message already
        return error
    return InputError(f"{path} is not a checkpoint that this version can use: {words(error)}.")


def check_depth(layers: int, heads: Mapping[str, Any]) -> None:
    """Raise a ValueError where there are more layers than tensors."""
    if layers > len(heads):
        raise ValueError(f"it says that it has {layers} layers, and holds {len(heads)} tensors")


def check_tensor_info(heads: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError that names what is missing, foreign, or no float32 of its shape."""
    for name in sorted(expected.keys() | heads.keys()):
        if name not in heads:
            raise ValueError(f"{name} is missing")
        if name not in expected:
            raise ValueError(f"{printable(name, MOST_SHOWN)} belongs to no network like this")
        if heads[name] != (expected[name], "float32"):
            shape, kind = heads[name]
            shown = printable(shape, MOST_SHOWN)
            raise ValueError(f"{name} is {shown} {kind}, and has to be {expected[name]} float32")


def write_arrays(path: str | Path, kind: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write arrays with facts beside them as JSON; the file appears whole or not at all."""
    write(path, kind, facts, partial(serialise, {name: np.asarray(a, order="C") for name, a in arrays.items()}))


def write(path: str | Path, kind: str, facts: Mapping[str, Any], serialised: Callable[[dict[str, str]], bytes]) -> None:
    """Write what comes of serialising something with these facts as metadata."""
    data = serialised({METADATA_KEY: json.dumps({"format": FORMAT, "kind": kind, **facts})})
    with open_output(str(path)) as file:
        file.write(data)


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Facts and arrays of a file of the given kind; an InputError for any other file."""
    try:
        return read(path, kind, "np")
    except (TypeError, AttributeError) as error:  # numbers of a kind that numpy does not have
        raise load_error(path, error) from None


def read(path: str | Path, kind: str, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same in arrays or tensors of a framework, by safetensors' name for it."""
    facts = read_metadata(path, kind)
    with _opened(path, framework) as file:
        return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: str | Path, kind: str) -> dict[str, Any]:
    """The facts of a file of the given kind, without its tensors; an InputError for any other file."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name a file.")
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    with _opened(path) as file:
        return _facts((file.metadata() or {}).get(METADATA_KEY), path, kind)


def kind_of(path: str | Path) -> str:
    """Return the kind of checkpoint in a file, or "" if it cannot be read."""
    try:
        with _opened(path) as file:
            text = (file.metadata() or {})[METADATA_KEY]
        return str(json.loads(text)["kind"]) if len(text) <= MOST_METADATA else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def read_tensor_info(path: str | Path) -> dict[str, TensorInfo]:
    """Shape and type of each of a file's tensors, which are not read."""
    with _opened(path) as file:
        heads = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: (tuple(head.get_shape()), DTYPES.get(head.get_dtype(), head.get_dtype()))
            for name, head in heads.items()
        }


@contextlib.contextmanager
def _opened(path: str | Path, framework: str = "np") -> Iterator[Any]:
    """Open a safetensors file; charrnn opens all such files with this function.

    Raises
    ------
    InputError
        The file is not a complete safetensors file, or its header is larger than any network needs.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if MOST_HEADER < size <= Path(path).stat().st_size:
            raise InputError(f"{path} has a header of {size:,} bytes, which is more than any network needs.")
        # torch rejects a name that is not UTF-8, so such a file is opened by the number of its descriptor.
        name = str(path) if is_utf8(str(path)) else f"/dev/fd/{file.fileno()}"
        try:
            with safe_open(name, framework=framework) as opened:
                yield opened
        except (SafetensorError, UnicodeDecodeError) as error:
            raise _cut_off(path, error) from None


def _cut_off(path: str | Path, error: Exception) -> InputError:
    reason = printable(str(error).partition(", expected one of")[0], 200)  # some messages list all types of numbers
    return InputError(f"{path} is not a whole safetensors file ({reason}): it was cut off, or is something else.")


def _facts(text: str | None, path: str | Path, kind: str) -> dict[str, Any]:
    if text is None:
        raise InputError(f"{path} is a safetensors file, but none of charrnn's.")
    if len(text) > MOST_METADATA:
        raise InputError(f"{path} describes itself in {len(text):,} characters, which no network needs.")
    try:
        facts = json.loads(text)
        version, found = facts["format"], facts["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} has no description of a network in its safetensors metadata that can be read."
        ) from None
    if type(version) is int and version > FORMAT:
        raise InputError(
            f"{path} has format {_short(version)}, which a newer version of charrnn wrote: this one reads format "
            f"{FORMAT}. Update it with pip."
        )
    if type(version) is not int or version != FORMAT:
        raise InputError(f"{path} has format {_short(version)}, and this version of charrnn reads format {FORMAT}.")
    if found != kind:
        raise InputError(f"{path} holds {_short(found)}, and {kind!r} was wanted.")
    return dict(facts)


def validated_metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The `FACTS` that there are; a ValueError where one is nothing of its kind."""
    found = {name: facts[name] for name in METADATA_TYPES if name in facts}
    for name, value in found.items():
        if not isinstance(value, METADATA_TYPES[name]) or isinstance(value, bool):
            raise ValueError(f"its {name} is {_short(value)}")
    if found.get("rate") is not None and not 1 <= found["rate"] <= HIGHEST_RATE:
        raise ValueError(f"its rate is {_short(found['rate'])}")
    for name in ("step", "epoch"):
        if not 0 <= found.get(name, 0) < 2**63:
            raise ValueError(f"its {name} is {_short(found[name])}")
    if found.get("encoding") not in (None, "linear", "mulaw"):
        raise ValueError(f"its encoding is {_short(found['encoding'])}")
    check_sound(found.get("sound"))
    return found


def _short(value: object) -> str:
    return printable(repr(value), MOST_SHOWN)


def words(error: Exception) -> str:
    """Return an error's first line, or for a KeyError which value is missing."""
    return f"it does not say its {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]


@dataclass(frozen=True)
class Streams:
    """N streams that stopped sampling: all that going on from there takes.

    Attributes
    ----------
    state
        Per layer, a tuple of (N, ·) arrays.
    last
        (N,) the last symbols, which the network has not read yet.
    seed, position
        The generator's seed, and how many of its numbers each stream has used.
    """

    state: tuple[tuple[NDArray[np.float32], ...], ...]
    last: NDArray[np.int64]
    seed: int
    position: int


def save_streams(path: str | Path, streams: Streams) -> None:
    """Write streams to a file that appears whole or not at all."""
    arrays = {f"state.{i}.{j}": array for i, layer in enumerate(streams.state) for j, array in enumerate(layer)}
    facts = {"seed": streams.seed, "position": streams.position}
    write_arrays(path, STREAMS_KIND, {**arrays, "last": streams.last}, facts)


def load_streams(path: str | Path, config: ModelConfig) -> Streams:
    """Read streams of a network of this shape; an InputError where they are of another."""
    facts, arrays = read_arrays(path, STREAMS_KIND)
    try:
        last = arrays["last"]
        known = range(-1, config.vocab_size)  # -1: a stream before its first symbol
        if last.ndim != 1 or not len(last) or last.dtype != np.int64 or not {*last.tolist()} <= {*known}:
            raise ValueError("its last symbols are not those of this network")
        sizes = state_sizes(config)
        wanted = {f"state.{i}.{j}": (len(last), n) for i, layer in enumerate(sizes) for j, n in enumerate(layer)}
        found = {name: array for name, array in arrays.items() if name.startswith("state.")}
        if {name: array.shape for name, array in found.items()} != wanted or any(
            array.dtype != np.float32 for array in found.values()
        ):
            raise ValueError("its hidden state is that of another network")
        state = tuple(tuple(found[f"state.{i}.{j}"] for j in range(len(layer))) for i, layer in enumerate(sizes))
        for name in ("seed", "position"):
            if not isinstance(facts[name], int) or not 0 <= facts[name] < 2**64:
                raise ValueError(f"its {name} is {_short(facts[name])}")
        return Streams(state, last, facts["seed"], facts["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit this network: {words(error)}.") from None
