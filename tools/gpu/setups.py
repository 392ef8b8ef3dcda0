"""Devices, networks and sizes of the checks, and the training steps and engines that they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from charrnn.cuda.backends import Backend
from charrnn.engines.cuda.engine import CudaEngine
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.training.recipe import RECIPES, Settings
from charrnn.training.step import GraphedStep, Step, make_optimizer

RATE = 11025  # Hz, of the sound whose samples are the symbols

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """Device and sizes. The tests rehearse the same code on a CPU with tiny networks."""

    device: str
    networks: dict[str, ModelConfig]
    steps: int = 50  # T of a batch
    seconds: float = 0.6  # of a measurement
    largest: int = 8192  # rows or streams
    block: int = 1024  # symbols per stream that a sampling engine returns at a time
    iterations: int = 400  # of a run by the command
    compared: int = 130  # symbols per stream
    graphs: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments for CUDA graphs

    @property
    def on_gpu(self) -> bool:
        """Whether this is not a rehearsal."""
        return self.device == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()


PREDICTION: dict[str, Any] = {"context": 31, "prediction": "lpc-long", "noise": 2.0}
NETWORKS = {
    "3x680": ModelConfig(256),
    "2x256": ModelConfig(256, 64, 256, 2),
    "2x256 with prediction": ModelConfig(256, 64, 256, 2, **PREDICTION),
}
GPU = Setup("cuda", NETWORKS)
Check = Callable[[Setup], Figures]  # the optional figure ``ok`` is whether the check passed
TINY = {
    "3x680": ModelConfig(9, 5, 6, 3),
    "2x256": ModelConfig(9, 5, 6, 2),
    "2x256 with prediction": ModelConfig(256, 5, 6, 2, **PREDICTION | {"prediction": "lpc"}),  # the smaller predictors
}
NO_GRAPHS = {"warm_up": lambda work: work(), "capture": lambda work: work}
REHEARSAL = Setup("cpu", TINY, 4, seconds=0.01, largest=3, block=2, iterations=4, compared=8, graphs=NO_GRAPHS)


def stepper(
    setup: Setup, network: str, rows: int, precision: str, backend: str, recipe: str = "torch-rnn", graphed: bool = True
) -> Step:
    """Return the training step of a new network."""
    shape = {"batch_size": min(rows, setup.largest), "seq_length": setup.steps}
    settings = Settings(**RECIPES[recipe] | shape, recipe=recipe, precision=precision, device=setup.device)
    model = build(dataclasses.replace(setup.networks[network], layer_norm=recipe == "modern"), seed=0).to(setup.device)
    installed = Backend(backend if setup.on_gpu else "torch")
    installed.install(model)
    optimizer = make_optimizer(model, settings)
    if graphed:
        return GraphedStep(model, optimizer, settings, **setup.graphs, backend=installed)
    return Step(model, optimizer, settings, backend=installed)


def batches(setup: Setup, rows: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of learnable symbols without end."""
    moves = np.random.default_rng(0).integers(0, 3, (rows, setup.steps * 16 + 1))
    ids = torch.from_numpy(np.cumsum(moves, axis=1) % vocab_size).to(setup.device)
    while True:
        for start in range(0, ids.shape[1] - 1, setup.steps):
            yield ids[:, start : start + setup.steps], ids[:, start + 1 : start + setup.steps + 1]


def engine(setup: Setup, sampler: str, precision: str, streams: int, model: Any) -> CudaEngine:
    """Return an engine of a network; ``eager`` is plain torch without a graph."""
    graphs, backend = (NO_GRAPHS, "torch") if sampler == "eager" else (setup.graphs, sampler)
    return CudaEngine(model, streams, precision, backend, device=setup.device, **graphs)
