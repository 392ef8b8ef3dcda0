"""Checkpoints and hidden states on disk, read without torch: safetensors files, written whole or not at all.

Nothing here unpickles, so a file from a stranger cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from bytecodec.console import open_output
from bytecodec.errors import InputError
from charrnn import runlog
from charrnn.config import ModelConfig, shapes, state_sizes
from charrnn.vocab import Vocab

if TYPE_CHECKING:
    from charrnn.model import CharRNN

FORMAT = 1
KIND = "symbols"
STREAMS_KIND = "streams"
UNUSABLE = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)  # the last two are torch's, of sizes
METADATA_KEY = "charrnn"  # one JSON text in safetensors' metadata
FACTS: dict[str, tuple[type, ...]] = {  # what else a checkpoint holds, and of which types
    "step": (int,),
    "epoch": (int, float),
    "rate": (int, NoneType),
    "encoding": (str, NoneType),
    "train_loss": (int, float, NoneType),
    "val_loss": (int, float, NoneType),
}


@dataclass
class Stored:
    """A checkpoint as numbers; see `charrnn.checkpoint.Checkpoint` for what it knows of itself."""

    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    vocab: Vocab
    step: int = 0
    epoch: float = 0.0
    rate: int | None = None
    encoding: str | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    path: str = ""

    @property
    def model(self) -> CharRNN:
        """The network in torch, made anew."""
        from charrnn.checkpoint import of_stored

        return of_stored(self).model


def load(path: str | Path) -> Stored:
    """Read a checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, cut off, or no checkpoint of this program's.
    """
    path = runlog.checkpoint_path(path)
    facts, arrays = read_arrays(path, KIND)
    try:
        vocab = Vocab.from_json(facts["vocab"])
        config = ModelConfig(**facts["model"])
        if config.vocab_size != len(vocab):
            raise ValueError(f"the network has {config.vocab_size} symbols, its vocabulary {len(vocab)}")
        if config.layers > len(arrays):
            raise ValueError(f"it says that it has {config.layers} layers, and holds {len(arrays)} tensors")
        _check(arrays, shapes(config))
        return Stored(config, arrays, vocab, path=str(path), **known(facts))
    except UNUSABLE as error:
        raise unusable(path, error) from None


def unusable(path: str | Path, error: Exception) -> InputError:
    """What to say of a file whose facts or tensors do not make a network."""
    return InputError(f"{path} is not a checkpoint that this version can use: {words(error)}.")


def _check(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError that names what is missing, foreign or of another shape."""
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if name not in expected:
            raise ValueError(f"{name} belongs to no network like this")
        if arrays[name].shape != expected[name] or arrays[name].dtype != np.float32:
            have, want = f"{arrays[name].shape} {arrays[name].dtype}", f"{expected[name]} float32"
            raise ValueError(f"{name} is {have}, and has to be {want}")


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
        raise unusable(path, error) from None


def read(path: str | Path, kind: str, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same in arrays or tensors of a framework, by safetensors' name for it."""
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    try:
        with safe_open(str(path), framework=framework) as file:
            facts = _facts((file.metadata() or {}).get(METADATA_KEY), path, kind)
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): it was cut off, or is something else."
        ) from None


def _facts(text: str | None, path: str | Path, kind: str) -> dict[str, Any]:
    if text is None:
        raise InputError(f"{path} is a safetensors file, but none of charrnn's.")
    try:
        facts = json.loads(text)
        version, found = facts["format"], facts["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} has no description of a network in its safetensors metadata that can be read."
        ) from None
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}, and this version of charrnn reads format {FORMAT}.")
    if found != kind:
        raise InputError(f"{path} holds {found!r}, and {kind!r} was wanted.")
    return dict(facts)


def known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The `FACTS` that there are; a ValueError where one is nothing of its kind."""
    found = {name: facts[name] for name in FACTS if name in facts}
    for name, value in found.items():
        if not isinstance(value, FACTS[name]) or isinstance(value, bool):
            raise ValueError(f"its {name} is {value!r}")
    if found.get("rate") is not None and found["rate"] < 1:
        raise ValueError(f"its rate is {found['rate']!r}")
    if found.get("encoding") not in (None, "linear", "mulaw"):
        raise ValueError(f"its encoding is {found['encoding']!r}")
    return found


def words(error: Exception) -> str:
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
                raise ValueError(f"its {name} is {facts[name]!r}")
        return Streams(state, last, facts["seed"], facts["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit this network: {words(error)}.") from None
