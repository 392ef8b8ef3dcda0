"""Networks of torch to and from the files of `charrnn.storage.checkpoint_format`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from bytecodec.arguments import check_path
from bytecodec.errors import InputError, first_line
from charrnn.data.vocab import Vocab
from charrnn.models.char_rnn import CharRNN, State
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint_format
from charrnn.storage.checkpoint_format import KIND

Network = TypeVar("Network", bound=nn.Module)


class Saveable(Protocol):
    """A network and what is known of it, as a file keeps them."""

    @property
    def kind(self) -> str:
        """What the file says that it holds."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    def metadata(self) -> dict[str, Any]:
        """What stands beside its tensors, as JSON."""


@dataclass
class Checkpoint(checkpoint_format.CheckpointMeta):
    """A trained network and what is known of it.

    Attributes
    ----------
    model
        On the CPU, in evaluation mode.
    vocab
        What its ids mean.
    """

    kind: ClassVar[str] = KIND
    model: CharRNN
    vocab: Vocab

    @property
    def config(self) -> ModelConfig:
        """What the network is."""
        return self.model.config

    def metadata(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        known = {name: getattr(self, name) for name in checkpoint_format.METADATA_TYPES}
        return {"model": self.model.config.to_json(), "vocab": self.vocab.to_json(), **known}


def save(path: str | Path, checkpoint: Saveable) -> None:
    """Write a checkpoint to a file that appears whole or not at all, and is on the disk when this returns.

    Raises
    ------
    InputError
        The folder does not exist, or the checkpoint does not hold a torch module.
    """
    path = check_path("path", path)
    if not isinstance(getattr(checkpoint, "model", None), nn.Module):
        raise InputError(f"checkpoint is a {type(checkpoint).__name__}; it must hold a torch module.")
    write_tensors(path, checkpoint.kind, model_tensors(checkpoint.model), checkpoint.metadata())


def set_val_loss(path: Path, val_loss: float) -> None:
    """Rewrite a checkpoint of any kind with its validation loss; the file is replaced whole or not at all."""
    facts, tensors = read_tensors(path, kind := checkpoint_format.kind_of(path))
    write_tensors(path, kind, tensors, facts | {"val_loss": val_loss})


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, cut off, or no checkpoint of this program's.
    """
    return to_torch(checkpoint_format.load(path))


def to_torch(network: checkpoint_format.StoredCheckpoint) -> Checkpoint:
    """The same network in torch."""
    with torch.device("meta"):  # its weights are those of the file
        model = CharRNN(network.config)
    set_model_tensors(model, {name: torch.from_numpy(array) for name, array in network.weights.items()}, assign=True)
    known = {name: getattr(network, name) for name in checkpoint_format.METADATA_TYPES}
    return Checkpoint(model.eval(), network.vocab, path=network.path, **known)


def meta_model(path: str | Path, layers: int, make: Callable[[], Network], prefix: str = "") -> Network:
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
    every = checkpoint_format.read_tensor_info(path)
    found = {name.removeprefix(prefix): head for name, head in every.items() if name.startswith(prefix)}
    checkpoint_format.check_depth(layers, found)
    with torch.device("meta"):
        model = make()
    checkpoint_format.check_tensor_info(found, _shapes(model))
    return model


def load_model(path: str | Path, device: str = "cpu") -> CharRNN:
    """Return the network of a checkpoint or of a run's newest one, in evaluation mode, with ``.config`` and ``.vocab``.

    Raises
    ------
    InputError
        As in `load`, or the device is not available.
    """
    checkpoint = load(path)
    checkpoint.model.vocab = checkpoint.vocab
    try:
        return checkpoint.model.to(torch.device(device))
    except (RuntimeError, AssertionError, TypeError) as error:  # the type depends on how torch was built
        reason = first_line(error)
        raise InputError(f"the network cannot be put on the device {device!r}: {reason}.") from None


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that a file keeps, by name: all but those that are zero for ever (see cells.py)."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def set_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
    """Put a file's tensors into a network; a ValueError names what is missing, foreign or of another shape."""
    heads = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    checkpoint_format.check_tensor_info(heads, _shapes(model))
    frozen = _frozen(model)
    zeros = {name: torch.zeros(p.shape) for name, p in model.state_dict().items() if name in frozen}
    model.load_state_dict({**tensors, **zeros}, assign=assign)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()}


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
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checkpoint_format.write(path, kind, facts, partial(serialise, plain))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a file of the given kind; an InputError for any other file."""
    return checkpoint_format.read(path, kind, "pt")
