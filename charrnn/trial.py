"""A way of computing the recurrent layers (`charrnn.gpu_layers`), tried: how long it takes, and whether it is right.

A copy of the network and its optimiser is trained on one batch with the state carried, and thrown away. The rate is
zero: Adam does all its work, and the weights stay, so that ways can be compared by their gradients. Without dropout, as
blocks draw other numbers. So the network's weights and the random numbers are as they were.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from charrnn import gpu_layers, graphs
from charrnn.graphs import Work
from charrnn.model import Layers
from charrnn.recipe import Settings
from charrnn.step import WARM_UP, GraphedStep, Step, failed, make_optimizer

COMPARED = WARM_UP + 1  # iterations, the last of which is the first that was recorded
ROUNDS = 3  # that are timed of a way, the best of which counts: a GPU's clock rises with its work
MOST_ITERATIONS = 10  # of a round
SECONDS = 0.1  # that a round takes, if an iteration is not longer

TOLERANCE = {"bf16": 0.1, "fp32": 0.025}
"""How far a way's gradient of a parameter may be from the exact one, by the length of their difference and of that
one, where torch's own is nearer than half of it. On a CPU, torch's in bf16 are 0.01 to 0.06 from those in fp32, with 3
layers and 50 to 256 steps; but a bias whose gradient it sums in bf16 was 0.4 away. In fp32 a GPU multiplies in TF32,
which is four times finer than bf16. A step that is missed, or a gate that is wrong, is further away."""

AS_TORCH = 2.0  # how many times torch's own error is allowed, where that is more
LOSS_SHARE = 0.1  # of all this for the loss, relative to it or to 1: in a mean over all symbols rounding averages out
LEAST_PART = 1e-3  # of the whole gradient's length, below which a parameter's share is measured against it: noise

FAILED = "its programs waited for each other in vain"
NOT_FINITE = "its loss or gradient is not finite"

Batch = tuple[Tensor, Tensor]  # x (N, ·) and y (N, T), on the device
MakeStep = Callable[[Layers, torch.optim.Optimizer, Settings], Step]
Clock = Callable[[], float]  # seconds, once the device has done all that it was given


@dataclass
class Trial:
    """What came of a way.

    Attributes
    ----------
    outcomes
        (iterations, 2), of which the first `COMPARED` are compared.
    gradients
        Of the last of these, a tensor for each parameter.
    seconds
        An iteration took.
    failed
        Whether the device says that it could not do the work.
    """

    outcomes: Tensor
    gradients: list[Tensor]
    seconds: float = math.inf
    failed: bool = False


class _RecordedStep(GraphedStep):
    """One that does not go on in another way where it cannot be recorded."""

    def _recorded(self) -> Work:
        return self._record(self._in_place)


def step_of_the_run(model: Layers, optimizer: torch.optim.Optimizer, settings: Settings) -> Step:
    """The step that one process takes on a GPU."""
    return (_RecordedStep if graphs.wanted(settings.device) else Step)(model, optimizer, settings)


def clock() -> float:
    """Seconds, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


class Copy:
    """A copy of a network that learns in a way."""

    def __init__(self, way: str, model: Layers, batch: Batch, settings: Settings, make_step: MakeStep) -> None:
        self.model = copy.deepcopy(model)
        self.model.to(next(model.parameters()).device)  # has cuDNN's weights lie end to end again
        self.model.train()
        self.model.dropout.p = 0.0
        gpu_layers.set_way(self.model, way)
        self.step = make_step(self.model, make_optimizer(self.model, settings), settings)
        self.batch, self.state = batch, self.model.initial_state(len(batch[0]))
        self.outcomes: list[Tensor] = []

    def learn(self, count: int) -> None:
        """So many iterations."""
        for _ in range(count):
            outcome, self.state = self.step(*self.batch, self.state, 0.0)
            self.outcomes.append(outcome)

    def gradients(self) -> list[Tensor]:
        """Those of the last iteration, as Adam leaves them: limited, and without the loss's scale."""
        return [p.grad.clone() for p in self.step.parameters if p.grad is not None]

    def failed(self) -> bool:
        """Whether the device says that it could not do the work, which it then forgets: the run would find it."""
        found = failed(self.model)
        if self.model.failures is not None:
            self.model.failures(next(self.model.parameters()).device).zero_()
        return found


def measure(
    way: str,
    model: Layers,
    batch: Batch,
    settings: Settings,
    make_step: MakeStep = step_of_the_run,
    clock: Clock = clock,
) -> Trial:
    """Try a way, and time it. Whatever is raised there is raised."""
    tried = Copy(way, model, batch, settings, make_step)

    def seconds(count: int) -> float:
        began = clock()
        tried.learn(count)
        return (clock() - began) / count

    try:
        tried.learn(1)
        if failed(tried.model):  # each further iteration would take as long
            return Trial(torch.stack(tried.outcomes), tried.gradients(), failed=True)
        tried.learn(COMPARED - 1)
        gradients = tried.gradients()
        count = int(max(1, min(MOST_ITERATIONS, SECONDS / max(seconds(1), 1e-9))))
        took = min(seconds(count) for _ in range(ROUNDS))
    finally:
        gave_up = tried.failed()
    return Trial(torch.stack(tried.outcomes), gradients, took, gave_up)


def attempt(way: str, model: Layers, batch: Batch, settings: Settings) -> None:
    """Take one step in a way.

    Raises
    ------
    RuntimeError
        Its numbers are not finite, or the device says that it could not; or whatever else is raised there.
    """
    tried = Copy(way, model, batch, settings, Step)
    try:
        tried.learn(1)
    finally:
        gave_up = tried.failed()
    if gave_up or not tried.outcomes[0].isfinite().all():
        raise RuntimeError(FAILED if gave_up else NOT_FINITE)


def exact(model: Layers, batch: Batch, settings: Settings) -> Trial:
    """What the ways are to come to: torch's in fp32, and not in TF32."""
    tried = Copy("torch", model, batch, replace(settings, precision="fp32"), Step)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        tried.learn(COMPARED)
    return Trial(torch.stack(tried.outcomes), tried.gradients())


def difference(trial: Trial, torchs: Trial, wanted: Trial, settings: Settings) -> str:
    """What is wrong with the numbers of a way, given torch's and the exact ones; "" if nothing."""
    if trial.failed:
        return FAILED
    if not trial.outcomes.isfinite().all():
        return NOT_FINITE
    found = _errors(trial, wanted)
    allowed = (AS_TORCH * _errors(torchs, wanted)).clamp(min=TOLERANCE[settings.precision])
    wrong = [number for number, right in enumerate((found <= allowed).tolist()) if not right]
    if not wrong:
        return ""
    what, share = ("loss", LOSS_SHARE) if wrong[0] == 0 else ("gradient", 1.0)
    error, most = (share * float(errors[wrong[0]]) for errors in (found, allowed))
    return f"its {what} is {error:.2g} away from the exact one, and rounding explains {most:.2g}"


def _errors(trial: Trial, wanted: Trial) -> Tensor:
    """Relative errors, (2 + parameters,): of the loss, by its share; of the gradient's norm; of each gradient."""
    (losses, norms), (its_losses, its_norms) = wanted.outcomes[:COMPARED].T, trial.outcomes[:COMPARED].T
    tiny = torch.finfo().tiny
    loss = ((its_losses - losses).abs() / losses.abs().clamp(min=1)).max() / LOSS_SHARE
    norm = ((its_norms - norms).abs() / norms.clamp(min=tiny)).max()
    least = LEAST_PART * torch.nn.utils.get_total_norm(wanted.gradients).clamp(min=tiny)
    each = [
        (mine - theirs).norm() / torch.maximum(theirs.norm(), least)
        for mine, theirs in zip(trial.gradients, wanted.gradients, strict=True)
    ]
    return torch.stack([loss, norm, *each]).float()
