"""Where the checks of tools/gpu_check.py run, and what several of them are made of."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from charrnn import graphs
from charrnn.config import ModelConfig
from charrnn.engines.cuda import WAYS, CudaEngine
from charrnn.gpu_layers import set_way
from charrnn.graphs import Work
from charrnn.model import CharRNN, build
from charrnn.recipe import Settings
from charrnn.step import GraphedStep, Step, make_optimizer

# What is expected to be fastest first, and last what may hang: see `charrnn.fastest`.
TRAINING_WAYS = ("kernel-overlapped", "kernel", "overlapped", "padded", "torch", "padded-overlapped")
ENGINE_WAYS = tuple(way for way in reversed(WAYS) if way != "auto")  # likewise
WARM_UP, REPEATS = 5, 5


def recorded(work: Work) -> Work:
    """A CUDA graph, or an error that training does not take for a reason to go on without one: that would be timed."""
    try:
        return graphs.recorded(work)
    except RuntimeError as error:
        raise NotRecordedError(f"no CUDA graph: {error}") from error


class NotRecordedError(Exception):
    """Work could not be recorded as a CUDA graph."""


@dataclasses.dataclass
class Scene:
    """Where the checks run, and how large their networks are."""

    device: str
    config: ModelConfig
    rows: int = 50
    steps: int = 50
    seconds: float = 2.0  # of a measurement
    iterations: int = 20  # of a comparison
    block: int = 1024  # symbols of a stream that are asked for at a time
    aside: Callable[[Work], None] = graphs.aside
    record: Callable[[Work], Work] = recorded
    most: int = 8192  # rows or streams
    train_flags: str = "--max-minutes 0.33"
    engine: str = "cuda"  # of charrnn-sample
    sound: int = 55125  # samples that it makes

    @property
    def options(self) -> dict[str, Any]:
        """What has work recorded."""
        return {"aside": self.aside, "record": self.record}

    def settings(self, precision: str, rows: int = 0, clip: str = "value") -> Settings:
        """Of the run of 2016, on this device."""
        limits: dict[str, Any] = {"clip": clip, "grad_clip": 5.0 if clip == "value" else 1.0}
        shape: dict[str, Any] = {"batch_size": rows or self.rows, "seq_length": self.steps}
        return Settings(**shape, **limits, precision=precision, device=self.device)

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device == "cuda":
            torch.cuda.synchronize()


REHEARSAL = Scene(
    "cpu",
    ModelConfig(9, 5, 6, 2),
    rows=3,
    steps=4,
    seconds=0.01,
    iterations=4,
    block=8,
    aside=lambda work: work(),
    record=lambda work: work,
    most=8,
    train_flags="--rnn-size 6 --layers 1 --max-iterations 3",
    engine="eager",
    sound=500,
)


def stepper(
    scene: Scene, precision: str, graphed: bool = True, way: str = "torch", rows: int = 0, **changes: Any
) -> Step:
    """A network and its way to learn."""
    clip = changes.pop("clip", "value")
    model = build(dataclasses.replace(scene.config, **changes), seed=0).to(scene.device)
    set_way(model, way)
    settings = scene.settings(precision, rows, clip)
    optimizer = make_optimizer(model, settings)
    return GraphedStep(model, optimizer, settings, **scene.options) if graphed else Step(model, optimizer, settings)


def batches(scene: Scene, rows: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Symbols in an order that can be learnt, without end."""
    random = np.random.default_rng(0)
    shape = (rows or scene.rows, scene.steps * 64 + 1)
    ids = np.cumsum(random.integers(0, 3, shape), axis=1) % scene.config.vocab_size
    there = torch.from_numpy(ids).to(scene.device)
    while True:
        for start in range(0, shape[1] - 1, scene.steps):
            yield there[:, start : start + scene.steps], there[:, start + 1 : start + scene.steps + 1]


def losses(scene: Scene, step: Step, rows: int = 0) -> list[float]:
    """Of some iterations with the state carried."""
    state, outcomes, source = step.model.initial_state(rows or scene.rows), [], batches(scene, rows)
    for i in range(scene.iterations):
        torch.manual_seed(i)
        outcome, state = step(*next(source), state, 2e-3)
        outcomes.append(outcome)
    return [float(loss) for loss, _ in torch.stack(outcomes).tolist()]


def engine(scene: Scene, model: CharRNN, way: str, precision: str, streams: int) -> CudaEngine:
    """The engine on the device."""
    return CudaEngine(model, streams, precision, way, device=scene.device, **scene.options)


def timed(scene: Scene, work: Callable[[], Any]) -> list[float]:
    """Seconds that something takes, sorted, of several repeats of many, waiting for the device at the end of each."""
    for _ in range(WARM_UP if scene.device == "cuda" else 1):
        work()
    scene.wait()
    began = time.perf_counter()
    work()
    scene.wait()
    count = max(1, round(scene.seconds / REPEATS / (time.perf_counter() - began)))
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(count):
            work()
        scene.wait()
        found.append((time.perf_counter() - began) / count)
    return sorted(found)


def spread(unit: str, values: Sequence[float]) -> dict[str, float]:
    """The median, and the lowest and the highest."""
    return {unit: statistics.median(values), f"lowest {unit}": min(values), f"highest {unit}": max(values)}
