"""Trained networks, resume states and hidden states on disk: safetensors files, written whole or not at all.

Nothing here unpickles, so a file from a stranger cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from bytecodec.console import open_output
from bytecodec.errors import InputError
from bytecodec.wav import HIGHEST_RATE
from charrnn import runlog
from charrnn.model import CharRNN, ModelConfig, State
from charrnn.vocab import Vocab

FORMAT = 1
KIND = "symbols"
STREAMS_KIND = "streams"
UNUSABLE = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)  # the last two are torch's, of sizes
DTYPES = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "I64": "torch.int64",
    "I32": "torch.int32",
}
MOST_FACTS = 1 << 24  # characters of JSON: 1.1 million characters, the most there are, escaped, fit in
Network = TypeVar("Network", bound=nn.Module)
METADATA_KEY = "charrnn"  # one JSON text in safetensors' metadata
FACTS: dict[str, tuple[type, ...]] = {  # what else a checkpoint holds, and of which types
    "step": (int,),
    "epoch": (int, float),
    "rate": (int, NoneType),
    "encoding": (str, NoneType),
    "train_loss": (int, float, NoneType),
    "val_loss": (int, float, NoneType),
}


class Keepable(Protocol):
    """A network and what is known of it, as a file keeps them."""

    @property
    def kind(self) -> str:
        """What the file says that it holds."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    def facts(self) -> dict[str, Any]:
        """What stands beside its tensors, as JSON."""


@dataclass
class Checkpoint:
    """A trained network and what is known of it.

    Attributes
    ----------
    model
        On the CPU, in evaluation mode.
    vocab
        What its ids mean.
    step, epoch
        Iterations and epochs of training.
    rate
        Samples a second of the sound that it was trained on, or None for text.
    encoding
        What a byte of that sound means, linear or mulaw; None for text.
    train_loss, val_loss
        In nats a symbol; None where not measured.
    """

    kind: ClassVar[str] = KIND
    model: CharRNN
    vocab: Vocab
    step: int = 0
    epoch: float = 0.0
    rate: int | None = None
    encoding: str | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    path: str = ""

    def facts(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        known = {name: getattr(self, name) for name in FACTS}
        return {"model": self.model.config.to_json(), "vocab": self.vocab.to_json(), **known}


def save(path: str | Path, checkpoint: Keepable) -> None:
    """Write a checkpoint to a file that appears whole or not at all, and is on the disk when this returns."""
    write_tensors(path, checkpoint.kind, model_tensors(checkpoint.model), checkpoint.facts())


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, cut off, or no checkpoint of this program's.
    """
    path = runlog.checkpoint_path(path)
    facts = read_facts(path, KIND)
    try:
        vocab = Vocab.from_json(facts["vocab"])
        config = ModelConfig(**facts["model"])
        if config.vocab_size != len(vocab):
            raise ValueError(f"the network has {config.vocab_size} symbols, its vocabulary {len(vocab)}")
        found = known(facts)
        model = sketch(path, config.layers, lambda: CharRNN(config))
        set_model_tensors(model, read_tensors(path, KIND)[1], assign=True)
        return Checkpoint(model.eval(), vocab, path=str(path), **found)
    except UNUSABLE as error:
        raise unusable(path, error) from None


def sketch(path: str | Path, layers: int, make: Callable[[], Network], prefix: str = "") -> Network:
    """A network that takes no memory yet, once it is known to be that of a file.

    Parameters
    ----------
    layers
        How many ``make`` would make.
    prefix
        Of the tensors' names in the file.

    Raises
    ------
    ValueError
        The file's tensors are not those of the network.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            heads = {name: file.get_slice(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            found = {
                name.removeprefix(prefix): (tuple(head.get_shape()), DTYPES.get(head.get_dtype(), head.get_dtype()))
                for name, head in heads.items()
            }
    except (SafetensorError, UnicodeDecodeError) as error:
        raise _cut_off(path, error) from None
    if layers > len(found):
        raise ValueError(f"it says that it has {layers} layers, and holds {len(found)} tensors")
    with torch.device("meta"):
        model = make()
    _check_tensors(model, found)
    return model


def unusable(path: str | Path, error: Exception) -> InputError:
    """What to say of a file whose facts or tensors do not make a network."""
    return InputError(f"{path} is not a checkpoint that this version can use: {_words(error)}.")


def load_model(path: str | Path, device: str = "cpu") -> CharRNN:
    """The network of a checkpoint or of a run's newest one, with ``.config`` and ``.vocab``, in evaluation mode."""
    checkpoint = load(path)
    checkpoint.model.vocab = checkpoint.vocab
    return checkpoint.model.to(device)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that a file keeps, by name: all but those that are zero for ever (see cells.py)."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def set_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
    """Put a file's tensors into a network; a ValueError names what is missing, foreign or of another shape."""
    _check_tensors(model, {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()})
    frozen = _frozen(model)
    zeros = {name: torch.zeros(p.shape) for name, p in model.state_dict().items() if name in frozen}
    model.load_state_dict({**tensors, **zeros}, assign=assign)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _check_tensors(model: nn.Module, found: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise a ValueError where shapes and types by name are not those of a network's tensors."""
    wanted = {name: (tuple(tensor.shape), "torch.float32") for name, tensor in model_tensors(model).items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if name not in wanted:
            raise ValueError(f"{name} belongs to no network like this")
        if found[name] != wanted[name]:
            have, want = (f"{shape} {dtype}" for shape, dtype in (found[name], wanted[name]))
            raise ValueError(f"{name} is {have}, and has to be {want}")


def _frozen(model: nn.Module) -> set[str]:
    """Names of the parameters that stay zero, as the cells say."""
    return {f"{place}.{name}" for place, part in model.named_modules() for name in getattr(part, "FROZEN", ())}


def state_tensors(state: State) -> dict[str, Tensor]:
    """A hidden state as named tensors: state.LAYER.PLACE."""
    return {f"state.{i}.{j}": tensor.contiguous() for i, layer in enumerate(state) for j, tensor in enumerate(layer)}


def state_from_tensors(tensors: Mapping[str, Tensor], like: State) -> State:
    """Back from `state_tensors`, in the form of ``like``; a ValueError where it does not fit."""
    wanted = state_tensors(like)
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("state.")}
    if found.keys() != wanted.keys() or any(
        found[name].shape != tensor.shape or not found[name].is_floating_point() for name, tensor in wanted.items()
    ):
        raise ValueError("its hidden state is that of another network")
    return tuple(tuple(found[f"state.{i}.{j}"] for j in range(len(layer))) for i, layer in enumerate(like))


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors with facts beside them as JSON; the file appears whole or not at all."""
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, "kind": kind, **facts})}
    data = serialise({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with open_output(str(path)) as file:
        file.write(data)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a file of the given kind; an InputError for any other file."""
    facts = read_facts(path, kind)
    with safe_open(str(path), framework="pt") as file:
        return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_facts(path: str | Path, kind: str) -> dict[str, Any]:
    """The facts of a file of the given kind, without its tensors; an InputError for any other file."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name a file.")
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            return _facts((file.metadata() or {}).get(METADATA_KEY), path, kind)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise _cut_off(path, error) from None


def _cut_off(path: str | Path, error: Exception) -> InputError:
    reason = str(error).partition(", expected one of")[0][:200]  # some name all kinds of numbers that there are
    return InputError(f"{path} is not a whole safetensors file ({reason}): it was cut off, or is something else.")


def _facts(text: str | None, path: str | Path, kind: str) -> dict[str, Any]:
    if text is None:
        raise InputError(f"{path} is a safetensors file, but none of charrnn's.")
    if len(text) > MOST_FACTS:
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
            f"{path} has format {version}, which a newer version of charrnn wrote: this one reads format {FORMAT}. "
            "Update it with pip."
        )
    if type(version) is not int or version != FORMAT:
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
    if found.get("rate") is not None and not 1 <= found["rate"] <= HIGHEST_RATE:
        raise ValueError(f"its rate is {found['rate']!r}")
    for name in ("step", "epoch"):
        if not 0 <= found.get(name, 0) < 2**63:
            raise ValueError(f"its {name} is {found[name]!r}")
    if found.get("encoding") not in (None, "linear", "mulaw"):
        raise ValueError(f"its encoding is {found['encoding']!r}")
    return found


def _words(error: Exception) -> str:
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
    tensors = {
        f"state.{i}.{j}": torch.from_numpy(a) for i, layer in enumerate(streams.state) for j, a in enumerate(layer)
    }
    facts = {"seed": streams.seed, "position": streams.position}
    write_tensors(path, STREAMS_KIND, {**tensors, "last": torch.from_numpy(streams.last)}, facts)


def load_streams(path: str | Path, model: CharRNN) -> Streams:
    """Read streams of a network of this shape; an InputError where they are of another."""
    facts, tensors = read_tensors(path, STREAMS_KIND)
    try:
        last = tensors["last"].numpy()
        known = range(-1, model.config.vocab_size)  # -1: a stream before its first symbol
        if last.ndim != 1 or not len(last) or last.dtype != np.int64 or not {*last.tolist()} <= {*known}:
            raise ValueError("its last symbols are not those of this network")
        state = state_from_tensors(tensors, model.initial_state(len(last)))
        arrays = tuple(tuple(t.numpy() for t in layer) for layer in state)
        for name in ("seed", "position"):
            if not isinstance(facts[name], int) or not 0 <= facts[name] < 2**64:
                raise ValueError(f"its {name} is {facts[name]!r}")
        return Streams(arrays, last, facts["seed"], facts["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit this network: {_words(error)}.") from None
