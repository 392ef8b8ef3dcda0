"""The training state of a run, and its file: weights, their average, Adam's moments, states of rows and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bytecodec.errors import InputError
from charrnn.models.char_rnn import Layers, State
from charrnn.models.config import check_finite, map_state
from charrnn.storage import checkpoint as files
from charrnn.training.ema import EMA

if TYPE_CHECKING:
    from charrnn.training.own_sound import OwnSound

KIND = "resume"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # torch's names of Adam's state of a parameter
OWN_SOUND = "own."  # before the names of the own sound's state
COUNTS = ("iteration", "position", "checkpointed")


@dataclass
class TrainState:
    """The position of a run and the states of its rows: of this process, or in the resume file of all processes."""

    hidden: State
    own_sound: State = ()  # of `charrnn.training.own_sound.OwnSound`
    iteration: int = 0
    position: int = 0  # symbols of each row that have been read, over all epochs
    seconds: float = 0.0  # of training, without pauses
    checkpointed: int = 0  # iteration of the last complete checkpoint; val.csv may have a row of a later one


def save(path: Path, model: Layers, optimizer: torch.optim.Optimizer, ema: EMA | None, state: TrainState) -> None:
    """Write the resume file, whole or not at all, with the states of the rows of all processes."""
    tensors = {f"model.{name}": tensor for name, tensor in files.model_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for moment, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{moment}.{name}"] = tensor
    if ema:
        tensors |= {f"average.{name}": tensor for name, tensor in ema.tensors.items()}
    tensors |= files.state_tensors(state.hidden)
    tensors |= {f"{OWN_SOUND}{name}": tensor for name, tensor in files.state_tensors(state.own_sound).items()}
    files.write_tensors(path, KIND, tensors, {name: getattr(state, name) for name in (*COUNTS, "seconds")})


def load(
    path: Path,
    model: Layers,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    own_sound: OwnSound | None,
    rows: int,
    local_rows: slice,
) -> TrainState:
    """Read a resume file into network, optimizer and average; return the state.

    Of the file's rows, the slice ``local_rows`` is that of this process. Raise InputError if the file is damaged or
    belongs to another run.
    """
    metadata, tensors = files.read_tensors(path, KIND)
    try:
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        check_finite(weights, path)
        files.set_model_tensors(model, weights)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                optimizer.state[parameter] = _moments(tensors, name, parameter)
                if ema:
                    ema.tensors[name].copy_(_check_tensor(tensors, f"average.{name}", parameter))
        hidden = files.state_from_tensors(tensors, model.initial_state(rows, training=True))
        model.check_state(hidden)
        own = {name.removeprefix(OWN_SOUND): t for name, t in tensors.items() if name.startswith(OWN_SOUND)}
        streams = files.state_from_tensors(own, own_sound.initial_state(rows) if own_sound else ())
        if own_sound:
            own_sound.check_state(streams)
        device = next(model.parameters()).device
        return TrainState(
            map_state(lambda tensor: tensor[local_rows].to(device), hidden),
            map_state(lambda tensor: tensor[local_rows].to(device), streams),
            **{name: metadata[name] for name in (*COUNTS, "seconds")},
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not belong to this run: {error}.") from None


def _moments(tensors: Mapping[str, Tensor], name: str, parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of a parameter, which is empty before the first iteration."""
    moments = {}
    for moment in MOMENTS:
        key = f"adam.{moment}.{name}"
        if key in tensors:
            like = parameter if moment != "step" else torch.zeros(())
            moments[moment] = _check_tensor(tensors, key, like).to(parameter.device, copy=True)
    return moments


def _check_tensor(tensors: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    """Return a tensor of the file; raise ValueError if its shape is not that of another one."""
    if tensors[key].shape != like.shape:
        raise ValueError(f"{key} is {tuple(tensors[key].shape)}, and must be {tuple(like.shape)}")
    return tensors[key]
