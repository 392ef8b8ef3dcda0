"""The resume file: weights, their average, Adam's moments, the hidden state and the position in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bytecodec.errors import InputError
from charrnn.models.char_rnn import Layers, State
from charrnn.storage import checkpoint as files
from charrnn.training.ema import EMA

KIND = "resume"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # torch's names of what Adam keeps of a parameter
COUNTS = ("iteration", "position", "checkpointed")


@dataclass
class Place:
    """Where a run is."""

    state: State  # of this process's rows
    iteration: int = 0
    position: int = 0  # symbols of each row that have been read, over all epochs
    seconds: float = 0.0  # of training, pauses left out
    checkpointed: int = 0  # iteration of the last complete checkpoint; val.csv may have a row of a later one


def save(
    path: Path, model: Layers, optimizer: torch.optim.Optimizer, average: EMA | None, place: Place, state: State
) -> None:
    """Write the file, whole or not at all.

    Parameters
    ----------
    state
        The hidden state of all rows, in place of the place's own.
    """
    tensors = {f"model.{name}": tensor for name, tensor in files.model_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for moment, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{moment}.{name}"] = tensor
    if average:
        tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    tensors |= files.state_tensors(state)
    facts = {name: getattr(place, name) for name in (*COUNTS, "seconds")}
    files.write_tensors(path, KIND, tensors, facts)


def load(
    path: Path, model: Layers, optimizer: torch.optim.Optimizer, average: EMA | None, rows: int, own: slice
) -> Place:
    """Put what a file holds into network, optimiser and average; returns the place.

    Parameters
    ----------
    rows, own
        How many rows the file has a hidden state of, and which of them are this process's.

    Raises
    ------
    InputError
        The file is damaged, or belongs to another run.
    """
    facts, tensors = files.read_tensors(path, KIND)
    try:
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        files.set_model_tensors(model, weights)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                optimizer.state[parameter] = _moments(tensors, name, parameter)
                if average:
                    average.tensors[name].copy_(_like(parameter, tensors, f"average.{name}"))
        state = files.state_from_tensors(tensors, model.initial_state(rows))
        device = next(model.parameters()).device
        return Place(
            tuple(tuple(tensor[own].to(device) for tensor in layer) for layer in state),
            **{name: facts[name] for name in (*COUNTS, "seconds")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not belong to this run: {error}.") from None


def _moments(tensors: Mapping[str, Tensor], name: str, parameter: Tensor) -> dict[str, Tensor]:
    """What Adam kept of a parameter: nothing before the first iteration."""
    moments = {}
    for moment in MOMENTS:
        key = f"adam.{moment}.{name}"
        if key in tensors:
            like = parameter if moment != "step" else torch.zeros(())
            moments[moment] = _like(like, tensors, key).to(parameter.device, copy=True)
    return moments


def _like(tensor: Tensor, tensors: Mapping[str, Tensor], key: str) -> Tensor:
    """A tensor of the file, if it has the other one's shape; a ValueError where it has not."""
    if tensors[key].shape != tensor.shape:
        raise ValueError(f"{key} is {tuple(tensors[key].shape)}, and has to be {tuple(tensor.shape)}")
    return tensors[key]
