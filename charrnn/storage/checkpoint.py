"""Checkpoints as torch modules; `charrnn.storage.checkpoint_format` reads and checks the files."""

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
from charrnn.models.config import ModelConfig, named_state, state_of
from charrnn.storage import checkpoint_format, schema
from charrnn.storage.checkpoint_format import KIND

Network = TypeVar("Network", bound=nn.Module)


class Saveable(Protocol):
    """Interface of a network of any kind with its metadata, such as `Checkpoint`."""

    @property
    def kind(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    def metadata(self) -> dict[str, Any]: ...


@dataclass
class Checkpoint(checkpoint_format.CheckpointMeta):
    """A trained network of symbols with its metadata."""

    kind: ClassVar[str] = KIND  # as stored in the file
    model: CharRNN  # on the CPU and in evaluation mode
    vocab: Vocab

    @property
    def config(self) -> ModelConfig:
        """Configuration of the network."""
        return self.model.config

    def metadata(self) -> dict[str, Any]:
        """Return the metadata to store with the tensors, as JSON."""
        fields = {name: getattr(self, name) for name in schema.SYMBOLS}
        return {"model": self.model.config.to_json(), "vocab": self.vocab.to_json(), **fields}


def save(path: str | Path, checkpoint: Saveable) -> None:
    """Write a checkpoint to a file that appears whole or not at all, and is on the disk when this returns."""
    path = check_path("path", path)
    if not isinstance(getattr(checkpoint, "model", None), nn.Module):
        raise InputError(f"checkpoint is a {type(checkpoint).__name__}; it must hold a torch module.")
    write_tensors(path, checkpoint.kind, model_tensors(checkpoint.model), checkpoint.metadata())


def set_val_loss(path: Path, val_loss: float) -> None:
    """Rewrite a checkpoint of any kind with its validation loss; the file is replaced whole or not at all."""
    metadata, tensors = read_tensors(path, kind := checkpoint_format.kind_of(path))
    write_tensors(path, kind, tensors, metadata | {"val_loss": val_loss})


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, or fails one of the checks of `charrnn.storage.checkpoint_format.load`.
    """
    return to_torch(checkpoint_format.load(path))


def to_torch(stored: checkpoint_format.StoredCheckpoint) -> Checkpoint:
    """Return a checkpoint with its network as a torch module, which shares the arrays' memory."""
    with torch.device("meta"):  # allocates nothing: the weights are those of the file
        model = CharRNN(stored.config)
    set_model_tensors(model, {name: torch.from_numpy(array) for name, array in stored.weights.items()}, assign=True)
    fields = {name: getattr(stored, name) for name in schema.SYMBOLS}
    return Checkpoint(model.eval(), stored.vocab, path=stored.path, **fields)


def meta_model(path: str | Path, layers: int, make: Callable[[], Network], prefix: str = "") -> Network:
    """Return a network of ``layers`` layers on the meta device, which has no weights yet.

    Raise a ValueError unless its tensors are those in the file whose names have the prefix, that of a resume file.
    """
    every = checkpoint_format.read_tensor_info(path, "resume" if prefix else KIND)
    tensor_info = {name.removeprefix(prefix): info for name, info in every.items() if name.startswith(prefix)}
    checkpoint_format.check_depth(layers, tensor_info)
    with torch.device("meta"):
        model = make()
    checkpoint_format.check_tensor_info(tensor_info, _shapes(model))
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
    """Return the tensors of a network that are stored: all but the parameters that are always zero (see cells.py)."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def set_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
    """Load a file's tensors into a network; a ValueError names one that is missing, foreign or of another shape."""
    tensor_info = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    checkpoint_format.check_tensor_info(tensor_info, _shapes(model))
    frozen = _frozen(model)
    zeros = {name: torch.zeros(p.shape) for name, p in model.state_dict().items() if name in frozen}
    model.load_state_dict({**tensors, **zeros}, assign=assign)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()}


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that are always zero."""
    return {f"{path}.{name}" for path, part in model.named_modules() for name in getattr(part, "FROZEN", ())}


def state_tensors(state: State) -> dict[str, Tensor]:
    """Return a hidden state as tensors by their names in files."""
    return {name: tensor.contiguous() for name, tensor in named_state(state).items()}


def state_from_tensors(tensors: Mapping[str, Tensor], like: State) -> State:
    """Return the hidden state of a file in the form of ``like``; a ValueError if it does not fit."""
    expected = state_tensors(like)
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("state.")}
    if found.keys() != expected.keys() or any(
        found[name].shape != tensor.shape or not found[name].is_floating_point() for name, tensor in expected.items()
    ):
        raise ValueError("its hidden state is that of another network")
    return state_of(found, like)


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata to a file that appears whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checkpoint_format.write(path, kind, metadata, partial(serialise, plain))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors of a file; see `charrnn.storage.checkpoint_format.read_metadata` for the errors."""
    return checkpoint_format.read(path, kind, "pt")
